"""The `carpool` command as people use it: a real cluster on loopback, real files, exit codes and one clear line."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from coordinator.client import Client, Job
from coordinator.errors import CarpoolError
from coordinator.up import models_to_offer
from tests.live import Coordinator, until

PATIENCE_S = 60.0
CARPOOL = (sys.executable, "-P", "-m", "coordinator.cli")


def carpool(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        (*CARPOOL, *map(str, arguments)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **environment},
        check=False,
    )


def refused(*arguments: object, **environment: str) -> str:
    """The one line by which it refuses what the user can mend."""
    done = carpool(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert re.fullmatch(r"carpool: [^\n]+\n", done.stderr), done.stderr
    return done.stderr.removeprefix("carpool: ").rstrip("\n")


class Up:
    """`carpool up` as a child, after its one line."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            (*CARPOOL, "up", *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        ready = re.fullmatch(r"carpool ready grpc=(\S+) http=(\S+) metrics=(\S+)\n", self.line)
        assert ready, self.line
        self.grpc, self.http, self.metrics = ready.groups()

    def gone(self) -> bool:
        """Whether no process of it is left."""
        _, alive = psutil.wait_procs(self.children, timeout=PATIENCE_S)
        return not alive


@contextmanager
def up(*flags: str) -> Iterator[Up]:
    cluster = Up(*flags)
    try:
        yield cluster
    finally:
        cluster.process.terminate()
        cluster.process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Up]:
    with up("--noop", "--models", "noop", "--profile", "hw4:2,ai5:1") as cluster:
        yield cluster


def requests(path: Path, count: int) -> Path:
    path.write_text(
        "".join(
            json.dumps({"custom_id": f"id-{index}", "body": {"input": f"text {index}"}}) + "\n"
            for index in range(count)
        )
    )
    return path


