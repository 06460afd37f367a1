"""What set-up refuses, in one sentence that says what to do."""

import ast
from pathlib import Path

import pytest
import setup_check

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = 'requires-python = ">=3.11,<3.14"\n'


def test_the_check_itself_can_be_read_by_python_3_6() -> None:
    ast.parse((ROOT / ".ci/setup_check.py").read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13), (3, 14, 0), (4, 0, 0)])
def test_a_python_outside_the_range_is_refused_with_the_range(version: tuple[int, int, int]) -> None:
    refusal = setup_check.python_refusal(version, PYPROJECT)
    assert refusal is not None
    assert "Python 3.11 to 3.13" in refusal
    assert "make PYTHON=python3.11" in refusal
    assert ".".join(map(str, version)) in refusal


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 13, 9)])
def test_a_python_in_the_range_is_taken(version: tuple[int, int, int]) -> None:
    assert setup_check.python_refusal(version, PYPROJECT) is None


def test_the_range_is_read_from_our_pyproject() -> None:
    assert setup_check.python_refusal((3, 11, 2), (ROOT / "pyproject.toml").read_text()) is None
    assert setup_check.python_refusal((3, 10, 2), (ROOT / "pyproject.toml").read_text()) is not None


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("linux", "x86_64", "glibc"), ("linux", "aarch64", "glibc"), ("darwin", "arm64", "")],
)
def test_platforms_with_wheels_are_taken(system: str, machine: str, libc: str) -> None:
    assert setup_check.platform_refusal(system, machine, libc) is None


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("linux", "x86_64", ""), ("linux", "riscv64", "glibc"), ("darwin", "x86_64", ""), ("win32", "AMD64", "")],
)
def test_platforms_without_wheels_are_refused_by_name(system: str, machine: str, libc: str) -> None:
    refusal = setup_check.platform_refusal(system, machine, libc)
    assert refusal is not None
    assert system in refusal
    assert machine in refusal


def test_a_python_without_ensurepip_is_told_the_package() -> None:
    assert "python3-venv" in (setup_check.ensurepip_refusal(present=False) or "")
    assert setup_check.ensurepip_refusal(present=True) is None


def test_a_full_disk_is_refused_with_both_figures() -> None:
    refusal = setup_check.disk_refusal(free_gb=1.25)
    assert refusal is not None
    assert "4 GB" in refusal
    assert "1.2 GB" in refusal
    assert setup_check.disk_refusal(free_gb=4.0) is None


def test_a_disk_too_small_for_cuda_is_told_of_the_cpu_build() -> None:
    assert "TORCH_INDEX=" in (setup_check.cuda_warning(6.0, "linux", torch_index="") or "")
    assert setup_check.cuda_warning(6.0, "linux", torch_index="https://example.org/cpu") is None
    assert setup_check.cuda_warning(6.0, "darwin", torch_index="") is None
    assert setup_check.cuda_warning(60.0, "linux", torch_index="") is None
