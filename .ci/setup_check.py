"""Says in one sentence what this machine lacks for Carpool, before anything is downloaded.

Runs under the interpreter that was chosen, however old, so it uses nothing newer than Python 3.6 and nothing
but the standard library.
"""

import os
import platform
import re
import shutil
import sys
from typing import Optional, Tuple

# .venv with the CPU build of torch takes 1.9 GB, its wheels and the models and their wheels the rest.
NEEDED_GB = 4
# The CUDA build brings Nvidia's libraries: about 7 GB unpacked and 3 GB of wheels.
NEEDED_WITH_CUDA_GB = 10
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def python_refusal(version: Tuple[int, int, int], pyproject: str) -> Optional[str]:
    """Why this Python cannot run Carpool, by `requires-python` in the text of pyproject.toml."""
    found = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', pyproject, re.MULTILINE)
    assert found, "pyproject.toml must say requires-python as >=3.X,<3.Y"
    first, beyond = int(found.group(1)), int(found.group(2))
    if (3, first) <= version[:2] < (3, beyond):
        return None
    this = ".".join(map(str, version))
    return (
        f"Carpool needs Python 3.{first} to 3.{beyond - 1} and {sys.executable} is {this}: choose another with "
        f"make PYTHON=python3.{first}."
    )


def platform_refusal(system: str, machine: str, libc: str) -> Optional[str]:
    """Why there are no wheels of ray and torch for this platform (sys.platform, machine, C library)."""
    if system == "darwin" and machine == "arm64":
        return None
    if system == "linux" and machine in ("x86_64", "aarch64") and libc == "glibc":
        return None
    return (
        f"Ray and torch have no wheels for {system} on {machine} (C library: {libc or 'unknown'}): use Linux with "
        "glibc on x86_64 or arm64, or macOS on arm64."
    )


def ensurepip_refusal(present: bool) -> Optional[str]:
    """Why no virtual environment can be made."""
    if present:
        return None
    return (
        "This Python has no ensurepip, so it cannot make a virtual environment: install python3-venv "
        "(Debian, Ubuntu: apt-get install python3-venv)."
    )


def disk_refusal(free_gb: float) -> Optional[str]:
    """Why the first installation would not fit."""
    if free_gb >= NEEDED_GB:
        return None
    return (
        f"Carpool needs {NEEDED_GB} GB of disk for .venv and the models, and {free_gb:.1f} GB are free: make room."
    )


def cuda_warning(free_gb: float, system: str, torch_index: str) -> Optional[str]:
    """What to know on a Linux disk that may be too small for the build of torch that PyPI has."""
    if system != "linux" or torch_index or free_gb >= NEEDED_WITH_CUDA_GB:
        return None
    return (
        f"PyPI's torch for Linux is the CUDA build, which needs {NEEDED_WITH_CUDA_GB} GB, and {free_gb:.1f} GB are "
        f"free: if it does not fit, choose the CPU build with make TORCH_INDEX={CPU_INDEX}."
    )


def has_ensurepip() -> bool:
    """Debian keeps ensurepip in a package of its own."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return False
    return True


def main() -> int:
    """Check this machine; the exit code is 1, with one sentence on stderr, when it will not do."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(os.path.join(root, "pyproject.toml"), encoding="utf-8") as file:
        pyproject = file.read()
    first_time = not os.path.exists(os.path.join(root, ".venv", "installed"))
    free_gb = shutil.disk_usage(root).free / 1e9
    refusal = (
        python_refusal(sys.version_info[:3], pyproject)
        or platform_refusal(sys.platform, platform.machine(), platform.libc_ver()[0])
        or ensurepip_refusal(has_ensurepip())
        or (disk_refusal(free_gb) if first_time else None)
    )
    if refusal:
        sys.stderr.write(refusal + "\n")
        return 1
    warning = cuda_warning(free_gb, sys.platform, os.environ.get("TORCH_INDEX", ""))
    if warning and first_time:
        sys.stderr.write(warning + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