def outputs(path: Path) -> list[tuple[str, str]]:
    """(custom_id, what was echoed) of each line."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["custom_id"], line["response"]["body"]["data"][0]["output"]) for line in lines]


def jobs(target: str) -> list[Job]:
    async def listed() -> list[Job]:
        async with Client(target) as client:
            return await client.jobs()

    return asyncio.run(listed())


def test_a_file_comes_back_in_the_order_of_the_input(cluster: Up, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = carpool("run", "noop", requests(tmp_path / "in.jsonl", 10_000), "-o", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert re.fullmatch(r"10,000 items in [0-9.]+ s \(\S+ items/s\) are in \S+\n", done.stderr)
    assert outputs(out) == [(f"id-{index}", f"text {index}") for index in range(10_000)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_the_same_key_is_the_same_job(cluster: Up, tmp_path: Path) -> None:
    source = requests(tmp_path / "in.jsonl", 50)
    flags = ("--idempotency-key", "the key", "--grpc", cluster.grpc)
    assert carpool("run", "noop", source, "-o", tmp_path / "one.jsonl", *flags).returncode == 0
    again = carpool("run", "noop", source, "-o", tmp_path / "two.jsonl", *flags)
    assert "is known by this key: 50 of 50 items are done" in again.stderr
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    other = requests(tmp_path / "other.jsonl", 51)
    assert "the key" in refused("run", "noop", other, "-o", tmp_path / "three.jsonl", *flags)
    assert not (tmp_path / "three.jsonl").exists()


def test_nodes_and_jobs_are_listed_for_programs(cluster: Up, tmp_path: Path) -> None:
    carpool(
        "run", "noop", requests(tmp_path / "in.jsonl", 3), "-o", tmp_path / "out.jsonl", CARPOOL_GRPC=cluster.grpc
    )
    rows = [line.split("\t") for line in carpool("nodes").stdout.splitlines()]
    assert rows[0] == ["node", "profile", "state", "stays", "leases", "items", "departures", "seen", "models"]
    assert [(row[0], row[1], row[2], row[8]) for row in rows[1:]] == [
        ("car-0000", "hw4", "idle", "noop"),
        ("car-0001", "hw4", "idle", "noop"),
        ("car-0002", "ai5", "idle", "noop"),
    ]
    newest = carpool("jobs").stdout.splitlines()[1].split("\t")
    assert newest[1:8] == ["noop", "batch", "done", "3", "3", "0", "0"]


def test_the_drivers_hand_takes_a_car_away_and_brings_it_back(cluster: Up) -> None:
    def state() -> str:
        return next(line.split("\t")[2] for line in carpool("nodes").stdout.splitlines() if "car-0001" in line)

    assert carpool("unplug", "car-0001").returncode == 0
    assert state() == "away"
    assert carpool("plug", "car-0001").returncode == 0
    assert state() == "idle"


def test_terms_change_by_the_drivers_hand_and_one_node_is_told_of(cluster: Up) -> None:
    changed = carpool("terms", "car-0001", "--set", "least_charge=0.99")
    assert changed.returncode == 0, changed.stderr
    assert "least_charge = 0.99, cellular_gb_a_month = inf" in changed.stdout
    told = carpool("nodes", "car-0001").stdout
    assert "car-0001: profile hw4, withdrawn" in told
    assert "withheld: its charge is not above the least that its owner wants" in told
    assert "offers nothing now" in told
    assert carpool("terms", "car-0001", "--set", "least_charge=0").returncode == 0
    assert "withheld" not in carpool("nodes", "car-0001").stdout
    assert "there is no term 'least'" in refused("terms", "car-0001", "--set", "least=1")


def test_bad_input_is_named_and_nothing_is_submitted(cluster: Up, tmp_path: Path) -> None:
    before, out = len(jobs(cluster.grpc)), tmp_path / "out.jsonl"
    source = requests(tmp_path / "in.jsonl", 10_000)
    lines = source.read_text().splitlines(keepends=True)
    source.write_text("".join([*lines[:6], lines[6][:-2] + "\n", *lines[7:]]))
    assert "in.jsonl line 7 is not JSON" in refused("run", "noop", source, "-o", out)
    sound = requests(tmp_path / "sound.jsonl", 1)
    assert "no car offers a model named minilm; those offered are noop" in refused(
        "run", "minilm", sound, "-o", out
    )
    assert "is a folder; give a file" in refused("run", "noop", sound, "-o", tmp_path)
    assert "cannot write" in refused("run", "noop", sound, "-o", tmp_path / "nowhere" / "out.jsonl")
    assert "is INPUT too" in refused("run", "noop", sound, "-o", sound)
    (tmp_path / "empty.txt").write_text("one\n\n")
    assert "empty.txt line 2 is empty" in refused("run", "noop", tmp_path / "empty.txt", "-o", out)
    assert len(jobs(cluster.grpc)) == before
    assert not out.exists()


async def interrupted(cluster: Up, command: tuple[str, ...], then: Callable[[], None] = lambda: None) -> str:
    """Ctrl-C for a `carpool run` as soon as its job is recorded, while no car works; how the job is afterwards."""
    async with Client(cluster.grpc) as client:
        names = [node.name for node in await client.nodes()]
        known = {job.job_id for job in await client.jobs()}
        await client.cordon(names)
        process = await asyncio.create_subprocess_exec(*CARPOOL, *command)
        try:

            async def submitted() -> str | None:
                return next((job.job_id for job in await client.jobs() if job.job_id not in known), None)

            job_id = await until(submitted)
            process.send_signal(signal.SIGINT)
            then()
            assert await process.wait() == 130
            return (await client.job(job_id)).state
        finally:
            await client.cordon(names, cordoned=False)


@pytest.mark.parametrize("key", ["", "mine"])
def test_ctrl_c_ends_the_job_unless_it_has_a_key(cluster: Up, tmp_path: Path, key: str) -> None:
    source, out = requests(tmp_path / "in.jsonl", 100), tmp_path / "out.jsonl"
    command = ("run", "noop", str(source), "-o", str(out), *(("--idempotency-key", key) if key else ()))
    state = asyncio.run(interrupted(cluster, command))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    if not key:
        assert state == "cancelled"
    else:
        assert state == "pending"
        assert carpool(*command).returncode == 0
        assert len(outputs(out)) == 100


def test_a_run_says_what_may_be_expected_and_is_refused_where_that_is_too_little(
    cluster: Up, tmp_path: Path
) -> None:
    source, out = requests(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    command = ("run", "noop", source, "-o", out, "--deadline", "1h30min", "--value", "5")
    done = carpool(*command, "--on-time", "0.5")
    assert done.returncode == 0, done
    sure = r"expected done in \d+ s; [\d.]+ % sure to make the deadline in 1 h 30 min\n"
    assert re.match(sure, done.stderr), done.stderr
    assert "'soon' is no duration; give numbers" in refused("run", "noop", source, "-o", out, "--deadline", "soon")


@asynccontextmanager
async def holding_back_after(target: str, mark: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A way to `target` on which nothing comes back, once `mark` was sent, until the event is set."""
    let_through = asyncio.Event()

    async def relay(near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far, far_writer = await asyncio.open_connection(*target.split(":"))
        marked = False

        async def forth() -> None:
            nonlocal marked
            while data := await near.read(1 << 16):
                marked = marked or mark in data
                far_writer.write(data)
            far_writer.close()

        async def back() -> None:
            while data := await far.read(1 << 16):
                if marked:
                    await let_through.wait()
                near_writer.write(data)
            near_writer.close()

        await asyncio.gather(forth(), back(), return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", let_through


def test_ctrl_c_before_the_answer_ends_the_job_all_the_same(cluster: Up, tmp_path: Path) -> None:
    source, mark = tmp_path / "in.txt", "an item that is not in any other test"
    source.write_text(f"{mark}\n")

    async def scene() -> str:
        async with holding_back_after(cluster.grpc, mark.encode()) as (way, let_through):
            command = ("run", "noop", str(source), "-o", str(tmp_path / "out.jsonl"), "--grpc", way)
            return await interrupted(cluster, command, then=let_through.set)

    assert asyncio.run(scene()) == "cancelled"


def test_what_up_cannot_use_is_refused_in_one_line(tmp_path: Path) -> None:
    noop = ("up", "--noop", "--models", "noop")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(*noop, "--grpc-port", port)
    assert "hw9" in refused(*noop, "--profile", "hw9:2")
    assert refused(*noop, "--ray-address", "127.0.0.1:1").startswith("no Ray cluster answers at 127.0.0.1:1 (")
    assert "0.0.0.0" in refused(*noop, "--host", "0.0.0.0")
    assert "cannot read the key file" in refused(*noop, "--api-keys", tmp_path / "none.toml")
    assert "no model frob in the cache" in refused("up", "--models", "frob", CARPOOL_CACHE=str(tmp_path))
    assert "carpool models add" in refused("up", CARPOOL_CACHE=str(tmp_path))


def test_a_coordinator_that_is_not_there_is_said(tmp_path: Path) -> None:
    elsewhere = {"CARPOOL_RUN_DIR": str(tmp_path)}
    assert refused("nodes", **elsewhere).startswith("no `carpool up` runs here; start one, or name a coordinator")
    assert refused("jobs", "--grpc", "127.0.0.1:1").startswith("no coordinator answers at 127.0.0.1:1; start one")
    assert "HOST:PORT" in refused("nodes", "--grpc", "nonsense")
    source = requests(tmp_path / "in.jsonl", 1)
    assert "no coordinator answers" in refused(
        "run", "noop", source, "-o", tmp_path / "out.jsonl", CARPOOL_GRPC="127.0.0.1:1"
    )


def test_keys_are_sent_where_they_are_asked_for(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[tenants]\na = "tenant-0123456789"\n[operators]\nb = "operator-0123456789"\n')
    assert "has no key under [nodes]" in refused("up", "--noop", "--models", "noop", "--api-keys", keys)
    live = Coordinator("--api-keys", str(keys))
    try:
        assert "no API key was sent" in refused("jobs", "--grpc", live.grpc)
        assert carpool("jobs", "--grpc", live.grpc, "--api-key", "tenant-0123456789").returncode == 0
        assert carpool("nodes", "--grpc", live.grpc, CARPOOL_API_KEY="operator-0123456789").returncode == 0
    finally:
        live.errors()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_up_leaves_no_process_behind(number: signal.Signals, code: int) -> None:
    with up("--noop", "--models", "noop", "--vehicles", "2") as cluster:
        assert len(cluster.children) >= 4, "coordinator, lots and Ray"
        cluster.process.send_signal(number)
        assert cluster.process.wait(PATIENCE_S) == code
        assert cluster.gone()


def test_a_child_that_dies_takes_the_cluster_down_and_its_last_words_are_shown() -> None:
    with up("--noop", "--models", "noop", "--vehicles", "1") as cluster:
        coordinator = next(child for child in cluster.children if "coordinator" in child.cmdline())
        coordinator.kill()
        _, errors = cluster.process.communicate(timeout=PATIENCE_S)
        assert cluster.process.returncode == 1
        assert errors.startswith("carpool: the coordinator process was killed by signal 9; its log is ")
        assert cluster.gone()


def test_what_is_still_being_fetched_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / ".minilm-x1").mkdir(parents=True)
    (tmp_path / "models" / ".minilm-x1" / "manifest.json").write_text("{}")
    monkeypatch.setenv("CARPOOL_CACHE", str(tmp_path))
    with pytest.raises(CarpoolError, match=r"no model in the cache .*; add one, for example"):
        models_to_offer("", noop=False)
