"""The demo runs for somebody who owns nothing here: no proxy that answers, no home to write to, no rights."""

import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import photographs

ROOT = Path(__file__).resolve().parent.parent.parent
CARPOOL = Path(sys.executable).parent / "carpool"
MODELS = ("minilm", "smollm2", "efficientnet-lite0")
# Nothing listens on the discard port, so whoever asks a proxy fails at once.
DEAD_PROXY = "http://127.0.0.1:9"
DEMO_LIMIT_S = 480  # the promise is 180 s on two free cores; a busy machine is slower


@dataclass(frozen=True, slots=True)
class Stranger:
    """An ordinary user, and what stands before a command that they run."""

    uid: int
    prefix: tuple[str, ...]


def is_open(path: Path) -> bool:
    """Whether everybody may reach this file."""
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


def closed_places() -> list[Path]:
    """What the demo reads that lies in somebody's closed folder, such as a checkout or a Python in /root."""
    needed = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
    return [place for place in dict.fromkeys(needed) if not is_open(place.resolve() / "file")]


def opened(places: list[Path], command: tuple[str, ...], scratch: Path) -> tuple[str, ...]:
    """Wrap a command so that it alone, in a mount namespace of its own, finds these places in open folders."""
    if not places:
        return command
    script = ["set -e"]
    for number, place in enumerate(places):
        held = shlex.quote(str(scratch / str(number)))
        script.append(f"mkdir -p {held} && mount --bind {shlex.quote(str(place))} {held}")
    # Over the outermost closed folder goes an empty open one, in which the places appear again.
    closed = {next(up for up in reversed(place.parents) if not is_open(up / "file")) for place in places}
    script += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(folder))}" for folder in closed]
    for number, place in enumerate(places):
        there = shlex.quote(str(place))
        script.append(f"mkdir -p {there} && mount --bind {shlex.quote(str(scratch / str(number)))} {there}")
    return ("unshare", "--mount", "sh", "-c", "\n".join([*script, 'exec "$@"']), "sh", *command)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own is closed to other users."""
    with tempfile.TemporaryDirectory(prefix="carpool-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def stranger(scratch: Path) -> Stranger:
    """`nobody` when the tests run as root, else whoever runs them."""
    if os.getuid() != 0:
        return Stranger(os.getuid(), ())
    user = pwd.getpwnam("nobody")
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv (package util-linux) to become an ordinary user with")
    become = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    closed = closed_places()
    prefix = opened(closed, become, scratch)
    tried = subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True, text=True)
    if tried.returncode != 0:
        places = ", ".join(map(str, closed))
        pytest.skip(f"an ordinary user cannot reach {places} and no mount namespace can be made: {tried.stderr}")
    return Stranger(user.pw_uid, prefix)


@pytest.fixture
def cache(scratch: Path, stranger: Stranger) -> Path:
    """A copy, which belongs to the stranger, of all that the demo otherwise fetches."""
    for model in MODELS:
        subprocess.run([CARPOOL, "models", "add", model], check=True, stdin=subprocess.DEVNULL)
    ours = Path(os.environ.get("CARPOOL_CACHE") or Path.home() / ".cache" / "carpool")
    if not photographs.cached(ours / "photographs"):
        photographs.fetch(ours / "photographs")
    copy = scratch / "cache"
    shutil.copytree(ours, copy)
    for path in [copy, *copy.rglob("*")]:
        os.chown(path, stranger.uid, -1)
    return copy


@pytest.mark.timeout(DEMO_LIMIT_S + 60)
def test_the_demo_runs_as_an_ordinary_user_with_a_dead_proxy_and_a_read_only_home(
    scratch: Path, stranger: Stranger, cache: Path
) -> None:
    home = scratch / "home"
    home.mkdir()
    home.chmod(0o555)
    kept = ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(home), "CARPOOL_CACHE": str(cache)}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), DEAD_PROXY)
    demo = subprocess.run(
        [*stranger.prefix, CARPOOL, "demo"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEMO_LIMIT_S,
    )
    assert demo.returncode == 0, demo.stdout
    assert list(home.iterdir()) == []
