"""The machine and the software that figures were measured on, told with them. Knows no benchmark."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

_PACKAGES = ("carpool", "grpcio", "protobuf", "numpy", "ray", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Machine:
    """What one needs to know to read a figure."""

    system: str
    processor: str
    cores: int  # that this process may use
    memory_gib: float
    accelerators: Sequence[str]
    load_average: float  # of the minute before the benchmark: over a few tenths, others were at work
    python: str
    packages: dict[str, str]
    commit: str  # with "-dirty" where the checkout differs from it; empty outside of a checkout

    @classmethod
    def here(cls, device: str = "cpu") -> Self:
        """This machine, before a benchmark that runs on `device` begins."""
        return cls(
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
            accelerators=_accelerators() if device == "cuda" else (),
            load_average=round(os.getloadavg()[0], 2),
            python=platform.python_version(),
            packages={name: found for name in _PACKAGES if (found := _version(name))},
            commit=_commit(),
        )

    @property
    def summary(self) -> str:
        """One line for people."""
        cards = "".join(f", {card}" for card in self.accelerators)
        return (
            f"on {self.cores} cores of {self.processor}{cards}, {self.memory_gib:g} GiB, {self.system}, "
            f"Python {self.python}, torch {self.packages.get('torch', '?')}, commit {self.commit or 'unknown'}, "
            f"load before {self.load_average:g}"
        )


def _processor() -> str:
    """The processor's model name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _accelerators() -> tuple[str, ...]:
    import torch

    return tuple(torch.cuda.get_device_name(card) for card in range(torch.cuda.device_count()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit of the checkout that this file lies in."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12")
    try:
        answer = subprocess.run((*command, "--exclude=*"), capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return answer.stdout.strip()
