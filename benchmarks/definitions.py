"""Our definition of Llama beside transformers', with the same memory and the same steps: what a definition costs.

Rows in the middle of their answers take one step, by either definition in turns.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, LlamaForCausalLM
from transformers.utils import logging

from benchmarks.figures import Figure, ratio
from node.models import ModelCache
from node.workloads.device import use_threads
from node.workloads.llama import Llama, LlamaShape
from node.workloads.memory import Memory, Part, Pass
from node.workloads.weights import config_of, load_network

ROWS = (1, 8, 32)
STEPS = 10  # of which the fastest counts, in each repetition
POSITIONS = 256  # of each row


def compare(cache: ModelCache, dtype: str, threads: int, repeats: int, tell: Callable[[str], None]) -> list[Figure]:
    """Tokens a second of each, and their ratio."""
    use_threads(threads)
    logging.disable_progress_bar()
    model, numbers = cache.get("smollm2"), torch.float32 if dtype == "fp32" else torch.bfloat16
    shape = LlamaShape.of(config_of(model))
    own = load_network(lambda: Llama(shape), model, numbers, torch.device("cpu"))
    AttentionInterface.register("memory", _attend)
    other = LlamaForCausalLM.from_pretrained(
        model.directory, dtype=numbers, attn_implementation="memory", local_files_only=True
    ).eval()

    def by_transformers(memory: Memory, step: Pass) -> Tensor:
        told = other.model(
            input_ids=step.ids[None], position_ids=step.positions[None], use_cache=False, memory=memory, step=step
        )
        logits: Tensor = other.lm_head(told.last_hidden_state[0][step.judged]).float()
        return logits

    definitions: tuple[Callable[[Memory, Pass], Tensor], ...] = (own, by_transformers)
    memory = own.memory(max(ROWS) * POSITIONS)
    group = shape.num_attention_heads // shape.num_key_value_heads
    figures: list[Figure] = []
    for rows in ROWS:
        rates: tuple[list[float], list[float]] = ([], [])
        for turn in range(repeats):
            tell(f"definitions at {rows} rows: {turn + 1} of {repeats}")
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(STEPS):
                for taken, run in zip(times, definitions, strict=True):
                    parts = [Part(row * POSITIONS, 60 + row * 37 % 190, [row + 5], 1) for row in range(rows)]
                    with torch.inference_mode():
                        began_s = time.perf_counter()
                        run(
                            memory,
                            Pass(parts, group, memory.device),
                        )
                        taken.append(time.perf_counter() - began_s)
            for rate, taken in zip(rates, times, strict=True):
                rate.append(rows / min(taken))
        figures.append(Figure(f"{rows} rows a step: our definition", "tokens/s", rates[0]))
        figures.append(Figure(f"{rows} rows a step: transformers' definition", "tokens/s", rates[1]))
        figures.append(ratio(f"{rows} rows a step: ours by theirs", *rates))
    return figures


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    memory: Memory,
    step: Pass,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention over our memory: each [1, heads, T, D] -> [1, T, W]"""
    query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))
    return memory.attend(module.layer_idx, query, key, value, step)[None], None
