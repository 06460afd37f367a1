"""Lots spread over a Ray cluster of two nodes: what is lost of it comes back, and no result is lost or doubled."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.client import Client, Job
from node import client as driver
from tests.live import PATIENCE_S, Cluster, cluster, until
from tests.ray_nodes import SECOND, RayCluster, ray_cluster
from tests.test_live import collect, payloads

pytestmark = pytest.mark.timeout(240)  # Ray is slow to start, all the more on a busy machine
LOTS_WITHIN_S = 90.0
ITEMS = 400_000


@pytest.fixture(scope="module")
def rays() -> Iterator[RayCluster]:
    with ray_cluster() as rays:
        yield rays


@dataclass(frozen=True, slots=True)
class Scene:
    """A coordinator, and `python -m node --ray` with a lot for each of its cars."""

    live: Cluster
    folder: Path  # where the lots write their addresses
    process: subprocess.Popen[str]


@contextmanager
def lots(rays: RayCluster, *flags: str, **environment: str) -> Iterator[Scene]:
    with cluster() as live, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "node", "--ray", "--ray-address", rays.address, "--run-dir", folder),
                *("--coordinator", live.coordinator.grpc, "--models", "", "--noop", "--opt-in"),
                *("--vehicles-per-actor", "1", *flags),
            ],
            env={**rays.environment, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Scene(live, Path(folder), process)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=PATIENCE_S)
            finally:
                process.kill()


def ready(process: subprocess.Popen[str], count: int) -> dict[str, tuple[str, float]]:
    """Where each of so many lots is when it says that it is ready, and what it has of a card."""
    found: dict[str, tuple[str, float]] = {}
    assert process.stderr is not None
    for line in process.stderr:
        words = line.split()
        if words[:1] == ["lot"] and words[2:3] == ["ready"]:
            said = dict(word.split("=") for word in words[3:])
            found[words[1]] = said["ray_node"], float(said["gpus"])
            if len(found) == count:
                return found
    raise AssertionError(f"the lots ended; ready were {sorted(found)}")


def complaint(process: subprocess.Popen[str]) -> str:
    """What it says last, once it has ended for something that can be mended."""
    _, errors = process.communicate(timeout=LOTS_WITHIN_S)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    return errors.splitlines()[-1]


def test_lots_that_want_a_card_share_it_and_others_ask_for_none(rays: RayCluster) -> None:
    with lots(rays, "--vehicles", "2", "--device", "cuda") as scene:
        assert ready(scene.process, 2) == {"lot-0000": (SECOND, 0.5), "lot-0001": (SECOND, 0.5)}


def test_a_wrong_token_is_said_in_one_sentence(rays: RayCluster) -> None:
    with lots(rays, RAY_AUTH_TOKEN="0" * 32) as scene:
        assert "refuses this token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in complaint(scene.process)


def test_a_job_outlives_a_ray_node_and_the_cars_that_it_took_come_back(rays: RayCluster) -> None:
    first, second = rays.nodes

    async def play(scene: Scene) -> None:
        live, folder, process = scene.live, scene.folder, scene.process
        async with Client(live.coordinator.grpc) as client:
            cars = {node.name for node in await live.parked(client, 4)}
            parked = {car.name: car for car in driver.parked(folder)}
            assert parked.keys() == cars
            lost = sorted(name for name, car in parked.items() if second.has(car.process_id))
            left = sorted(name for name, car in parked.items() if first.has(car.process_id))
            assert (len(lost), len(left)) == (2, 2), "lots are spread over both nodes"
            driver.terms(folder, [lost[0], left[0]], {"least_charge": 0.25})

            job, _ = await client.submit("noop", payloads(ITEMS))

            async def under_way() -> Job | None:
                now = await client.job(job.job_id)
                return now if now.items_done * 20 >= now.items else None

            done = (await until(under_way)).items_done
            second.kill()
            assert done < ITEMS // 2, "in the middle of a job"
            results, failures, job = await collect(client, job)
            assert results == payloads(ITEMS), "one result of each item"
            assert (job.state, job.items_done, job.items_failed, failures) == ("done", ITEMS, 0, {})

            # On the surviving node, with what their owners had said.
            back = {f"lot-{int(name.removeprefix('car-')):04d}" for name in lost}
            assert (await asyncio.to_thread(ready, process, 2)).keys() == back
            assert {node.name for node in await live.parked(client, 4)} == cars
            parked = {car.name: car for car in driver.parked(folder)}
            assert all(first.has(car.process_id) for car in parked.values())
            assert parked[lost[0]].terms["least_charge"] == 0.25
            assert parked[lost[1]].terms.get("least_charge", 0.0) == 0.0

            # A process alone.
            os.kill(parked[left[0]].process_id, signal.SIGKILL)
            assert (await asyncio.to_thread(ready, process, 1)).keys() == {parked[left[0]].lot_id}
            assert {node.name for node in await live.parked(client, 4)} == cars
            again = {car.name: car for car in driver.parked(folder)}[left[0]]
            assert again.process_id != parked[left[0]].process_id
            assert again.terms["least_charge"] == 0.25

    with lots(rays, "--vehicles", "4") as scene:
        assert {gpus for _, gpus in ready(scene.process, 4).values()} == {0.0}
        asyncio.run(play(scene))


def test_lots_end_in_one_sentence_when_the_whole_cluster_is_gone(rays: RayCluster) -> None:
    with lots(rays, "--vehicles", "1") as scene:
        ready(scene.process, 1)
        rays.nodes[0].kill()
        assert f"the Ray cluster at {rays.address} is gone" in complaint(scene.process)
    with lots(rays, "--vehicles", "1") as scene:
        assert f"no Ray cluster answers at {rays.address}" in complaint(scene.process)
