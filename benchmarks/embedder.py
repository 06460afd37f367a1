"""Sentence embeddings with plain torch, as one writes them without Carpool: what the fleet is compared with.

Strong on purpose: fast tokeniser, sorted by length, no mask where there is no padding, inference mode.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModel
from transformers.utils import logging

from coordinator.answers import AnswerLines
from coordinator.formats import Batch
from node.workloads.vectors import write  # without counts of tokens: nobody asks them of plain torch

MAX_TOKENS = 256


class Embedder:
    """A BERT encoder with mean pooling from a folder in Hugging Face layout, in this process."""

    def __init__(self, directory: Path, device: str, dtype: str, threads: int) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
        logging.disable_progress_bar()
        self._device = torch.device(device)
        numbers = torch.float32 if dtype == "fp32" else torch.bfloat16
        model = AutoModel.from_pretrained(
            directory, dtype=numbers, attn_implementation="sdpa", local_files_only=True
        )
        self._encoder = model.eval().to(self._device)
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(min(MAX_TOKENS, model.config.max_position_embeddings))
        self.embed(["One sentence to warm up.", "And another."], 2)

    def embed(self, texts: Sequence[str], batch_items: int) -> list[NDArray[np.float32]]:
        """A unit vector [D] for each text, computed in batches of so many neighbours in length."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        vectors: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tokens)
        for first in range(0, len(order), batch_items):
            batch = order[first : first + batch_items]
            for index, vector in zip(batch, self._forward([tokens[index] for index in batch]), strict=True):
                vectors[index] = vector
        return vectors

    @torch.inference_mode()
    def _forward(self, rows: Sequence[list[int]]) -> NDArray[np.float32]:
        longest = len(rows[0])
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self._device)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        mask = torch.arange(longest, device=self._device) < lengths[:, None]
        padded = len(rows[-1]) < longest
        hidden = self._encoder(tokens, attention_mask=mask if padded else None).last_hidden_state.float()
        pooled = (hidden * mask[..., None]).sum(1) / lengths[:, None]
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled).cpu().numpy()
        return vectors


def output_lines(numbers: Sequence[int], vectors: Sequence[NDArray[np.float32]], model: str) -> str:
    """Lines of an output file as `carpool run` writes it, for these lines (from 1) of the input."""
    batch = Batch.of([(f"line-{number}", (b"",)) for number in numbers])
    lines = AnswerLines(batch, "plain", model, "embed", 0)
    return "".join(line.text for line in lines.take([write(vector, 0) for vector in vectors], {}, 0))
