"""A lot that is wrong about its lease, spoken by hand: the coordinator refuses its results, and takes note.

What comes too late differs from what is right, so that taking it would show.
"""

import asyncio
from pathlib import Path

from coordinator.client import Client, Job
from protos import link_pb2
from tests.faults.durable import Handed, check_recorded_once, collect, kill, metric, start_again, submit
from tests.hand_lot import HandLot
from tests.live import Cluster, cluster, until

SLOW = "tests.slow_lot"
PATIENT = "[scheduling]\nsilent_after_s = 50.0\n"
"""The lot by hand sends no heartbeats."""
BRIEF = PATIENT + "lease_least_s = 0.5\n"
"""The lease of a lot as fast as the one by hand runs out at once; that of a slow lot, which reports, does not."""
SCENE_S = 60.0


def late(count: int) -> dict[int, bytes]:
    """Wrong results for a lease of so many items."""
    return {item: b"late %d" % item for item in range(count)}


def unknown(token: link_pb2.Token) -> link_pb2.Revocation:
    """The word to a lot that there is no such lease."""
    return link_pb2.Revocation(token=token, cause=link_pb2.REVOCATION_CAUSE_UNKNOWN)


async def refused(live: Cluster, reason: str) -> float:
    """Results that the coordinator has refused for this reason."""
    return await metric(live, "carpool_results_rejected_total", reason=reason)


async def check_done(client: Client, job: Job, handed: Handed) -> None:
    """The job is done with the right results, and no car is credited with more than there was to do."""
    results, failures, job = await collect(client, job.job_id)
    assert (results, failures, job.state, job.items_done) == (handed.items, {}, "done", handed.count)
    assert sum(node.items_done for node in await client.nodes()) == handed.count


def test_a_result_under_a_lease_that_ran_out_is_refused(tmp_path: Path) -> None:
    config, state = tmp_path / "config.toml", tmp_path / "state"
    config.write_text(BRIEF)
    handed = Handed("late", 3000)

    async def scene(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client, HandLot(live.coordinator.grpc, "late") as lot:
            await live.parked(client, 1)
            job = await submit(client, handed)
            lease = (await lot.granted()).token
            await client.cordon(["late"])  # else it would be lent the same again
            assert await lot.revoked(lease) == link_pb2.REVOCATION_CAUSE_EXPIRED
            live.add("other", module=SLOW)

            async def at_work() -> bool | None:
                now = await client.job(job.job_id)
                return (now.items_done > 0 and now.items_leased > 0) or None

            await until(at_work)
            assert await lot.report(lease, late(handed.count)) == [unknown(lease)]
            assert (await client.job(job.job_id)).state == "running", "others hold what is reported here"
            assert await refused(live, "stale_token") == handed.count
            await check_done(client, job, handed)
            assert not await lot.report(lease, late(handed.count), ended=True), "it has given the lease up itself"
            assert await refused(live, "stale_token") == 2 * handed.count
            await check_done(client, job, handed)
        kill(live)
        check_recorded_once(state, 1)

    with cluster("--config", str(config), "--state", str(state)) as live:
        asyncio.run(asyncio.wait_for(scene(live), SCENE_S))


def test_a_result_that_is_sent_again_counts_once(tmp_path: Path) -> None:
    config, state = tmp_path / "config.toml", tmp_path / "state"
    config.write_text(PATIENT)
    handed = Handed("twice", 8)
    right = dict(enumerate(handed.items))

    async def scene(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client, HandLot(live.coordinator.grpc, "twice") as lot:
            await live.parked(client, 1)
            job = await submit(client, handed)
            lease = (await lot.granted()).token
            for results in ({item: right[item] for item in range(5)}, late(5)):
                await lot.report(lease, results, sequence=1, useful_s=2.0)
                assert (await client.job(job.job_id)).items_done == 5
            assert await metric(live, "carpool_accelerator_seconds_total", use="useful") == 2.0
            assert not await lot.report(lease, late(5), sequence=2), "the lease is still its own"
            assert await refused(live, "duplicate") == 5
            assert (await client.job(job.job_id)).items_done == 5
            await lot.report(lease, {item: right[item] for item in range(5, 8)}, sequence=3, ended=True)
            await lot.report(lease, late(8), sequence=3, ended=True)
            assert await refused(live, "stale_token") == 0, "the whole message is an old one"
            await lot.report(lease, late(8), sequence=4, ended=True)
            assert await refused(live, "stale_token") == 8
            await check_done(client, job, handed)
        kill(live)
        check_recorded_once(state, 1)

    with cluster("--config", str(config), "--state", str(state)) as live:
        asyncio.run(asyncio.wait_for(scene(live), SCENE_S))


def test_a_token_of_a_former_coordinator_is_refused(tmp_path: Path) -> None:
    config, state = tmp_path / "config.toml", tmp_path / "state"
    config.write_text(PATIENT)
    flags = ("--config", str(config), "--state", str(state))
    handed = Handed("former", 8)

    async def scene(live: Cluster) -> None:
        target = live.coordinator.grpc
        async with Client(target) as client:
            async with HandLot(target, "zombie") as lot:
                await live.parked(client, 1)
                job = await submit(client, handed)
                grant = await lot.granted()
                former = grant.token
                await asyncio.to_thread(kill, live)
            await asyncio.to_thread(start_again, live, *flags)
            async with HandLot(target, "zombie") as lot:
                lease = (await lot.granted()).token
                assert (lease.epoch, lease.attempt) == (former.epoch + 1, former.attempt)
                assert await lot.report(former, late(handed.count)) == [unknown(former)]
                assert await refused(live, "stale_token") == handed.count
                assert (await client.job(job.job_id)).items_done == 0
            live.add("other")
            await check_done(client, job, handed)
            held = link_pb2.HeldLease(
                token=former, node=0, job_id=job.job_id, ranges=grant.ranges, done=b"\xff", model="noop"
            )
            async with HandLot(target, "zombie", [held]) as lot:
                assert list(lot.welcome.dropped) == [former]
                assert await lot.report(former, late(handed.count)) == [unknown(former)]
                assert await refused(live, "stale_token") == 2 * handed.count
                await check_done(client, job, handed)
        kill(live)
        check_recorded_once(state, 1)

    with cluster(*flags) as live:
        asyncio.run(asyncio.wait_for(scene(live), SCENE_S))
