"""The whole way through real processes: whatever happens to cars, the client gets every result, once, in order."""

import asyncio
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from coordinator.client import Client, Job
from coordinator.errors import CarpoolError, Failure
from protos import jobs_pb2, jobs_pb2_grpc, link_pb2
from tests.faults.durable import metric
from tests.hand_lot import ITEMS_PER_S, HandLot
from tests.live import PATIENCE_S, Cluster, cluster, until

DIRECT = (("grpc.enable_http_proxy", 0),)
POISON_LOT = "tests.poison_lot"
QUICK = "[scheduling]\nheartbeat_s = 0.2\nsilent_after_s = 0.8\n"


def payloads(count: int) -> list[bytes]:
    return [b"item %d" % number for number in range(count)]


async def collect(client: Client, job: Job) -> tuple[list[bytes], dict[int, Failure], Job]:
    results: list[bytes] = []
    failures: dict[int, Failure] = {}
    async for part in client.results(job.job_id):
        assert part.first_item == len(results) or not part.payloads, "results come in order and without a gap"
        results.extend(part.payloads)
        failures.update(part.failures)
        job = part.job
    return results, failures, job


async def half_way(client: Client, job: Job) -> Job:
    async def look() -> Job | None:
        now = await client.job(job.job_id)
        return now if now.items_done * 4 >= now.items else None

    return await until(look)


def within(work: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(run())


def test_a_batch_job_comes_back_complete_and_in_order() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 6)
            job, existed = await client.submit("noop", payloads(50_000))
            assert not existed
            results, failures, job = await collect(client, job)
        assert results == payloads(50_000)
        assert not failures
        assert (job.state, job.items_done) == ("done", 50_000)

    with cluster(lots=2, vehicles=3) as live:
        within(work(live))


def test_lots_that_come_all_at_once_are_told_when_to_come_back(tmp_path: Path) -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 4)

    config = tmp_path / "carpool.toml"
    config.write_text("[limits]\njoins_per_s = 1\n")
    with cluster("--config", str(config), lots=4) as live:
        within(work(live))


def test_killing_a_lot_in_the_middle_of_a_job_costs_the_client_nothing() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 4)
            job, _ = await client.submit("noop", payloads(400_000))
            await half_way(client, job)
            live.kill("lot-0")
            results, failures, job = await collect(client, job)
            nodes = {node.name: node for node in await client.nodes()}
        assert results == payloads(400_000)
        assert not failures
        assert nodes["car-0000"].state == "away"
        assert nodes["car-0000"].departures == 1

    with cluster(lots=2, vehicles=2) as live:
        within(work(live))


def test_an_interactive_request_survives_the_death_of_its_car() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 2)

            async def ask(number: int) -> None:
                for turn in range(100):
                    item = b"%d %d" % (number, turn)
                    assert await client.run("noop", [item], timeout_s=20) == [item]

            async with asyncio.TaskGroup() as tasks:
                for number in range(16):
                    tasks.create_task(ask(number))
                await asyncio.to_thread(live.kill, "lot-0")

    with cluster(lots=2) as live:
        within(work(live))


def test_a_poison_item_fails_alone_and_its_neighbours_succeed() -> None:
    items = payloads(40)
    items[17] = b"POISON"

    async def work(live: Cluster) -> None:
        async def keep_alive() -> None:
            """The owner's computer restarts, as Ray restarts an actor."""
            while True:
                for name in list(live.lots):
                    if live.lots[name].poll() is not None:
                        live.add(name, module=POISON_LOT, first_index=int(name[-1]))
                await asyncio.sleep(0.05)

        async with Client(live.coordinator.grpc) as client:
            for number in range(2):
                live.add(f"lot-{number}", module=POISON_LOT, first_index=number)
            await live.parked(client, 2)
            keeping = asyncio.create_task(keep_alive())
            job, _ = await client.submit("noop", items)
            results, failures, job = await collect(client, job)
            keeping.cancel()
        assert failures.keys() == {17}
        assert failures[17].code == "node_died"
        assert [result for number, result in enumerate(results) if number != 17] == [
            item for number, item in enumerate(items) if number != 17
        ]

    with cluster() as live:
        within(work(live))


def test_a_lot_that_stops_answering_is_noticed_and_comes_back(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(QUICK)

    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 2)
            live.signal("lot-0", signal.SIGSTOP)
            await live.parked(client, 1)
            job, _ = await client.submit("noop", payloads(10_000))
            results, _, _ = await collect(client, job)
            assert results == payloads(10_000)
            live.signal("lot-0", signal.SIGCONT)
            nodes = await live.parked(client, 2)
            assert {node.departures for node in nodes} == {0, 1}

    with cluster("--config", str(config), lots=2) as live:
        within(work(live))


