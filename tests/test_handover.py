"""Answers that outlive their cars, through real processes: the text is that of one that nobody interrupted."""

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count, cycle, zip_longest

import pytest

from coordinator.client import Client
from coordinator.errors import CarpoolError
from node.models import ModelCache
from node.workloads.transcript import Transcript
from tests.faults.durable import metric
from tests.hand_lot import HandLot
from tests.live import until, within
from tests.node.small_models import chat
from tests.town import BROKEN, MODEL, Heard, Town, cache_of, question, town_of

MINUTE_S = 1.0
"""Real seconds that stand for a minute of the town."""
TOKENS = 150
CLOSE = {4, 22, 24}
"""Questions in whose answers a choice hangs on less than 1e-4: another processor may round it the other way, and
each is asked several times."""
MIDST = 8
"""Answers of a lot that are begun, and not half said, when it is lost; at least."""
AT_ONCE = 64
"""Answers that are told at the same time, while cars come and go."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    return cache_of(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def town(cache: ModelCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Three lots of ten cars together, for all tests here: to start them takes longer than most of these."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CARPOOL_CACHE", str(cache.root))
        with town_of(cache, tmp_path_factory.mktemp("town"), [4, 3, 3]) as town:
            yield town


@asynccontextmanager
async def client_of(town: Town) -> AsyncIterator[Client]:
    """A client, when all cars are on their chargers."""
    async with Client(town.live.coordinator.grpc) as client:
        await town.whole(client)
        yield client


class Losses:
    """Who was speaking whenever cars were lost, and by what."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Heard]] = []
        self._caught: list[tuple[str, Heard, int, list[str]]] = []

    def speaking(self, cars: Sequence[str]) -> list[Heard]:
        """Answers that these have begun, and have not said half of."""
        begun = [one for _, one in self.answers if 0 < len(one.tokens) < TOKENS / 2]
        return [one for one in begun if one.cars[-1] in cars and not one.said[-1].finish_reason]

    def note(self, loss: str, cars: Sequence[str]) -> None:
        """These are lost now."""
        self._caught += [(loss, one, len(one.said), [*cars]) for one in self.speaking(cars)]

    def handed_over(self) -> Counter[str]:
        """By loss: answers that another car went on with."""
        return Counter(
            loss
            for loss, one, at, cars in self._caught
            if any(said.vehicle and said.vehicle not in cars for said in one.said[at:])
        )


