"""Answers told as they are made, by lots that a test moves by hand: the caller hears each token once."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import pytest

from coordinator.client import Client, Said
from coordinator.errors import CarpoolError
from protos import link_pb2
from tests.faults.durable import metric, scrape, total
from tests.hand_lot import HandLot
from tests.live import Cluster, cluster, patient_cluster, until, within

MODEL = "words"
ANSWER = "parked cars are a computer that nobody has to buy"
WORDS = ANSWER.split(" ")


@pytest.fixture(scope="module")
def live() -> Iterator[Cluster]:
    """A coordinator for all tests that move no more than lots and hold against it nothing that others did."""
    with patient_cluster() as live:
        yield live


async def risen(live: Cluster, before: str, name: str, **labels: str) -> float:
    """By how much a metric has risen since that scrape."""
    return total(await scrape(live), name, **labels) - total(before, name, **labels)


def lot(live: Cluster, name: str, held: Sequence[link_pb2.HeldLease] = (), incarnation: int = 0) -> HandLot:
    """One that answers in words."""
    return HandLot(live.coordinator.grpc, name, held, model=MODEL, kind="generate", incarnation=incarnation)


def chat(**fields: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "what?"}], **fields}).encode()


def result(text: str = ANSWER, tokens: int = len(WORDS)) -> bytes:
    body = {"text": text, "finish_reason": "stop", "prompt_tokens": 7, "completion_tokens": tokens}
    return json.dumps(body).encode()


async def offered(client: Client, lots: int = 1) -> None:
    async def look() -> bool | None:
        nodes = await client.nodes()
        return sum(node.state in ("idle", "busy") and MODEL in node.models for node in nodes) == lots or None

    await until(look)


async def say(car: HandLot, token: link_pb2.Token, first: int, last: int, reused: int = 0) -> None:
    """Say the words [first, last) of the answer, each a token that is its place; so many were held from before."""
    before = "".join(f"{word} " for word in WORDS[:first])
    text = "".join(f"{word} " for word in WORDS[first:last])
    await car.say(token, first, range(first, last), len(before), text[: len(ANSWER) - len(before)], reused)


async def hear(stream: AsyncGenerator[Said], tokens: int) -> list[Said]:
    """What is said until so many tokens came."""
    heard: list[Said] = []
    while sum(len(said.tokens) for said in heard) < tokens:
        heard.append(await anext(stream))
    return heard


def text_of(heard: list[Said]) -> str:
    return "".join(said.text for said in heard)


def tokens_of(heard: list[Said]) -> list[int]:
    return [token for said in heard for token in said.tokens]


def test_what_a_car_says_is_heard_before_the_answer_is_complete(live: Cluster) -> None:
    async def work() -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            before = await scrape(live)
            stream = client.generate(MODEL, chat())
            first = asyncio.create_task(anext(stream))
            grant = await car.granted()
            assert grant.streamed
            assert not grant.begun
            await say(car, grant.token, 0, 1)
            said = await first
            assert (said.text, list(said.tokens), said.vehicle) == ("parked ", [0], "car-a")
            await say(car, grant.token, 1, len(WORDS))
            await car.report(grant.token, {0: result()}, ended=True)
            heard = [said async for said in stream]
        assert said.text + text_of(heard) == ANSWER
        assert heard[-1] == Said("", [], "", "stop", 7, len(WORDS))
        name = "gen_ai_server_time_to_first_token_seconds_count"
        assert await risen(live, before, name, gen_ai_request_model=MODEL) == 1

    within(work())


def test_how_likely_each_token_was_is_told_once_whichever_cars_tell_it(live: Cluster) -> None:
    async def work() -> None:
        told = [json.dumps({"token": word, "logprob": -place}).encode() for place, word in enumerate("abc")]
        async with (
            Client(live.coordinator.grpc) as client,
            lot(live, "car-a") as car,
            lot(live, "car-b") as other,
        ):
            await offered(client, 2)
            stream = client.generate(MODEL, chat(logprobs=True))
            listening = asyncio.create_task(hear(stream, 3))
            granted = {asyncio.create_task(each.granted()): each for each in (car, other)}
            (first,), _ = await asyncio.wait(granted, return_when=asyncio.FIRST_COMPLETED)
            (second,) = granted.keys() - {first}
            one, two = granted[first], granted[second]
            await one.say(first.result().token, 0, [0, 1], 0, "ab", likelihoods=told[:2])
            await one.report(first.result().token, {}, ended=True, cause=link_pb2.END_CAUSE_UNPLUGGED, departs=True)
            token = (await second).token
            await two.say(token, 0, [0, 1, 2], 0, "abc", likelihoods=told)
            heard = await listening
            assert [each for said in heard for each in said.likelihoods] == told
            assert [said.prompt_tokens for said in heard] == [7] * len(heard)
            assert heard[-1].completion_tokens == 3
            await stream.aclose()

    within(work())


def test_another_car_goes_on_where_one_stopped_and_what_that_one_says_later_is_refused(live: Cluster) -> None:
    async def work() -> None:
        async with (
            Client(live.coordinator.grpc) as client,
            lot(live, "car-a") as first,
            lot(live, "car-b") as second,
        ):
            await offered(client, 2)
            before = await scrape(live)
            cars = {"car-a": first, "car-b": second}
            stream = client.generate(MODEL, chat())
            beginning = asyncio.create_task(hear(stream, 4))
            granted = {asyncio.create_task(car.granted()): name for name, car in cars.items()}
            done, waiting = await asyncio.wait(granted, return_when=asyncio.FIRST_COMPLETED)
            (speaking,), (free,) = done, waiting
            old, new = cars[granted[speaking]], cars[granted[free]]
            grant = speaking.result()
            await say(old, grant.token, 0, 4)
            heard = await beginning
            await old.report(grant.token, {}, ended=True, cause=link_pb2.END_CAUSE_UNPLUGGED, departs=True)
            again = await free
            assert [(row.item, list(row.tokens)) for row in again.begun] == [(0, [0, 1, 2, 3])]
            await say(old, grant.token, 4, 6)  # too late: it is not its to say any more
            await say(new, again.token, 4, len(WORDS), reused=5)
            await new.report(again.token, {0: result()}, ended=True)
            heard += [said async for said in stream]
        assert text_of(heard) == ANSWER
        assert tokens_of(heard) == list(range(len(WORDS)))
        assert [said.vehicle for said in heard if said.vehicle] == [granted[speaking], granted[free]]
        assert await risen(live, before, "carpool_partials_rejected_total", reason="stale_token") == 1
        assert await risen(live, before, "carpool_stream_handover_gap_seconds_count") == 1
        assert await risen(live, before, "carpool_tokens_recomputed_total") == 7 + 4 - 5

    within(work())


def test_what_is_said_twice_counts_once_and_what_leaves_a_gap_counts_not_at_all(live: Cluster) -> None:
    async def work() -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            before = await scrape(live)
            stream = client.generate(MODEL, chat())
            listening = asyncio.create_task(hear(stream, len(WORDS)))
            grant = await car.granted()
            await say(car, grant.token, 0, 3)
            await say(car, grant.token, 4, 6)
            await say(car, grant.token, 0, 2)
            await say(car, grant.token, 1, len(WORDS))
            heard = await listening
            await car.report(grant.token, {0: result()}, ended=True)
            heard += [said async for said in stream]
        assert text_of(heard) == ANSWER
        assert tokens_of(heard) == list(range(len(WORDS)))
        for reason in ("gap", "duplicate"):
            assert await risen(live, before, "carpool_partials_rejected_total", reason=reason) == 1

    within(work())


def test_a_lot_whose_link_breaks_goes_on_with_its_answer(live: Cluster) -> None:
    async def work() -> None:
        async with Client(live.coordinator.grpc) as client:
            async with lot(live, "car-a") as car:
                await offered(client)
                stream = client.generate(MODEL, chat())
                listening = asyncio.create_task(hear(stream, 3))
                grant = await car.granted()
                await say(car, grant.token, 0, 3)
                heard = await listening
            held = link_pb2.HeldLease(
                token=grant.token, node=0, job_id=grant.job_id, ranges=grant.ranges, model=grant.model
            )
            again = lot(live, "car-a", [held], car.incarnation)
            async with again:
                assert not again.welcome.dropped
                await say(again, grant.token, 0, 5)  # of what was written last some may not have arrived
                await say(again, grant.token, 5, len(WORDS))
                await again.report(grant.token, {0: result()}, ended=True)
                heard += [said async for said in stream]
        assert text_of(heard) == ANSWER
        assert tokens_of(heard) == list(range(len(WORDS)))

    within(work())


def test_a_lot_that_tells_no_tokens_gives_the_answer_all_at_once(live: Cluster) -> None:
    async def work() -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            stream = client.generate(MODEL, chat())
            listening = asyncio.create_task(anext(stream))
            grant = await car.granted()
            await car.report(grant.token, {0: result()}, ended=True)
            said = await listening
            assert (said.text, said.vehicle) == (ANSWER, "car-a")
            assert [part.finish_reason async for part in stream] == ["stop"]

    within(work())


def test_an_answer_may_take_long_while_tokens_come_and_not_when_none_do(tmp_path: Path) -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            stream = client.generate(MODEL, chat())
            listening = asyncio.create_task(anext(stream))
            grant = await car.granted()
            until_s, said = monotonic() + 3 * grant.lease_s, 0
            while monotonic() < until_s:
                await car.say(grant.token, said, [said], said, "x")
                said += 1
                await listening
                listening = asyncio.create_task(anext(stream))
            await car.report(grant.token, {0: result("x" * said, said)}, ended=True)
            assert (await listening).finish_reason == "stop"
            silent = asyncio.create_task(anext(client.generate(MODEL, chat())))
            waits_s = monotonic()
            await car.granted()
            with pytest.raises(CarpoolError, match="nothing had come of it within"):
                await silent
            assert monotonic() - waits_s < 10.0, "also who gives no deadline does not wait for ever"

    config = tmp_path / "carpool.toml"
    config.write_text("[scheduling]\nheartbeat_s = 0.1\nlease_least_s = 0.5\ninteractive_timeout_s = 0.6\n")
    with cluster("--config", str(config)) as live:
        within(work(live))


def test_a_caller_who_leaves_frees_the_car_at_once(live: Cluster) -> None:
    async def work() -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            others = [asyncio.create_task(client.run(MODEL, [chat()])) for _ in range(3)]
            for _ in others:
                await car.granted()
            for begun in (False, True):
                async with aclosing(client.generate(MODEL, chat())) as stream:
                    listening = asyncio.create_task(anext(stream))
                    grant = await car.granted()
                    if begun:
                        await say(car, grant.token, 0, 1)
                        await listening
                    else:
                        listening.cancel()
                        await asyncio.gather(listening, return_exceptions=True)
                left_s = monotonic()
                assert await car.revoked(grant.token) == link_pb2.REVOCATION_CAUSE_CANCELLED
                assert monotonic() - left_s < 0.1
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            assert await client.nodes(), "the coordinator is still there"

    within(work())


def test_a_slow_reader_holds_up_nobody_and_hears_all_of_it(live: Cluster) -> None:
    pieces, piece = 400, "x" * 100_000  # more than the connection holds by itself

    async def work() -> None:
        slow, client = Client(live.coordinator.grpc), Client(live.coordinator.grpc)
        async with slow, client, lot(live, "car-a") as car:
            await offered(client)
            stream = slow.generate(MODEL, chat())
            first = asyncio.create_task(anext(stream))
            grant = await car.granted()
            await car.say(grant.token, 0, [0], 0, piece)
            heard = [await first]
            for number in range(1, pieces):
                await car.say(grant.token, number, [number], number * 100_000, piece)
            running = asyncio.create_task(client.run(MODEL, [chat()]))
            other = await car.granted()
            await car.report(other.token, {0: b"at once"}, ended=True)
            assert await running == [b"at once"]
            await car.report(grant.token, {0: result(piece * pieces, pieces)}, ended=True)
            heard += [said async for said in stream]
        assert text_of(heard) == piece * pieces
        assert tokens_of(heard) == list(range(pieces))
        assert len(heard) < pieces / 2, "what waits is told together"

    within(work())


Waiting = dict[str, asyncio.Task[link_pb2.Grant]]
"""Cars, each waiting for what it is granted next."""


async def first_granted(waiting: Waiting) -> tuple[str, link_pb2.Grant]:
    """The car that is granted something first, and what."""
    await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
    name = next(name for name, task in waiting.items() if task.done())
    return name, waiting.pop(name).result()


async def answered(client: Client, cars: dict[str, HandLot], waiting: Waiting, times: int) -> None:
    """Let the cars answer so many requests, one after the other, each as soon as it is asked."""
    for _ in range(times):
        stream = client.generate(MODEL, chat())
        listening = asyncio.create_task(hear(stream, len(WORDS)))
        name, grant = await first_granted(waiting)
        await say(cars[name], grant.token, 0, len(WORDS))
        await cars[name].report(grant.token, {0: result()}, ended=True)
        assert text_of([*await listening, *[said async for said in stream]]) == ANSWER
        waiting[name] = asyncio.create_task(cars[name].granted())


@pytest.mark.parametrize("late", ["silent", "left"])
def test_an_answer_that_is_slow_to_begin_is_asked_of_another_car(late: str) -> None:
    async def work(live: Cluster) -> None:
        cars = {name: lot(live, name) for name in ("car-a", "car-b")}
        async with Client(live.coordinator.grpc) as client, cars["car-a"], cars["car-b"]:
            await offered(client, 2)
            waiting = {name: asyncio.create_task(car.granted()) for name, car in cars.items()}
            await answered(client, cars, waiting, 8)
            stream = client.generate(MODEL, chat())
            listening = asyncio.create_task(hear(stream, 2))
            slow, grant = await first_granted(waiting)
            asked_s = monotonic()
            quick, again = await first_granted(waiting)
            assert 0.1 < monotonic() - asked_s < 5.0
            assert not again.begun
            if late == "left":  # what it was asked waits for a third car, for the second one is asked already
                await cars[slow].report(grant.token, {}, ended=True, departs=True)
            await say(cars[quick], again.token, 0, 2)
            heard = await listening
            if late == "silent":
                assert await cars[slow].revoked(grant.token) == link_pb2.REVOCATION_CAUSE_CANCELLED
            await say(cars[slow], grant.token, 0, 4)
            await say(cars[quick], again.token, 2, len(WORDS))
            await cars[quick].report(again.token, {0: result()}, ended=True)
            heard += [said async for said in stream]
            assert text_of(heard) == ANSWER
            assert {said.vehicle for said in heard if said.vehicle} == {quick}
            assert await metric(live, "carpool_hedges_total", result="second") == 1
            assert await metric(live, "carpool_stream_handover_gap_seconds_count") == 0

    with patient_cluster() as live:
        within(work(live))


def test_what_no_car_could_take_in_time_says_what_was_lacking() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            listening = asyncio.create_task(anext(client.generate(MODEL, chat(), timeout_s=1.0)))
            grant = await car.granted()
            await car.report(grant.token, {}, ended=True, cause=link_pb2.END_CAUSE_UNPLUGGED, departs=True)
            with pytest.raises(CarpoolError) as refused:
                await listening
            assert re.fullmatch(
                "the deadline passed, and nothing had come of it within 1 s: of 1 vehicle 1 is away; "
                "(by the forecast one that offers words is here within .+, as likely as not"
                "|nobody can say when one comes: plug one in)",
                str(refused.value),
            )

    with patient_cluster() as live:
        within(work(live))


@pytest.mark.parametrize(
    ("model", "payload", "error"),
    [
        ("nonsense", chat(), "no vehicle here offers model 'nonsense'; offered: words"),
        (MODEL, b"", "item 0 is empty; leave it out"),
        (MODEL, b"x" * (2 << 20), "item 0 has 2097152 bytes; words takes at most 1048576: split it"),
    ],
)
def test_what_no_car_would_answer_is_refused_in_a_sentence(
    model: str, payload: bytes, error: str, live: Cluster
) -> None:
    async def work() -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a"):
            await offered(client)
            with pytest.raises(CarpoolError) as refused:
                await anext(client.generate(model, payload))
            assert str(refused.value) == error

    within(work())


def test_a_model_that_tells_no_answers_is_refused_by_its_kind() -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            with pytest.raises(
                CarpoolError, match="model 'noop' is of kind 'echo', and only those of kind 'generate'"
            ):
                await anext(client.generate("noop", chat()))

    with patient_cluster(lots=1) as live:
        within(work(live))


def test_an_answer_that_fails_on_the_car_fails_with_its_reason(live: Cluster) -> None:
    async def work() -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            listening = asyncio.create_task(anext(client.generate(MODEL, chat())))
            grant = await car.granted()
            await car.report(grant.token, {0: b"not JSON"}, ended=True)
            with pytest.raises(CarpoolError, match="the model's result cannot be read") as failed:
                await listening
            assert failed.value.exit_code == 1

    within(work())


def test_a_deadline_ends_an_answer_with_a_reason(live: Cluster) -> None:
    async def work() -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            stream = client.generate(MODEL, chat(), timeout_s=1.0)
            listening = asyncio.create_task(hear(stream, 2))
            grant = await car.granted()
            await say(car, grant.token, 0, 2)
            await listening
            with pytest.raises(CarpoolError, match="the deadline passed"):
                await anext(stream)
            assert await car.revoked(grant.token) == link_pb2.REVOCATION_CAUSE_EXPIRED

    within(work())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_coordinator_that_ends_ends_its_answers_with_a_reason(number: signal.Signals) -> None:
    async def work(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client, lot(live, "car-a") as car:
            await offered(client)
            stream = client.generate(MODEL, chat())
            listening = asyncio.create_task(hear(stream, 2))
            grant = await car.granted()
            await say(car, grant.token, 0, 2)
            await listening
            ended_s = monotonic()
            live.coordinator.process.send_signal(number)
            with pytest.raises(CarpoolError, match="went away during the answer"):
                await anext(stream)
            assert monotonic() - ended_s < 2.0

    with patient_cluster() as live:
        within(work(live))