def test_lots_come_back_to_a_restarted_coordinator(tmp_path: Path) -> None:
    flags = ("--state", str(tmp_path))

    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 4)
        live.coordinator.process.kill()
        live.coordinator.process.wait()
        live.coordinator = type(live.coordinator)("--grpc-port", live.coordinator.grpc.rsplit(":", 1)[1], *flags)
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 4)
            assert await client.run("noop", [b"again"]) == [b"again"]

    with cluster(*flags, lots=2, vehicles=2) as live:
        within(work(live))


def test_a_lot_that_is_told_to_stop_says_goodbye() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 2)
            live.lots["lot-0"].terminate()
            assert await asyncio.to_thread(live.lots["lot-0"].wait, PATIENCE_S) == 0
            await live.parked(client, 1)
        url = f"http://{live.coordinator.addresses['metrics']}/metrics"
        text = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
        assert 'carpool_node_departures_total{cause="drained",profile="hw4"} 1.0' in text

    with cluster(lots=2) as live:
        within(work(live))


def test_large_items_travel_beside_the_stream() -> None:
    items = [bytes([number]) * 300_000 for number in range(20)]

    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            model = next(model for model in await client.models() if model.name == "noop")
            assert model.max_item_bytes >= 300_000
            job, _ = await client.submit("noop", items)
            results, failures, _ = await collect(client, job)
            assert not failures
            assert results == items
            assert await client.run("noop", items[:1]) == items[:1]

    with cluster(lots=1) as live:
        within(work(live))


def test_the_same_key_names_the_same_job() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            both = await asyncio.gather(
                *(client.submit("noop", payloads(10), idempotency_key="k") for _ in range(2))
            )
            assert {job.job_id for job, _ in both} == {both[0][0].job_id}
            assert {existed for _, existed in both} == {True, False}
            with pytest.raises(CarpoolError, match="other content"):
                await client.submit("noop", payloads(11), idempotency_key="k")

    with cluster(lots=1) as live:
        within(work(live))


def test_a_finished_job_is_kept_as_long_as_the_configuration_says(tmp_path: Path) -> None:
    forgetful = tmp_path / "config.toml"
    forgetful.write_text("[store]\nkeep_finished_s = 0\nspare_finished_s = 0\n")
    state = ("--state", str(tmp_path / "state"))

    async def finish(live: Cluster) -> str:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            job, _ = await client.submit("noop", [b"one"], idempotency_key="k")
            async for _ in client.results(job.job_id):
                pass
            return job.job_id

    async def look(live: Cluster, gone: str) -> None:
        async with Client(live.coordinator.grpc) as client:

            async def forgotten() -> bool | None:
                return None if await client.jobs() else True

            await until(forgotten)
            with pytest.raises(CarpoolError, match=f"no job is called {gone}"):
                await client.job(gone)
            with pytest.raises(CarpoolError, match=f"no job is called {gone}"):
                async for _ in client.results(gone):
                    pass
            await live.parked(client, 1)
            job, existed = await client.submit("noop", [b"another"], idempotency_key="k")
            assert not existed
            assert job.job_id != gone

    with cluster(*state, lots=1) as live:
        gone = asyncio.run(finish(live))
    with cluster(*state, "--config", str(forgetful), lots=1) as live:
        asyncio.run(look(live, gone))


def test_a_cancelled_job_ends_and_stays_cancelled() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            await client.cordon(["car-0000"])
            job, _ = await client.submit("noop", payloads(100))
            assert (await client.cancel(job.job_id)).state == "cancelled"
            await client.cordon(["car-0000"], cordoned=False)
            results, _, job = await collect(client, job)
            assert (results, job.state) == ([], "cancelled")
            assert (await client.jobs())[0].state == "cancelled"

    with cluster(lots=1) as live:
        within(work(live))