def test_many_answers_outlive_cars_that_are_unplugged_killed_stopped_and_drained(town: Town) -> None:
    payloads = [question(number, max_tokens=TOKENS) for number in range(32) if number not in CLOSE]
    losses, hands, lost, over = Losses(), asyncio.Lock(), set[str](), asyncio.Event()

    async def ask(client: Client, numbers: Iterator[int]) -> None:
        while not over.is_set():
            number, heard = next(numbers), Heard()
            losses.answers.append((number, heard))
            await heard.listen(client, payloads[number])

    async def drive() -> None:
        """Two of ten cars are unplugged in a minute; each is away for half of it."""
        for car in cycle(car for trio in zip_longest(*town.lots.values()) for car in trio if car):
            if over.is_set():
                return
            async with hands:
                if town.lot_of(car) in lost:
                    continue
                losses.note("unplugged", [car])
                await town.unplug(car)
                with suppress(TimeoutError):
                    async with asyncio.timeout(MINUTE_S / 2):
                        await over.wait()
                await town.plug(car)
            await asyncio.sleep(0)

    async def lose(lot: str, loss: str) -> None:
        async def in_the_midst() -> bool | None:
            """The client may lag behind: some of these have ended."""
            return len(losses.speaking(town.lots[lot])) >= MIDST or None

        async with hands:
            lost.add(lot)
            await until(in_the_midst, 60.0)
            losses.note(loss, town.lots[lot])
            match loss:
                case "killed":
                    town.live.kill(lot)
                case "stopped":
                    town.live.signal(lot, signal.SIGSTOP)
                case "drained":
                    town.live.signal(lot, signal.SIGTERM)

    async def others_go_on() -> bool | None:
        return losses.handed_over()["stopped"] > 0 or None

    async def back(client: Client, lot: str) -> None:
        await town.back(client, lot)
        lost.discard(lot)

    async def work() -> None:
        async with client_of(town) as client, asyncio.TaskGroup() as tasks:
            numbers = cycle(range(len(payloads)))
            for _ in range(AT_ONCE):
                tasks.create_task(ask(client, numbers))
            tasks.create_task(drive())
            killed, stopped, drained = town.lots
            await lose(killed, "killed")
            town.start(killed)
            await lose(stopped, "stopped")
            await until(others_go_on, 60.0)  # it may go on itself when it is back
            town.live.signal(stopped, signal.SIGCONT)
            await back(client, stopped)
            await lose(drained, "drained")
            await back(client, killed)
            over.set()

    within(work(), 100)
    expected = town.expected(payloads)
    alike = [town.check(payloads[number], one, expected[number]) for number, one in losses.answers]
    assert sum(alike) >= 0.99 * len(alike)
    handed_over = losses.handed_over()
    print(f"{len(alike)} answers; handed over: {handed_over}")
    assert handed_over.keys() == {"unplugged", "killed", "stopped", "drained"}
    assert asyncio.run(metric(town.live, "carpool_partials_rejected_total", reason="gap")) == 0


async def with_plain_text(client: Client) -> tuple[int, Heard, str]:
    """A question, its answer, and six plain characters from the midst of that: the model says what it likes."""
    for number in count():
        heard = Heard()
        await heard.listen(client, question(number))
        found = re.search("[ -~]{6}", heard.text[30:])
        if found is not None:
            return number, heard, found[0]
    raise AssertionError("there are many questions")


def test_a_stop_string_that_lies_across_a_hand_over_ends_the_answer(town: Town) -> None:
    async def work() -> None:
        async with client_of(town) as client:
            number, heard, stop = await with_plain_text(client)
            await town.only(client)
            payload, cut = question(number, stop=[stop]), Heard()
            first = Transcript(town.model.text, [stop])
            while not first.text.endswith(stop[:3]):
                assert not first.add(heard.tokens[len(first.tokens)])
            said = first.take()
            assert not said.text.endswith(stop[:3]), "it may begin the stop string"
            async with HandLot(town.live.coordinator.grpc, "by-hand", model=MODEL, kind="generate") as car:
                listening = asyncio.create_task(cut.listen(client, payload))
                grant = await car.granted()
                await car.say(grant.token, said.first, said.tokens, said.start, said.text)
                await town.plug("car-0000")
                await town.here(client, "by-hand", "car-0000")
                await car.report(grant.token, {}, ended=True, departs=True)
                await listening
            assert cut.cars == ["by-hand", "car-0000"]
            assert town.check(payload, cut, *town.expected([payload]))
            assert cut.text == heard.text[: heard.text.index(stop)]
            assert cut.said[-1].finish_reason == "stop"

    within(work())


def test_how_likely_each_token_was_is_told_once_over_hand_overs(town: Town) -> None:
    async def work() -> None:
        payload, heard = question(1, max_tokens=TOKENS, logprobs=True, top_logprobs=3), Heard()
        async with client_of(town) as client:
            async for said in client.generate(MODEL, payload):
                heard.said.append(said)
                assert len(said.likelihoods) == len(said.tokens)
                if said.vehicle and len(heard.tokens) > 30 * len(heard.cars) and len(heard.cars) < 3:
                    await town.unplug(said.vehicle)
        assert len(heard.cars) > 1, "nothing was handed over"
        (whole,) = town.expected([payload])
        assert town.check(payload, heard, whole)
        told = [json.loads(entry) for said in heard.said for entry in said.likelihoods]
        content = whole["logprobs"]["content"]
        for read in (lambda entry: entry["token"], lambda entry: len(entry["top_logprobs"])):
            assert [*map(read, told)] == [*map(read, content)]
        assert [entry["logprob"] for entry in told] == pytest.approx([row["logprob"] for row in content], abs=1e-3)

    within(work())


