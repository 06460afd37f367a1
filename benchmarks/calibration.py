"""A machine's own curves for the roofline: matrix product and memory copy, one thread, and nothing else."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from node.roofline import Curve, Machine

WIDTH = 768  # of the weights in the products, assumed: between the widths of the models' layers
WEIGHTS = 32  # taken in turn, 75 MB: like a model's they are in no cache when their turn comes
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
COPIED_KIB = (16, 64, 256, 1024, 4096, 16_384, 65_536)
TRIES = 5


@torch.inference_mode()
def host() -> Machine:
    """This machine as it is now, in fp32, the best of a few tries each, in seconds of the processor."""
    weights = [torch.randn(WIDTH, WIDTH) for _ in range(WEIGHTS)]
    products = []
    for rows in ROWS:
        left, count = torch.randn(rows, WIDTH), max(4, min(WEIGHTS, 512 // rows))
        took_s = _least_s(partial(_products, left, weights[:count]))
        products.append((float(rows), 2.0 * rows * WIDTH * WIDTH * count / took_s))
    copies = []
    for kib in COPIED_KIB:
        source, count = torch.randn(kib * 256), max(1, min(100, COPIED_KIB[-3] * 4 // kib))
        took_s = _least_s(partial(_copies, source, count))
        copies.append((2048.0 * kib, 2048.0 * kib * count / took_s))  # read and written
    return Machine("host", Curve(tuple(products)), Curve(tuple(copies)), 4.0, None, None)


def _products(left: Tensor, weights: list[Tensor]) -> None:
    for weight in weights:
        functional.linear(left, weight)


def _copies(source: Tensor, count: int) -> None:
    for _ in range(count):
        source.clone()  # into new memory, as every operation's result is


def _least_s(work: Callable[[], None]) -> float:
    work()
    took_s = []
    for _ in range(TRIES):
        began_s = time.process_time()
        work()
        took_s.append(time.process_time() - began_s)
    return min(took_s)
