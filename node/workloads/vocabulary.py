"""A model's tokenizer and chat template: transformers', from the model's own files.

Templates are Jinja and come with a model: transformers runs them in Jinja's sandbox, which reaches no files.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from node.models import CachedModel, ModelError
from node.workloads import BadInput

_LETTERS: Mapping[str, int] = {letter: byte for byte, letter in bytes_to_unicode().items()}
"""The letters by which byte-level tokenizers (GPT-2's way) write the 256 bytes."""

_BYTE = re.compile("<0x([0-9A-F]{2})>")
"""How SentencePiece's way writes a byte that is no token's."""

_REFUSALS = (TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""What a template raises over messages that it does not take."""


class Vocabulary:
    """One tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a fast one of transformers."""
        self._tokenizer = tokenizer
        decoder = tokenizer.decoder  # None, where tokens are only to be joined
        told = json.loads(decoder.__getstate__()) if decoder is not None else {}
        self._decoders = {each.get("type") for each in (told, *told.get("decoders", ()))}

    def encode(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """The tokens of each text, with the marks that the model expects, at most so many."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=longest,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of messages, up to where the answer begins. Raises BadInput when the template refuses them."""
        try:
            text = self._render(messages)
        except _REFUSALS as error:
            raise BadInput(f"the model's chat template refuses these messages: {error}") from None
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return ids

    def raw(self, text: str) -> list[int]:
        """The tokens of a text to go on from, with the marks that the tokenizer puts around any."""
        ids: list[int] = self._tokenizer(text, return_attention_mask=False)["input_ids"]
        return ids

    def require_known(self, ids: Sequence[int], size: int) -> None:
        """Raises BadInput when a network for so many tokens does not know all of these: some tokenizers have marks
        that it was not made for, and numbers may come from somebody else's."""
        if min(ids, default=0) >= 0 and max(ids, default=0) < size:
            return
        unknown = next(token for token in ids if not 0 <= token < size)
        if 0 <= unknown < len(self._tokenizer):
            mark = self._tokenizer.convert_ids_to_tokens(unknown)
            raise BadInput(f"the text holds {mark!r}, for which the model has no token; leave it out")
        raise BadInput(f"the model has no token {unknown}, only 0 to {size - 1}; use numbers of its own vocabulary")

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without marks."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def entry(self, token: int) -> dict[str, Any]:
        """A token as OpenAI's log-probabilities name it: its text, and its bytes, since it may be half a
        character."""
        told = self._bytes(self._tokenizer.convert_ids_to_tokens(token) or "")
        if told is None:
            told = self._tokenizer.decode([token], clean_up_tokenization_spaces=False).encode()
        return {"token": told.decode(errors="replace"), "bytes": list(told)}

    def require_template(self, name: str) -> None:
        """Raises ModelError unless the model, of this name, has a chat template that can be read."""
        template = self._tokenizer.chat_template
        if not (template.get("default") if isinstance(template, dict) else template):
            raise ModelError(f"{name} has no chat template: a chat model brings one in tokenizer_config.json")
        try:
            self._render([{"role": "user", "content": "Why?"}])
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template of {name} cannot be read: {error}") from None
        except _REFUSALS:
            pass  # it may want other messages

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        text: str = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return text

    def _bytes(self, piece: str) -> bytes | None:
        """The bytes that a piece of the vocabulary stands for, where its way of writing says it."""
        if "ByteLevel" in self._decoders and all(letter in _LETTERS for letter in piece):
            return bytes(_LETTERS[letter] for letter in piece)
        if "ByteFallback" in self._decoders:
            byte = _BYTE.fullmatch(piece)
            return bytes.fromhex(byte[1]) if byte else piece.replace("\u2581", " ").encode()
        return None


@cache
def vocabulary_of(model: CachedModel) -> Vocabulary:
    """The tokenizer among a model's files, read once in a process. Raises ModelError when it cannot be read.

    Reading one holds the interpreter, 0.2 s for `smollm2`: no other thread runs, and an owner's stop waits. So a
    model that leaves the memory and comes back finds its tokenizer, which is small beside it, where it was.
    """
    try:
        # This class takes tokenizer.json as it is; those of single models, which its other files may name, do not.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(model.directory, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing narrower
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"the tokenizer of {model.name} cannot be read: {said}") from None
    return Vocabulary(tokenizer)
