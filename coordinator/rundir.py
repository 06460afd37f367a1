"""The run directory: where each `carpool up` keeps its folder, and how later commands find the last one.

Owns the paths and `last.json`. Knows no process but by its number, and nothing of what the folders hold.
"""

import json
import os
import shutil
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.errors import CarpoolError


@dataclass(frozen=True, slots=True)
class Cluster:
    """What one `carpool up` serves: three addresses HOST:PORT, its folder and its process."""

    grpc: str
    http: str
    metrics: str
    cluster: str  # its folder
    pid: int


def run_dir() -> Path:
    """The user's run directory, made if missing: CARPOOL_RUN_DIR, else one below the temporary directory."""
    named = os.environ.get("CARPOOL_RUN_DIR")
    path = Path(named).absolute() if named else Path(tempfile.gettempdir()) / f"carpool-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat(follow_symlinks=bool(named))
    except OSError as error:
        raise CarpoolError(
            f"cannot make the run directory {path}: {error.strerror}; name another with CARPOOL_RUN_DIR"
        ) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise CarpoolError(f"the run directory {path} is not yours; name another with CARPOOL_RUN_DIR")
    return path


def create_cluster_dir() -> Path:
    """A new folder for the cluster of this process; folders of processes that are gone are removed."""
    for path in run_dir().glob("cluster-*"):
        pid = path.name.removeprefix("cluster-")
        if not pid.isdecimal() or not _runs(int(pid)) or int(pid) == os.getpid():
            shutil.rmtree(path, ignore_errors=True)
    folder = run_dir() / f"cluster-{os.getpid()}"
    try:
        folder.mkdir(mode=0o700)
        (folder / "lots").mkdir()
    except OSError as error:
        raise CarpoolError(
            f"cannot write to {folder}: {error.strerror}; name another run directory with CARPOOL_RUN_DIR"
        ) from None
    return folder


def write_last(cluster: Cluster) -> None:
    """Name this cluster as the last one brought up."""
    path = _last()
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(asdict(cluster)) + "\n")
    fresh.replace(path)


def forget(folder: Path, keep: bool) -> None:
    """Name this cluster no more, unless another has been brought up since; its folder goes unless kept."""
    last = _read_last()
    if last is not None and last.cluster == str(folder):
        _last().unlink(missing_ok=True)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def last_cluster() -> Cluster:
    """The last `carpool up`, if it still runs."""
    cluster = _read_last()
    if cluster is None or not _runs(cluster.pid):
        raise CarpoolError(
            "no `carpool up` runs here; start one, or name a coordinator with --grpc HOST:PORT or CARPOOL_GRPC"
        )
    return cluster


def _read_last() -> Cluster | None:
    try:
        return Cluster(**json.loads(_last().read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _last() -> Path:
    return run_dir() / "last.json"


def _runs(pid: int) -> bool:
    """Whether this user has a process of this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
