"""Embed: UTF-8 text, or the numbers of its tokens, in; a unit vector of float32 out, see `vectors`.

Text beyond the model's longest input (256 tokens for `minilm`) does not count, as with sentence-transformers. Token
numbers are read as they are: the marks that the model expects are the sender's to put there.
"""

import time
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from node.models import CachedModel, ModelError
from node.roofline import Cost, Phase
from node.workloads import BadInput, Control, Outcome, vectors
from node.workloads.arrays import array_of, described, is_array
from node.workloads.device import Guard, device_named, dtype_named, on_device
from node.workloads.encoder import Encoder, load_encoder
from node.workloads.sizes import encoding
from node.workloads.vocabulary import Vocabulary, vocabulary_of
from node.workloads.weights import config_of

BATCH_TOKENS = {"cpu": 512, "cuda": 32_768}
"""Tokens of one micro-batch, at most, or one text. Measured on one core for `minilm`: 512 is as fast as any, and
twice as many stop half as fast; the GPU's is assumed."""

_CHUNK_BYTES = 32 << 10
"""Text tokenised between two looks at the control. Measured: 15 to 30 ms."""

_ORDINARY = (
    b"The owner may come back at any moment, and whatever the car was computing then ends at once, unfinished."
)


class Embed:
    """An encoder with its pooling."""

    kind = "embed"
    computes = True
    input_shape: tuple[int, ...] = ()

    def __init__(
        self, encoder: Encoder, vocabulary: Vocabulary, longest: int, pooling: str, device: torch.device
    ) -> None:
        self._encoder = encoder
        self._vocabulary = vocabulary
        self.context_tokens = longest  # of a text that count
        self.output_shape = (encoder.sizes.width,)
        self._pooling = pooling
        self._device = device
        self._guard = Guard(encoder.module, device)
        self._batch_tokens = BATCH_TOKENS[device.type]
        self.batch_items = self._batch_tokens // 32  # an ordinary sentence is 20 to 40 tokens

    def prepare(self, inputs: Sequence[bytes], control: Control) -> Sequence[list[int] | BadInput]:
        """Token ids of each text, or array."""
        prepared: list[list[int] | BadInput] = []
        texts: list[str] = []
        places: list[int] = []
        pending = 0
        for place, payload in enumerate(inputs):
            try:
                if is_array(payload):
                    prepared.append(self._known(self._given(payload)))
                else:
                    texts.append(payload.decode())
                    places.append(place)
                    prepared.append([])
            except BadInput as bad:
                prepared.append(bad)
            except UnicodeDecodeError as error:
                byte = f"0x{payload[error.start]:02x} at byte {error.start}"
                prepared.append(BadInput(f"the text is not UTF-8: {byte}"))
            pending += len(payload)
            if pending >= _CHUNK_BYTES or place == len(inputs) - 1:
                control.check()
                encoded = self._vocabulary.encode(texts, self.context_tokens)
                for text_place, ids in zip(places, encoded, strict=True):
                    prepared[text_place] = self._known(ids)
                texts, places, pending = [], [], 0
        return prepared

    def _given(self, payload: bytes) -> list[int]:
        """The token ids in an array, as many as count. Raises BadInput."""
        array = array_of(payload)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise BadInput(f"the array is {described(array)}; token numbers are integers [T]")
        ids: list[int] = array[: self.context_tokens].tolist()
        return ids

    def _known(self, ids: list[int]) -> list[int] | BadInput:
        try:
            self._vocabulary.require_known(ids, self._encoder.sizes.vocabulary)
        except BadInput as bad:
            return bad
        return ids

    def plan(self, prepared: Sequence[list[int]]) -> list[list[int]]:
        """By length, so that texts of one length meet, and in parts of nearly one size."""
        lengths = [len(ids) for ids in prepared]
        parts = -(-sum(lengths) // self._batch_tokens)
        fair = -(-sum(lengths) // max(parts, 1))
        batches: list[list[int]] = []
        filled = self._batch_tokens
        for index in sorted(range(len(prepared)), key=lengths.__getitem__, reverse=True):
            if filled >= fair or filled + lengths[index] > self._batch_tokens:
                batches.append([])
                filled = 0
            batches[-1].append(index)
            filled += lengths[index]
        return batches

    def run(self, prepared: Sequence[list[int]], control: Control) -> Sequence[bytes]:
        """One forward pass. Texts of one length are best side by side."""
        lengths = [len(ids) for ids in prepared]
        runs = [(len(list(same)), length) for length, same in groupby(lengths)]
        with self._guard.running(control):
            ids = on_device(torch.tensor([token for ids in prepared for token in ids]), self._device)
            places = on_device(torch.tensor([place for length in lengths for place in range(length)]), self._device)
            hidden = self._encoder(ids, places, runs).float()
            pooled = pool(hidden, runs) if self._pooling == "mean" else first(hidden, runs)
            rows = functional.normalize(pooled).cpu().numpy().astype("<f4", copy=False)
        return [vectors.write(row, length) for row, length in zip(rows, lengths, strict=True)]

    def cost(self, prepared: Sequence[list[int]], outcomes: Sequence[Outcome]) -> Cost:
        """One pass over all tokens."""
        lengths = [len(ids) for ids in prepared]
        passed = {Phase.ENCODE: encoding(self._encoder.sizes, lengths)}
        return Cost(self._encoder.parameters, 0.0, len(lengths), {Phase.ENCODE: sum(lengths)}, passed)

    def ordinary_cost(self) -> Cost:
        """Of sentences of some 25 tokens."""
        prepared = self.prepare([_ORDINARY] * self.batch_items, Control())
        return self.cost([item for item in prepared if not isinstance(item, BadInput)], ())

    def items_per_s(self) -> float:
        """Speed on sentences of some 25 tokens."""
        prepared = self.prepare([_ORDINARY] * self.batch_items, Control())
        batch = [item for item in prepared if not isinstance(item, BadInput)]
        self.run(batch, Control())
        began_s = time.perf_counter()
        rounds = 0
        while rounds < 3 or time.perf_counter() - began_s < 0.2:
            self.run(batch, Control())
            rounds += 1
        return rounds * len(batch) / (time.perf_counter() - began_s)


def pool(hidden: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """Mean over the tokens of each text: hidden [T, D] in runs (texts, tokens of each) -> [B, D]."""
    parts = hidden.split([texts * tokens for texts, tokens in runs])
    return torch.cat([part.view(*run, -1).mean(1) for part, run in zip(parts, runs, strict=True)])


def first(hidden: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """The first token of each text: hidden [T, D] in runs (texts, tokens of each) -> [B, D]."""
    parts = hidden.split([texts * tokens for texts, tokens in runs])
    return torch.cat([part.view(*run, -1)[:, 0] for part, run in zip(parts, runs, strict=True)])


def load(model: CachedModel, device: str, dtype: str) -> Embed:
    """Load an embedding model. Raises ModelError."""
    place = device_named(device)
    encoder = load_encoder(model, dtype_named(dtype, place, model), place)
    wanted = config_of(model, "sentence_bert_config.json").get("max_seq_length") or encoder.longest
    return Embed(encoder, vocabulary_of(model), min(encoder.longest, wanted), _pooling(model), place)


def _pooling(model: CachedModel) -> str:
    """ "mean" or "cls", as sentence-transformers' pooling file says; mean without one."""
    config = config_of(model, "1_Pooling/config.json") or {"pooling_mode_mean_tokens": True}
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    chosen = [mode.removeprefix("pooling_mode_") for mode in modes]
    if chosen == ["mean_tokens"]:
        return "mean"
    if chosen == ["cls_token"]:
        return "cls"
    named = " and ".join(chosen) or "nothing"
    raise ModelError(f"{model.name} pools by {named}; mean_tokens and cls_token are known")
