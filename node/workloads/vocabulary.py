"""A tokenizer's tokens as text and as bytes."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level tokenizers (GPT-2's way) write the 256 bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_letters()


class Vocabulary:
    """One tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._in_letters = isinstance(tokenizer.decoder, ByteLevel)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text that has its marks already."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without marks."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def entry(self, token: int) -> dict[str, Any]:
        """A token as OpenAI's log-probabilities name it: its text, and its bytes, since it may be half a
        character."""
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        piece = self._tokenizer.id_to_token(token) or ""
        if self._in_letters and all(letter in _BYTES for letter in piece):
            return {"token": text, "bytes": [_BYTES[letter] for letter in piece]}
        return {"token": text, "bytes": list(text.encode())}
