"""What every test here needs: a coordinator that is killed and started again, and clients that do not give up.

The coordinators, lots and Ray's actors are real processes, and coordinators share one `--state`. A killed one comes
back on the same gRPC port, as a supervisor would bring it back; whoever calls it tries again under the same
idempotency key.
"""

import asyncio
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw

from coordinator.child import Child
from coordinator.client import Client, Job
from coordinator.errors import CarpoolError, Failure
from coordinator.up import LOTS_STOP_S
from tests.live import PATIENCE_S, Cluster, Coordinator, until

RESTART_S = 45.0
"""How long a client tries again: over any number of restarts."""
PASSING = ("no coordinator answers", "no vehicle here offers", "Internal error from Core")
"""What a client hears while a coordinator is away, and before the first lot is back."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A job as its client hands it in: the items are told by the key, so no two jobs have one in common."""

    key: str
    count: int
    padding: int = 0  # bytes behind each

    @property
    def items(self) -> list[bytes]:
        """All of them, in order."""
        padding = b" " * self.padding
        return [b"%b item %d%b" % (self.key.encode(), number, padding) for number in range(self.count)]


def kill(live: Cluster) -> None:
    """kill -9, and nothing else."""
    live.coordinator.process.kill()
    live.coordinator.process.communicate(timeout=PATIENCE_S)


def start_again(live: Cluster, *flags: str) -> None:
    """Another coordinator where the last one was."""
    live.coordinator = Coordinator(*flags, "--grpc-port", live.coordinator.grpc.rsplit(":", 1)[1])


@asynccontextmanager
async def ray_fleet(live: Cluster, actors: int, each: int) -> AsyncIterator[None]:
    """Ray's actors as `carpool up` starts them, each with so many cars that echo: inside, all are parked."""
    cars = ("--vehicles", str(actors * each), "--vehicles-per-actor", str(each), "--models", "noop", "--opt-in")
    with TemporaryDirectory(prefix="carpool-") as folder:  # Ray's sockets need a short path
        arguments = [
            "node",
            "--ray",
            "--opt-in",
            "--coordinator",
            live.coordinator.grpc,
            "--run-dir",
            folder,
            *cars,
        ]
        lots = await Child.start("lots", arguments, Path(folder))
        try:
            async with Client(live.coordinator.grpc) as client:
                await live.parked(client, actors * each)
            yield
        finally:
            await lots.stop(LOTS_STOP_S)


def refusal(*flags: str) -> str:
    """The sentence with which a coordinator refuses to start."""
    ended = subprocess.run(
        [sys.executable, "-m", "coordinator", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


async def submit(client: Client, handed: Handed) -> Job:
    """The acknowledged job, however often it must be handed in."""

    async def look() -> Job | None:
        try:
            job, _ = await client.submit("noop", handed.items, idempotency_key=handed.key)
        except CarpoolError as error:
            if any(said in str(error) for said in PASSING):
                return None
            raise
        return job

    return await until(look, RESTART_S)


async def collect(client: Client, job_id: str) -> tuple[list[bytes], dict[int, Failure], Job]:
    """All results of a job, its failures, and how it ended."""
    results: list[bytes] = []
    failures: dict[int, Failure] = {}
    job: Job | None = None
    async for part in client.results(job_id, patience_s=RESTART_S):
        results.extend(part.payloads)
        failures.update(part.failures)
        job = part.job
    assert job is not None, "the last part says how it ended"
    return results, failures, job


async def check_drained(client: Client, acknowledged: Mapping[Handed, str]) -> None:
    """Every acknowledged job is there and gets done with its own items in order, and no other job is there."""
    left = iter(acknowledged.items())

    async def check() -> None:
        for handed, job_id in left:
            results, failures, job = await collect(client, job_id)
            assert results == handed.items, handed
            assert (failures, job.state, job.items_done) == ({}, "done", handed.count), handed

    async with asyncio.TaskGroup() as tasks:
        for _ in range(16):
            tasks.create_task(check())
    jobs = await client.jobs(limit=len(acknowledged) + 1000)
    assert sorted(job.job_id for job in jobs) == sorted(acknowledged.values())
    assert {job.idempotency_key: job.job_id for job in jobs} == {
        handed.key: job_id for handed, job_id in acknowledged.items()
    }


def check_recorded_once(state: Path, jobs: int) -> None:
    """In the database of a coordinator that is gone, every item of so many jobs has one result."""
    connection = apsw.Connection(str(state / "carpool.db"))
    rows = list(
        connection.execute(
            "SELECT items, done, failed, (SELECT sum(items) FROM results WHERE job = jobs.job) FROM jobs"
        )
    )
    connection.close()
    assert len(rows) == jobs
    assert all(items == done == recorded and not failed for items, done, failed, recorded in rows)


async def metric(live: Cluster, name: str, **labels: str) -> float:
    """A metric of the coordinator's, summed over those of its labels that are not given."""
    return total(await scrape(live), name, **labels)


async def scrape(live: Cluster) -> str:
    """All metrics of the coordinator's, at one moment."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{live.coordinator.addresses['metrics']}/metrics") as answer:
            told: str = answer.read().decode()
            return told

    return await asyncio.to_thread(read)


def total(metrics: str, name: str, **labels: str) -> float:
    """One of them, summed over those of its labels that are not given."""
    assert f"# TYPE {name.removesuffix('_count')} " in metrics, "a metric that does not exist is not 0"
    given = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [
        line
        for line in metrics.splitlines()
        if re.match(rf"{name}[ {{]", line) and all(pair in line for pair in given)
    ]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
