"""A process of callers (`fronts_load`), from the side of the benchmark that tells it what to do."""

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.figures import BenchmarkFailed
from benchmarks.fronts_load import Heard, Load
from benchmarks.process import Process

_PATIENCE_S = 120.0  # beyond the measurement: a large tensor may be on its way


class Callers:
    """A context manager around one such process."""

    def __init__(self, folder: Path, name: str = "callers") -> None:
        self._process = Process.python(name, "benchmarks.fronts_load", folder=folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def begin(self, load: Load) -> None:
        """Have them call; `heard` waits for the end."""
        self._process.say(json.dumps(asdict(load)))

    def heard(self, load: Load) -> Heard:
        """What came of the load that was begun. BenchmarkFailed when a call failed."""
        answer = json.loads(self._process.line(load.seconds + _PATIENCE_S))
        if "failed" in answer:
            raise BenchmarkFailed(answer["failed"])
        return Heard(**answer)

    def call(self, load: Load) -> Heard:
        """Both."""
        self.begin(load)
        return self.heard(load)
