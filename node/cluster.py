"""The Ray cluster: one of our own, or one that is there already; joined, watched, left.

Ray's own settings are made here on purpose: no statistics, no dashboard, no nice value, no token file in
anybody's home, a short temporary path. A cluster that is there already has its own; only what concerns the
lots' processes goes along. What Ray says of a cluster that cannot be joined becomes one sentence.
"""

import asyncio
import os
import re
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

LONGEST_TEMPORARY_PATH = 60
"""Ray puts sockets of 107 bytes at most some 45 characters below its temporary directory."""
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""About the least that Ray accepts: weights are memory-mapped, and nothing of size lies in its store."""
REACHED_WITHIN_S = 5.0
"""A cluster that does not accept a connection for so long cannot be reached (assumed)."""
LOOK_EVERY_S = 2.0
GONE_AFTER_S = 15.0
"""A cluster whose head accepts no connection for so long is gone; well before Ray gives up, and the process with
it, after 60 s."""
LEFT_WITHIN_S = 10.0
"""What leaving a cluster without a head may take: Ray may wait for it for a minute and longer."""

_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # else workers run at nice 15, and a busy machine slows the fleet tenfold
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # actors that ask for no GPU still see it
    "RAY_DEDUP_LOGS": "0",
}
_OF_LOTS = ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "GRPC_EXPERIMENTS")
"""What lots in a cluster that others have started need of it."""


class ClusterUnusable(Exception):
    """The Ray cluster cannot be joined, or is gone. The message is one sentence for whoever started the lots."""


class ClusterGone(ClusterUnusable):
    """Its head is gone."""


def prepare(address: str | None, run_dir: Path | None) -> Path | None:
    """Set what Ray reads of the environment when it is imported; the temporary directory of a cluster of our own.

    Raises ClusterUnusable when nothing answers at the address of another.
    """
    if address is not None and address != "auto":
        _require_reachable(address)
    os.environ.update(_ENVIRONMENT)
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost", "::1"]))
    if address is not None:
        os.environ["RAY_NUM_REDIS_GET_RETRIES"] = "3"  # else it tries a token that is refused for 20 s
        return None
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    if run_dir is not None and len(str(run_dir.absolute() / "ray")) < LONGEST_TEMPORARY_PATH:
        return run_dir.absolute() / "ray"
    return Path(tempfile.mkdtemp(prefix="carpool-ray-"))


def join(ray: Any, address: str | None, temporary: Path | None) -> None:
    """Join the cluster there, or start one below this directory; raises ClusterUnusable."""
    if address is None:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            namespace="carpool",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(temporary),
        )
        return
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            namespace="carpool",
            runtime_env={"env_vars": {name: os.environ[name] for name in _OF_LOTS if name in os.environ}},
        )
    except (Exception, SystemExit) as error:  # Ray has no type for what may be wrong here
        raise ClusterUnusable(_sentence(address, error)) from None


async def gone(ray: Any) -> None:
    """Return never: raises ClusterGone when the head of the joined cluster has been gone for long."""
    at = str(ray.get_runtime_context().gcs_address)
    host, _, port = at.rpartition(":")
    loop = asyncio.get_running_loop()
    heard_s = loop.time()
    while loop.time() < heard_s + GONE_AFTER_S:
        await asyncio.sleep(LOOK_EVERY_S)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(REACHED_WITHIN_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
            heard_s = loop.time()
    raise ClusterGone(
        f"the Ray cluster at {at} is gone: nothing has answered there for {GONE_AFTER_S:.0f} s; its lots ended "
        f"with it, so start them again when it is back"
    )


async def leave(ray: Any, patience_s: float | None) -> None:
    """Leave the cluster, and end one of our own; give up after so long."""
    left = asyncio.Event()
    loop = asyncio.get_running_loop()

    def shut_down() -> None:
        ray.shutdown()
        with suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(left.set)

    threading.Thread(target=shut_down, daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await left.wait()


def last_line(error: BaseException) -> str:
    """Of what Ray says at length about an error, the line that says what it is."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def _require_reachable(address: str) -> None:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/]+):([0-9]{1,5})", address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ClusterUnusable(f"--ray-address {address} cannot be; give the HOST:PORT of a Ray head, or auto")
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), REACHED_WITHIN_S).close()
    except OSError as error:
        raise ClusterUnusable(
            f"no Ray cluster answers at {address} ({error.strerror or error}); start one with `ray start --head`, "
            f"and give the address that it says"
        ) from None


def _sentence(address: str, error: BaseException) -> str:
    """What to tell of a cluster that answered and could not be joined."""
    told = "\n".join(str(one) for one in _causes(error))
    if "AuthenticationError" in told or "InvalidAuthToken" in told:
        return (
            f"the Ray cluster at {address} refuses this token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as they "
            f"were set for its `ray start`"
        )
    mismatch = re.search(r"[Vv]ersion mismatch.*", told, re.DOTALL)
    if mismatch is not None:
        versions = re.sub(r"\s+", " ", mismatch[0]).strip(" .")
        return f"the Ray cluster at {address} is of another version ({versions}); install the same everywhere"
    if "Could not find any running Ray instance" in told:
        return "no Ray cluster runs on this machine; start one with `ray start --head`, or give its HOST:PORT"
    return (
        f"cannot join the Ray cluster at {address} ({last_line(error)}); this machine has to be one of its nodes: "
        f"`ray start --address {address}`"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