def test_a_waiting_job_and_an_idle_car_say_why() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            await client.cordon(["car-0000"])
            job, _ = await client.submit("noop", [b"one", b"two"])
            assert await client.explain_job(job.job_id) == [
                f"{job.job_id} (batch, noop) has 2 items: 0 done, 0 failed, 0 at work on 0 nodes, 2 waiting.",
                "Of 1 node 0 are free and fit.",
                "  1 is cordoned",
                "No node that takes work now runs noop.",
            ]
            assert await client.explain_node("car-0000") == [
                "car-0000 is cordoned.",
                f"1 job waits for noop, {job.job_id} first: this node is cordoned.",
            ]
            await client.cordon(["car-0000"], cordoned=False)
            await collect(client, job)
            assert await client.explain_job(job.job_id) == [f"{job.job_id} has ended: 2 items are done, 0 failed."]
            assert (await client.explain_node("car-0000"))[1:] == ["No job waits."]
            chances = await client.forecast("car-0000")
            assert [after_s for after_s, _ in chances] == [900.0, 3600.0, 14400.0]
            assert 1.0 > chances[0][1] > chances[1][1] > chances[2][1] > 0.0
            with pytest.raises(CarpoolError, match="no job is called job-99999999"):
                await client.explain_job("job-99999999")
            with pytest.raises(CarpoolError, match="no vehicle is called bus-1"):
                await client.explain_node("bus-1")

    with cluster(lots=1) as live:
        within(work(live))


def test_a_drained_car_leaves_when_it_has_finished() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 2)
            await client.drain(["car-0000"])
            nodes = await live.parked(client, 1)
            assert {node.name: node.state for node in nodes}["car-0001"] == "idle"

    with cluster(lots=1, vehicles=2) as live:
        within(work(live))


def test_bad_calls_get_one_sentence() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            for model, items, said in (
                ("nope", [b"x"], "no vehicle here offers model 'nope'; offered: noop"),
                ("noop", [], "no items"),
                ("noop", [b"x", b""], "item 1 is empty"),
                ("noop", [b"x"] * 65, "the limit is 64"),
            ):
                with pytest.raises(CarpoolError, match=said):
                    await client.run(model, items)
            for name in ("job-99999999", "nonsense", ""):
                with pytest.raises(CarpoolError, match="no job is called"):
                    await client.job(name)
            with pytest.raises(CarpoolError, match="no vehicle is called"):
                await client.drain(["bus-1"])
        async with grpc.aio.insecure_channel(live.coordinator.grpc, options=DIRECT) as channel:
            jobs: jobs_pb2_grpc.JobServiceAsyncStub = jobs_pb2_grpc.JobServiceStub(channel)
            header = jobs_pb2.JobHeader(model="noop", items=2)
            odd = jobs_pb2.SubmitJobRequest(header=header, items=jobs_pb2.Items(payload=b"abc", lengths=[1, 1]))
            with pytest.raises(grpc.aio.AioRpcError, match="add up to 2, and its payload has 3 bytes") as raised:
                await jobs.SubmitJob(iter([odd]))
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    with cluster(lots=1) as live:
        within(work(live))


def test_a_job_that_is_too_likely_to_be_late_is_refused_and_leaves_nothing() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            await client.cordon(["car-0000"])
            said = "0 % sure to be done by its deadline in 1 h 0 min, and at least 90 % is asked for; nobody can"
            for _ in range(2):
                with pytest.raises(CarpoolError, match=said):
                    await client.submit(
                        "noop", [b"x"], idempotency_key="mine", deadline_s=3601.0, least_on_time=0.9
                    )
            assert await client.jobs() == []
            await client.cordon(["car-0000"], cordoned=False)
            job, existed = await client.submit(
                "noop", [b"x"], idempotency_key="mine", deadline_s=3601.0, value=5.0, least_on_time=0.5
            )
            assert not existed
            assert (await collect(client, job))[0] == [b"x"]
            for least_on_time, item_work in ((1.5, 1.0), (0.0, -1.0), (0.0, float("nan"))):
                with pytest.raises(CarpoolError, match=r"(least_on_time|item_work) is .*; give a"):
                    await client.submit("noop", [b"x"], item_work=item_work, least_on_time=least_on_time)

    with cluster(lots=1) as live:
        within(work(live))


def test_a_quote_counts_the_jobs_that_were_taken_before() -> None:
    async def work(live: Cluster) -> None:
        async with (
            Client(live.coordinator.grpc) as client,
            HandLot(live.coordinator.grpc, "idle") as lot,
        ):
            await live.parked(client, 1)
            first, _ = await client.submit("noop", payloads(int(4 * ITEMS_PER_S)), deadline_s=3600.0)
            await lot.granted()
            second, _ = await client.submit("noop", payloads(int(4 * ITEMS_PER_S)), deadline_s=3600.0)
            first = await client.job(first.job_id)
            assert first.quote is not None
            assert second.quote is not None
            assert second.quote.on_time > 0.5
            assert second.quote.finish_s > first.quote.finish_s + 2.0
            assert (await client.cancel(second.job_id)).quote is None

    with cluster() as live:
        within(work(live))


