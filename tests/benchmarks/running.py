"""Benchmarks run as a user runs them, at a tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks ARGUMENTS`, ended."""
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def measured(folder: Path, *arguments: object, **environment: str) -> dict[str, Any]:
    """What it wrote with --json; it must end well and show a table."""
    file = folder / "figures.json"
    ended = run(*arguments, "--json", file, **environment)
    assert ended.returncode == 0, ended.stderr
    document: dict[str, Any] = json.loads(file.read_text())
    for figure in document["figures"]:
        assert figure["name"].strip() in ended.stdout
    return document


def samples(document: dict[str, Any], name: str) -> list[float]:
    """The samples of one figure."""
    (found,) = [figure["samples"] for figure in document["figures"] if figure["name"].strip() == name]
    return list(found)
