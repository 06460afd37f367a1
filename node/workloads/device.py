"""What every torch workload shares: the device and the type of numbers it runs in, and the hooks that let a
returning owner stop it between two layers."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from node.models import CachedModel, ModelError, tensors_of
from node.workloads import Control, Stopped

_GUARDED = (nn.Linear, nn.Conv2d, nn.Embedding, nn.LayerNorm)
"""Layers that ask before they run. No other step between two of these takes long."""


def use_threads(threads: int) -> None:
    """Let torch and the tokenizers use so many threads. Call it on the thread that runs torch, before any work."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)


def device_named(asked: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda". Raises ModelError when there is none."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ModelError("there is no CUDA device here; use --device cpu, or install the CUDA build of torch")
    if asked not in ("cpu", "cuda"):
        raise ModelError(f"no device {asked!r}: use auto, cpu or cuda")
    return torch.device(asked)


def dtype_named(asked: str, device: torch.device, model: CachedModel) -> torch.dtype:
    """The type of numbers for "auto", "fp32" or "bf16".

    auto is bf16 on a GPU that computes in it. On a CPU it is fp32, in which answers are the same on every car, and
    bf16 only for a model whose file is in that, where the CPU computes in it.
    """
    if asked == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
        return torch.bfloat16 if tensors_of(model)[1] == "BF16" and _computes_bf16() else torch.float32
    if asked not in ("fp32", "bf16"):
        raise ModelError(f"no dtype {asked!r}: use auto, fp32 or bf16")
    return torch.float32 if asked == "fp32" else torch.bfloat16


@cache
def _computes_bf16() -> bool:
    """Whether this CPU has instructions for products of bf16, rather than taking its numbers for fp32 ones."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
        return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())
    return False


def free_bytes(device: torch.device) -> int:
    """Memory that nobody uses now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # assumed: half of all


def give_back() -> None:
    """Let other processes have what the GPU's allocator holds of a model that is gone."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Guard:
    """Asks the control of the running work before every layer of a model."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._control = Control()
        self._device = device
        for module in model.modules():
            if isinstance(module, _GUARDED):
                module.register_forward_pre_hook(self._before)

    @contextmanager
    def running(self, control: Control) -> Iterator[None]:
        """While inside, `control` is asked; urgent work may come in between with a control of its own."""
        outer, self._control = self._control, control
        try:
            with torch.inference_mode():
                yield
        except Stopped:
            if self._device.type == "cuda":
                torch.cuda.synchronize()  # what was queued on the GPU ends too before anybody is told
            raise
        finally:
            self._control = outer

    def _before(self, module: nn.Module, arguments: object) -> None:
        self._control.check()


def on_device(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on the device; to a GPU from pinned memory, without waiting for it."""
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)


def diagnose(error: Exception) -> str:
    """The code of an item's error: "out_of_memory", "device" or "model". Frees what the GPU's allocator holds."""
    message = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in message:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return "out_of_memory"
    if type(error).__name__ == "AcceleratorError" or "CUDA" in message or "cuBLAS" in message or "cuDNN" in message:
        return "device"
    return "model"
