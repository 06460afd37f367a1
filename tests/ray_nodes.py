"""A real Ray cluster of two nodes on this machine, each with its processes, for tests."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.live import PATIENCE_S

RAY = Path(sys.executable).parent / "ray"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
"""Addresses of the nodes; Ray calls the first by the machine's own, where it has one."""
_QUICK = {  # a node that is lost is missed in seconds, where Ray takes half a minute
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


class RayNode:
    """One `ray start --block`, and what it started: a session of its own."""

    def __init__(self, environment: dict[str, str], *flags: str) -> None:
        self.process = subprocess.Popen(
            [
                *(str(RAY), "start", "--block", "--disable-usage-stats", "--include-log-monitor", "false"),
                *("--num-cpus", "1", "--object-store-memory", str(80 << 20), *flags),
            ],
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout

    def has(self, pid: int) -> bool:
        """Whether this process is of the node."""
        return os.getsid(pid) == self.process.pid

    def started(self) -> None:
        """Return when Ray says so. It says little after that: nobody has to read on."""
        said = []
        for line in self._output:
            said.append(line)
            if "This command will now block" in line:
                return
        raise AssertionError("".join(said))

    def kill(self) -> None:
        """End every process of the node at once, without a word."""
        while pids := self._pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait(PATIENCE_S)
        self._output.close()

    def _pids(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(ProcessLookupError, FileNotFoundError):
                if self.has(int(entry.name)) and ") Z " not in (entry / "stat").read_text():
                    found.append(int(entry.name))
        return found


class RayCluster:
    """Two nodes, and what one has to know to join them."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            **os.environ,
            **_QUICK,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_worker_niceness": "0",
            "HOME": str(folder),
        }
        self.nodes: list[RayNode] = []
        self._folder = folder

    def start(self) -> None:
        """Start both."""
        where = ("--head", "--port", "0", "--include-dashboard", "false", "--temp-dir", str(self._folder / "ray"))
        self._add(*where, "--node-ip-address", FIRST)
        self.address = (self._folder / "ray" / "ray_current_cluster").read_text().strip()
        self._add("--address", self.address, "--node-ip-address", SECOND, "--num-gpus", "1")

    def end(self) -> None:
        """End whatever of it there is."""
        for node in self.nodes:
            node.kill()

    def _add(self, *flags: str) -> None:
        node = RayNode(self.environment, *flags)
        self.nodes.append(node)
        node.started()


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster of two nodes, of which nothing is left afterwards. The second has a card, by its own account."""
    with ExitStack() as exits:
        folder = exits.enter_context(TemporaryDirectory(prefix="carpool-ray-"))
        cluster = RayCluster(Path(folder))
        exits.callback(cluster.end)
        cluster.start()
        yield cluster
