"""`carpool chat` as a user has it: in a terminal, and through a pipe."""

import asyncio
import json
import os
import pty
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator

import pytest

from coordinator.client import Client
from protos import link_pb2
from tests.hand_lot import HandLot
from tests.live import Cluster, patient_cluster, within

CHAT = (sys.executable, "-m", "coordinator.cli", "chat")


@pytest.fixture
def live() -> Iterator[Cluster]:
    with patient_cluster() as live:
        yield live


def lot(live: Cluster, name: str, model: str = "words") -> HandLot:
    return HandLot(live.coordinator.grpc, name, model=model, kind="generate")


async def piped(live: Cluster, *arguments: str) -> Process:
    command = (*CHAT, *arguments, "--grpc", live.coordinator.grpc)
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def answer(car: HandLot, grant: link_pb2.Grant, text: str, said: int = 0) -> None:
    """Say the rest of an answer, a token a character, and end it."""
    await car.say(grant.token, said, range(said, len(text)), said, text[said:])
    result = {"text": text, "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": len(text)}
    await car.report(grant.token, {0: json.dumps(result).encode()}, ended=True)


def asked(grant: link_pb2.Grant) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in json.loads(grant.inputs[0])["messages"]]


def test_through_a_pipe_each_line_is_a_turn_and_the_output_is_the_answers_alone(live: Cluster) -> None:
    async def work() -> None:
        async with lot(live, "car-a") as car:
            process = await piped(live, "--system", "be brief")
            assert process.stdin is not None
            process.stdin.write(b"hello\n\nand then?\n/new\nagain\n")
            process.stdin.write_eof()
            turns = []
            for text in ("good [b]evening[/b]", "nothing", "good night"):
                grant = await car.granted()
                turns.append(asked(grant))
                await answer(car, grant, text)
            out, errors = await process.communicate()
        assert process.returncode == 0, errors
        assert out.decode() == "good [b]evening[/b]\nnothing\ngood night\n"
        assert errors.decode() == "car-a speaks\n" * 3
        system = ("system", "be brief")
        first = [system, ("user", "hello")]
        second = [*first, ("assistant", "good [b]evening[/b]"), ("user", "and then?")]
        assert turns == [first, second, [system, ("user", "again")]]

    within(work())


def test_in_a_terminal_it_says_which_car_speaks_and_when_another_goes_on(live: Cluster) -> None:
    async def work() -> None:
        ours, theirs = pty.openpty()
        command = (*CHAT, "--grpc", live.coordinator.grpc)
        async with Client(live.coordinator.grpc), lot(live, "car-a") as first:
            environment = {**os.environ, "TERM": "dumb"}
            process = await asyncio.create_subprocess_exec(
                *command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
            )
            os.write(ours, b"hello\n")
            grant = await first.granted()
            await first.say(grant.token, 0, [0, 1, 2, 3, 4], 0, "good ")
            async with lot(live, "car-b") as second:
                await first.report(grant.token, {}, ended=True, departs=True)
                await answer(second, await second.granted(), "good evening", 5)
                shown = b""
                while b"evening" not in shown:
                    shown += await asyncio.to_thread(os.read, ours, 4096)
                os.write(ours, b"\x04")
                assert await process.wait() == 0
        assert b"words; /new begins anew, Ctrl-D ends." in shown
        assert b"car-a: good " in shown
        assert b" [car-b goes on] evening" in shown
        os.close(ours)
        os.close(theirs)

    within(work())


def test_what_cannot_be_is_one_sentence(live: Cluster) -> None:
    async def work() -> None:
        async def complaint(*arguments: str) -> str:
            process = await piped(live, *arguments)
            out, errors = await process.communicate(b"hello\n")
            assert process.returncode == 2
            assert not out
            return errors.decode()

        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, 1)
            none = "no car offers one that does; try `carpool models add`"
            assert await complaint() == f"carpool: no model to talk to: {none}\n"
            assert await complaint("noop") == f"carpool: 'noop' does not answer in words; {none}\n"
            async with lot(live, "car-a", "one"), lot(live, "car-b", "two"):
                assert await complaint() == "carpool: name the model to talk to; those that do: one, two\n"
        live.coordinator.process.kill()
        assert (await complaint()).startswith("carpool: no coordinator answers at 127.0.0.1:")

    live.add("lot-0")
    within(work())