def test_an_answer_outlives_the_window_of_its_car(town: Town) -> None:
    async def work() -> None:
        async with client_of(town) as client:
            first, second, *_ = town.cars
            payload, heard = question(0, max_tokens=1_900), Heard()
            await town.only(client)
            listening = asyncio.create_task(heard.listen(client, payload))  # it waits: none of its window is lost
            await town.plug(first, window_s=1.0)

            async def begun() -> bool | None:
                return bool(heard.tokens) or None

            await until(begun)
            await town.plug(second)
            await listening
            assert heard.cars == [first, second]
            assert town.check(payload, heard, *town.expected([payload]))

    within(work())


def test_the_next_turn_goes_to_the_car_that_holds_the_turns_before_while_it_is_there(town: Town) -> None:
    async def work() -> None:
        async with client_of(town) as client:

            async def turn(turns: list[dict[str, str]]) -> tuple[str, float]:
                """The next turn of a conversation: the car that speaks, and tokens that it held already."""
                payload, heard = json.dumps({"messages": turns, "max_tokens": 60}).encode(), Heard()
                before = await metric(town.live, "carpool_prefix_tokens_reused_total", model=MODEL)
                await heard.listen(client, payload)
                assert town.check(payload, heard, *town.expected([payload]))
                turns += [{"role": "assistant", "content": heard.text}, {"role": "user", "content": "and then?"}]
                (car,) = heard.cars
                return car, await metric(town.live, "carpool_prefix_tokens_reused_total", model=MODEL) - before

            talks = [
                [{"role": "user", "content": f"tell me of car {number}. {'Go on. ' * 5}"}] for number in range(3)
            ]
            cars = await asyncio.gather(*map(turn, talks))
            assert len({car for car, _ in cars}) > 1
            for talk, (car, _) in zip(talks, cars, strict=True):
                asked = len(talk[0]["content"])
                again, reused = await turn(talk)
                assert (again, reused >= asked) == (car, True), (again, car, reused)
            (left, _), talk = cars[0], talks[0]
            await town.unplug(left)
            another, _ = await turn(talk)
            assert another != left
            await town.plug(left)
            again, reused = await turn(talk)
            assert (again, reused > len(talk[0]["content"])) == (another, True), "it holds the latest turn"

    within(work())


def test_an_answer_that_no_car_gives_is_refused_with_what_is_missing_and_when_it_is_expected(town: Town) -> None:
    async def work() -> None:
        async with client_of(town) as client:
            await town.only(client)
            with pytest.raises(CarpoolError) as refused:
                await anext(client.generate(MODEL, question(0), timeout_s=1.0))
            cars = len(await client.nodes())
            assert re.fullmatch(
                f"the deadline passed, and nothing had come of it within 1 s: of {cars} vehicles {cars} are away;"
                f" by the forecast one that offers {MODEL} is here within .+, as likely as not",
                str(refused.value),
            )

    within(work())


@pytest.mark.parametrize(
    ("model", "payload", "error"),
    [
        (
            MODEL,
            chat("much too long " * 200, max_tokens=64),
            "the prompt has .* tokens and max_tokens is 64, together",
        ),
        (BROKEN, chat("not ~ fine"), r"the answer failed \(model\): the model gave logits that are no numbers"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(town: Town, model: str, payload: bytes, error: str) -> None:
    async def work() -> None:
        async with client_of(town) as client:
            with pytest.raises(CarpoolError, match=error):
                await Heard().listen(client, payload, model)

    within(work())