def test_what_the_forecast_said_is_compared_with_what_came_of_it() -> None:
    async def work(live: Cluster) -> None:
        async def judged() -> bool | None:
            stayed = await metric(live, "carpool_forecast_outcomes_total", horizon="1h", outcome="stayed")
            return stayed > 10.0 or None

        await until(judged)
        assert await metric(live, "carpool_forecast_stay_probability_total", horizon="1h") > 5.0

    with cluster() as live:
        live.add("street", "--day", "home", "--speed", "7200", vehicles=40)
        within(work(live))


def test_what_a_lease_that_yielded_did_not_do_is_lent_again() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client, HandLot(live.coordinator.grpc, "kind") as lot:
            await live.parked(client, 1)
            items = payloads(3)
            job, _ = await client.submit("noop", items)
            first = await lot.granted()
            await lot.report(first.token, {1: items[1]}, ended=True, cause=link_pb2.END_CAUSE_YIELDED)
            second = await lot.granted()
            assert list(second.inputs) == [items[0], items[2]]
            await lot.report(second.token, {0: items[0], 1: items[2]}, ended=True)
            assert (await collect(client, job))[0] == items
            assert await metric(live, "carpool_leases_total", outcome="yielded", profile="hw4") == 1.0

    with cluster() as live:
        within(work(live))


def test_a_request_without_a_car_ends_at_its_deadline_and_says_why() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            await client.cordon(["car-0000"])
            with pytest.raises(CarpoolError):
                await client.run("noop", [b"x"], timeout_s=0.3)
            await client.cordon(["car-0000"], cordoned=False)
            assert await client.run("noop", [b"x"]) == [b"x"]

    with cluster(lots=1) as live:
        within(work(live))


def test_keys_say_who_may_call_what(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    tenant, other, node, operator = (f"{name}-0123456789abcdef" for name in ("tenant", "other", "node", "operator"))
    keys.write_text(
        f'[tenants]\nacme = "{tenant}"\nother = "{other}"\n[nodes]\nn = "{node}"\n[operators]\no = "{operator}"\n'
    )

    async def work(live: Cluster) -> None:
        live.add("lot-0", "--api-key", node)
        async with (
            Client(live.coordinator.grpc) as nobody,
            Client(live.coordinator.grpc, tenant) as acme,
            Client(live.coordinator.grpc, other) as stranger,
            Client(live.coordinator.grpc, operator) as operations,
        ):
            await live.parked(operations, 1)
            job, _ = await acme.submit("noop", payloads(3))
            assert (await collect(acme, job))[0] == payloads(3)
            with pytest.raises(CarpoolError, match="no job is called"):
                await stranger.job(job.job_id)
            assert await stranger.jobs() == []
            with pytest.raises(CarpoolError, match="no API key was sent"):
                await nobody.jobs()
            with pytest.raises(CarpoolError, match=r"stands under \[tenants\], not under \[operators\]"):
                await acme.nodes()

    with cluster("--api-keys", str(keys)) as live:
        within(work(live))


def test_health_and_reflection_are_served() -> None:
    async def work(live: Cluster) -> None:
        async with grpc.aio.insecure_channel(live.coordinator.grpc, options=DIRECT) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service="carpool.v1.JobService"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            names = [
                service.name
                async for response in reflection.ServerReflectionInfo(iter([asked]))
                for service in response.list_services_response.service
            ]
            assert {"carpool.v1.JobService", "carpool.v1.FleetService", "carpool.v1.LinkService"} <= set(names)

    with cluster() as live:
        within(work(live))


def test_it_serves_within_a_second_and_stops_cleanly() -> None:
    with cluster() as live:
        live.coordinator.process.terminate()
        assert live.coordinator.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--host", "0.0.0.0"), "0.0.0.0 is open to others: it needs --api-keys FILE"),
        (("--api-keys", "nowhere.toml"), "cannot read the key file nowhere.toml"),
        (("--config", "nowhere.toml"), "cannot read the configuration nowhere.toml"),
    ],
)
def test_a_coordinator_that_cannot_serve_says_so_in_a_line(flags: tuple[str, ...], said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "coordinator", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--grpc-port", "--http-port", "--metrics-port"])
def test_a_port_in_use_is_named(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "coordinator", flag, str(port)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.returncode == 2
    assert f"127.0.0.1:{port}: it is in use or not ours; choose another {flag}" in ended.stderr
    assert "Traceback" not in ended.stderr
