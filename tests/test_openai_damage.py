"""Batches and files of which something was damaged on the disk, or for which there is no room, through OpenAI's own
client: real coordinators, another byte in what they keep."""

import asyncio
from pathlib import Path

import apsw
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from tests.faults.durable import kill, metric, start_again
from tests.faults.test_damage import flip, last_segment
from tests.live import Cluster, cluster, patient_cluster, until, within
from tests.test_openai_batches import (
    CHAT,
    HOUR,
    WORDS,
    begun,
    by_hand,
    caller,
    chats,
    lines,
    result,
    rows,
    text_of,
    url,
    when,
)

PATIENT = "[scheduling]\nsilent_after_s = 90.0\n"
"""For cars that are moved by hand."""
KEYS = {name: f"{name}-0123456789abcdef" for name in ("ann", "bob")}


async def answer_all(live: Cluster, name: str, items: int) -> None:
    """By a car that is there for so many."""
    async with by_hand(live, name) as car:
        while items:
            grant = await car.granted()
            granted = sum(part.count for part in grant.ranges)
            await car.report(grant.token, {at: result(name) for at in range(granted)}, ended=True)
            items -= granted


def test_a_damaged_result_fails_its_own_line_and_no_other(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def scene(live: Cluster) -> None:
        async with caller(live) as client, by_hand(live, "before") as car:
            batch = await begun(client, chats(6, WORDS))
            grant = await car.granted()
            await car.report(grant.token, {1: result("precious"), 3: result("sound")})
            await when(client, batch, "in_progress", completed=2)
            kill(live)
        flip(last_segment(state), last_segment(state).read_bytes().index(b"precious"))
        await asyncio.to_thread(start_again, live, "--state", str(state))
        async with caller(live) as client:
            await answer_all(live, "after", 4)
            done = await when(client, batch, "completed")
            assert done.request_counts is not None
            assert done.request_counts.model_dump() == {"total": 6, "completed": 5, "failed": 1}
            found = {name: text_of(row) for name, row in (await rows(client, done.output_file_id)).items()}
            assert found == {**{f"chat-{n}": "after" for n in (0, 2, 4, 5)}, "chat-3": "sound"}
            (failed,) = (await rows(client, done.error_file_id)).values()
            told = "the result of this request was damaged on the coordinator's disk; send it again"
            assert (failed["custom_id"], failed["response"]) == ("chat-1", None)
            assert failed["error"] == {"code": "damaged", "message": told}
            assert await metric(live, "carpool_store_errors_total", kind="corrupt") >= 1
        assert "segment-00000001 at byte" in live.coordinator.errors()

    with patient_cluster("--state", str(state)) as live:
        within(scene(live))


@pytest.mark.parametrize(
    ("damage", "answered", "told"),
    [
        ("UPDATE jobs SET value = value + 1", 2, "the database's row of job 1 is damaged; restore a backup"),
        ("UPDATE results SET items = 0 WHERE first = 1", 1, ""),
    ],
)
def test_a_batch_whose_ended_job_is_damaged_has_all_answers_that_are_there(
    damage: str, answered: int, told: str, tmp_path: Path
) -> None:
    state, config = tmp_path / "state", tmp_path / "carpool.toml"
    config.write_text(f"{PATIENT}[store]\ntenant_file_bytes = 5_000\n")  # it cannot end before its coordinator does

    async def scene(live: Cluster) -> None:
        async with caller(live) as client, by_hand(live) as car:
            batch = await begun(client, chats(2, WORDS))
            grant = await car.granted()
            await car.report(grant.token, {0: result("parked " * 600)})
            await car.report(grant.token, {1: result("parked " * 600)}, ended=True)
            await waiting(client, batch)
            kill(live)
        connection = apsw.Connection(str(state / "carpool.db"))
        assert list(connection.execute("SELECT outcome FROM jobs")) == [("done",)]
        connection.execute(damage)
        connection.close()
        await asyncio.to_thread(start_again, live, "--state", str(state))
        async with caller(live) as client:
            done = await when(client, batch, "completed")
            assert done.errors is None
            found = [[*await rows(client, file)] for file in (done.output_file_id, done.error_file_id)]
            assert found == [["chat-0", "chat-1"][:answered], ["chat-0", "chat-1"][answered:]]
        assert told in live.coordinator.errors()

    with cluster("--state", str(state), "--config", str(config)) as live:
        within(scene(live))


def test_a_damaged_file_is_found_unasked_and_said_to_whoever_wants_it(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def scene(live: Cluster) -> None:
        async with caller(live) as client:
            data = lines(chats(1, WORDS))
            file = await client.files.create(file=("a.jsonl", data), purpose="batch")
            sound = await client.files.create(file=("b.jsonl", data), purpose="batch")
            flip(state / "files" / file.id, 17)
            told = f"{file.id} is not the {len(data)} bytes that were written; restore a backup"

            async def found() -> bool | None:
                return await metric(live, "carpool_store_errors_total", kind="corrupt") >= 1 or None

            await until(found)
            with pytest.raises(openai.InternalServerError, match=told):
                await client.files.content(file.id)
            batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=HOUR)
            done = await when(client, batch, "failed")
            assert done.errors is not None
            assert done.errors.data is not None
            (error,) = done.errors.data
            assert error.code == "damaged"
            assert (error.message or "").endswith(told)
            assert (await client.files.content(sound.id)).content == data
        assert live.coordinator.errors().count(told) >= 3

    with cluster("--state", str(state)) as live:
        within(scene(live))


async def waiting(client: AsyncOpenAI, batch: Batch) -> Batch:
    """The batch, once it says what it waits for."""

    async def look() -> Batch | None:
        now = await client.batches.retrieve(batch.id)
        return now if now.errors else None

    return await until(look)


async def sent(client: AsyncOpenAI, size: int) -> str:
    return (await client.files.create(file=("a.jsonl", b"x" * size), purpose="batch")).id


@pytest.mark.parametrize("state", ["disk", ":memory:"])
def test_a_tenants_files_have_a_bound_and_others_are_not_harmed(tmp_path: Path, state: str) -> None:
    keys, config = tmp_path / "keys.toml", tmp_path / "carpool.toml"
    keys.write_text("[tenants]\n" + "".join(f'{name} = "{key}"\n' for name, key in KEYS.items()))
    config.write_text("[store]\ntenant_file_bytes = 20_000\n")
    flags = ("--api-keys", str(keys), "--config", str(config))

    async def scene(live: Cluster) -> None:
        async with (
            AsyncOpenAI(base_url=url(live), api_key=KEYS["ann"]) as ann,
            AsyncOpenAI(base_url=url(live), api_key=KEYS["bob"]) as bob,
        ):
            tried = await asyncio.gather(*(sent(ann, 9_000) for _ in range(8)), return_exceptions=True)
            taken = [one for one in tried if isinstance(one, str)]
            assert 1 <= len(taken) <= 2
            refused = next(one for one in tried if isinstance(one, openai.RateLimitError))
            assert (refused.code, refused.type) == ("insufficient_quota", "insufficient_quota")
            assert "9,000 more would be over 20,000, the limit of a tenant; delete some" in str(refused)
            assert refused.response.headers["x-should-retry"] == "false"
            assert {file.id async for file in ann.files.list()} == {*taken}
            await sent(bob, 19_000)
            small = [await sent(ann, 1) for _ in range((20_000 - 9_000 * len(taken)) // 4096)]
            with pytest.raises(openai.RateLimitError, match=r"your files take [\d,]+ bytes"):
                await sent(ann, 4_000)
            for name in (*taken, *small):
                await ann.files.delete(name)
            await sent(ann, 20_000)

    with cluster(*flags, *(("--state", state) if state == ":memory:" else ())) as live:
        within(scene(live))


def test_files_without_a_disk_have_a_bound_that_is_told(tmp_path: Path) -> None:
    config = tmp_path / "carpool.toml"
    config.write_text("[store]\nmemory_file_bytes = 1000\n")

    async def scene(live: Cluster) -> None:
        async with caller(live) as client:
            first = await sent(client, 600)
            told = "all files together take 600 bytes, and a coordinator without a disk takes 1,000; delete some"
            with pytest.raises(openai.RateLimitError, match=told) as refused:
                await sent(client, 500)
            assert refused.value.code == "rate_limit_exceeded"
            await client.files.delete(first)
            await sent(client, 500)

    with cluster("--config", str(config), "--state", ":memory:") as live:
        within(scene(live))


def test_a_batch_whose_answers_have_no_room_says_so_and_waits_for_it(tmp_path: Path) -> None:
    config = tmp_path / "carpool.toml"
    config.write_text(f"{PATIENT}[store]\ntenant_file_bytes = 10_000\n")

    async def scene(live: Cluster) -> None:
        async with caller(live) as client, by_hand(live) as car:
            spare = await sent(client, 5_000)
            batch = await begun(client, chats(1, WORDS))
            grant = await car.granted()
            await car.report(grant.token, {0: result("parked " * 600)}, ended=True)

            now = await waiting(client, batch)
            assert (now.status, now.output_file_id) == ("finalizing", None)
            assert now.errors is not None
            assert now.errors.data is not None
            (error,) = now.errors.data
            assert (error.code, "the limit of a tenant; delete some" in (error.message or "")) == ("no_room", True)
            await client.files.delete(spare)
            done = await when(client, batch, "completed")
            assert done.errors is None
            assert len(await rows(client, done.output_file_id)) == 1

    with cluster("--config", str(config)) as live:
        within(scene(live))


def test_a_batch_whose_answers_have_no_room_can_be_cancelled(tmp_path: Path) -> None:
    config = tmp_path / "carpool.toml"
    config.write_text(f"{PATIENT}[store]\ntenant_file_bytes = 4_500\n")

    async def scene(live: Cluster) -> None:
        async with caller(live) as client, by_hand(live) as car:
            batch = await begun(client, chats(1, WORDS))
            grant = await car.granted()
            await car.report(grant.token, {0: result("parked " * 600)}, ended=True)
            await waiting(client, batch)
            with pytest.raises(openai.ConflictError, match="cancel it"):
                await client.files.delete(batch.input_file_id)
            await client.batches.cancel(batch.id)
            done = await when(client, batch, "cancelled")
            assert (done.output_file_id, done.error_file_id) == (None, None)
            assert done.errors is not None
            assert done.errors.data is not None
            assert [error.code for error in done.errors.data] == ["no_room"]
            await client.files.delete(batch.input_file_id)

    with cluster("--config", str(config)) as live:
        within(scene(live))
