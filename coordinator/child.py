"""One child process of `carpool up`: its log file, the pipe whose end ends it, and its last words."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from coordinator.errors import CarpoolError

PROLOGUE = r"^[\w .-]*(coordinator|node): (error: )?"  # who speaks, in a child's complaint
LAST_LINES = 10  # of a log, shown when its process ended by itself


class Child:
    """`python -m MODULE` in a session of its own: the terminal's Ctrl-C is for the parent alone.

    Its standard input is a pipe that nobody writes to. When the parent is gone, killed even, the pipe ends, and
    the child was told (`--stop-at-eof`) to end with it.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._name, self._process, self._log = name, process, log

    @classmethod
    async def start(cls, name: str, arguments: Sequence[str], folder: Path, api_key: str = "") -> Self:
        """Start it; what it says on standard error goes to `NAME.log` in the folder."""
        log = folder / f"{name}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                # -P: a folder named like one of our packages where the user stands is not ours.
                *(sys.executable, "-P", "-m", *arguments, "--stop-at-eof"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                # By the environment, for a command line is there for everybody to read.
                env={**os.environ, **({"CARPOOL_API_KEY": api_key} if api_key else {})},
            )
        return cls(name, process, log)

    async def first_line(self) -> str:
        """What it says first on standard output; CarpoolError when it ends without a word."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self.ended()
        return line.decode(errors="replace").strip()

    async def ended(self) -> None:
        """Returns never: raises CarpoolError, with its last words, when the process has ended by itself."""
        await self._process.wait()
        code = self._process.returncode
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        if code == 2 and lines:  # it refused its input, and said why in its last line
            raise CarpoolError(re.sub(PROLOGUE, "", lines[-1]))
        how = (
            f"process was killed by signal {-code}"
            if code is not None and code < 0
            else f"process ended with code {code}"
        )
        tail = "".join(f"\n  {line}" for line in lines[-LAST_LINES:])
        raise CarpoolError(f"the {self._name} {how}; its log is {self._log}{tail}", exit_code=1)

    async def stop(self, patience_s: float) -> None:
        """Ask it to end, wait, and kill what is left of its session."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._process.wait()
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """End it, where it still runs, and every other process of its session at once."""
        running = [self._process.pid] if self._process.returncode is None else []
        for pid in {*running, *_session(self._process.pid)}:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    """The processes of a session, none without /proc: Ray's workers have groups of their own, but no session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found
