"""One child process of a benchmark: lines in and out, its log, what it uses, and its end.

Each is in a session of its own and ends when its standard input does, so none outlives the benchmark, however
that ends. Signals go to processes that were started here, by their number, and to no other.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]

from benchmarks.figures import BenchmarkFailed

_LAST_LINES = 10  # of the log of a process that failed
_LOOK_S = 0.01  # between two looks at a process that is outlasted
_STOP_S = 20.0  # what a process may take to end, Ray below it and all


class Process:
    """A context manager around one child; it writes its standard error to `folder/NAME.log`."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.begun_s = time.monotonic()  # before the fork
        with self.log.open("ab") as errors:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self._unread = b""

    @classmethod
    def python(cls, name: str, module: str, *arguments: object, folder: Path, **environment: str) -> Self:
        """`python -m MODULE ARGUMENTS`; -P keeps the current directory out of its path."""
        return cls(name, (sys.executable, "-P", "-m", module, *map(str, arguments)), folder, environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def line(self, timeout_s: float) -> str:
        """The next line of its standard output; BenchmarkFailed when none comes."""
        assert self._child.stdout is not None
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            readable, _, _ = select.select((self._child.stdout,), (), (), max(0.0, until_s - time.monotonic()))
            if not readable:
                raise self._failure(f"said nothing within {timeout_s:g} s")
            data = os.read(self._child.stdout.fileno(), 1 << 16)
            if not data:
                raise self._failure("ended")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace")

    def expect(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """The next line, which must match."""
        line = self.line(timeout_s)
        match = re.fullmatch(pattern, line)
        if match is None:
            raise self._failure(f"said {line!r} where {pattern!r} was due")
        return match

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise self._failure("ended") from None

    def check(self) -> None:
        """BenchmarkFailed when it has ended by itself."""
        if self._child.poll() is not None:
            raise self._failure("ended")

    def outlast(self, timeout_s: float) -> int:
        """Wait for a good end; the most memory that it ever had resident, bytes, as a look just before found it.

        Not what `wait4` tells: that counts this process's own memory, which the child shared until its exec.
        """
        peak_bytes, until_s = 0, time.monotonic() + timeout_s
        while self._child.poll() is None:
            with suppress(IndexError):  # it is ending: its memory is gone
                peak_bytes = self.peak_resident_bytes
            if time.monotonic() > until_s:
                raise self._failure(f"did not end within {timeout_s:g} s")
            time.sleep(_LOOK_S)
        if self._child.returncode != 0:
            raise self._failure(f"ended with code {self._child.returncode}")
        return peak_bytes

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used."""
        times = psutil.Process(self._child.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def resident_bytes(self) -> int:
        """Its resident memory now."""
        return int(psutil.Process(self._child.pid).memory_info().rss)

    @property
    def peak_resident_bytes(self) -> int:
        """The most memory that it ever had resident: VmHWM, which Linux keeps in KiB."""
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def pause(self) -> None:
        """Stop it as a machine that hangs stops: it says nothing more, and its connections stay open."""
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, without a word, and wait for that."""
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        """Ask it to end, and kill what is left of its process group when it does not."""
        if self._child.poll() is None:
            self._child.terminate()
            self._child.send_signal(signal.SIGCONT)
            assert self._child.stdin is not None
            self._child.stdin.close()
            try:
                self._child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._child.pid, signal.SIGKILL)
                self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    def _failure(self, what: str) -> BenchmarkFailed:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        tail = "".join(f"\n  {line}" for line in lines[-_LAST_LINES:])
        return BenchmarkFailed(f"the {self.name} {what}{tail}")
