"""A lot whose process is killed comes back with the same cars: as those of one that lived on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node import actor, client
from node.agent import Agent
from node.config import LotConfig
from node.kept import Kept
from node.terms import WILLING
from tests.node.test_agent import WITHIN_S, Coordinator

CARS = 12
SPEED = 1800.0  # half an hour in a second


@asynccontextmanager
async def living(folder: Path, kept: Kept | None = None) -> AsyncIterator[Agent]:
    """A lot of cars that come and go, with a coordinator of its own."""
    coordinator = Coordinator()
    server, port = await coordinator.listen_on(0)
    agent, stop, ready = Agent.equipped(config_of(folder, port), kept), asyncio.Event(), asyncio.Event()
    try:
        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(agent.run(stop, ready.set))
            await ready.wait()
            yield agent
            stop.set()
    finally:
        await server.stop(0)


def config_of(folder: Path, port: int) -> LotConfig:
    return LotConfig(
        lot_id="lot-a",
        coordinator=f"127.0.0.1:{port}",
        profiles=("hw4",) * CARS,
        first_index=0,
        models=(),
        noop=True,
        day="home",
        speed=SPEED,
        device="auto",
        dtype="auto",
        threads=1,
        run_dir=folder,
        api_key=None,
        seed=5,
        terms=(WILLING,) * CARS,
    )


def test_cars_that_come_back_are_as_they_would_be_without_the_kill(tmp_path: Path) -> None:
    async def scene() -> None:
        async with living(tmp_path / "before") as before:
            here = [at for at, car in enumerate(before.hand.parked()) if car.plugged_in]
            away = [at for at, car in enumerate(before.hand.parked()) if not car.plugged_in]
            await before.hand.unplug(here[:1])  # for the evening, its day would have it here
            before.hand.plug(away[:1], 60.0)  # and this one away
            await before.hand.set_terms(here[1:2], {"opted_in": False})
            kept = before.keep()
            async with living(tmp_path / "after", kept) as after:
                lived_on, came_back = before.hand.parked(), after.hand.parked()
                assert [car.plugged_in for car in came_back] == [car.plugged_in for car in lived_on]
                assert [car.withheld for car in came_back] == [car.withheld for car in lived_on]
                assert [car.terms for car in came_back] == [car.terms for car in lived_on]
                charges = [car.state_of_charge for car in lived_on]
                assert [car.state_of_charge for car in came_back] == pytest.approx(charges, abs=0.02)
                windows = [car.window_s for car in lived_on]
                assert [car.window_s for car in came_back] == pytest.approx(windows, abs=2.0)
                assert not came_back[here[0]].plugged_in
                assert came_back[away[0]].plugged_in
                assert 50.0 < came_back[away[0]].window_s <= 60.0
                assert not came_back[here[1]].terms.opted_in
                assert after.keep().told_s > kept.told_s, "the day goes on, and does not begin anew"

    asyncio.run(scene())


def test_what_owners_said_while_nobody_heard_the_lot_holds_when_its_call_is_made_again(
    tmp_path: Path,
) -> None:
    async def ready(lives: AsyncIterator[actor.Life]) -> actor.Life:
        async for life in lives:
            if life.ready:
                return life
        raise AssertionError("it ended before it was ready")

    async def scene() -> None:
        server, port = await Coordinator().listen_on(0)
        lot = actor.LotActor(config_of(tmp_path, port))
        async with asyncio.timeout(WITHIN_S):
            heard = await ready(lot.serve(None))
            await asyncio.to_thread(client.terms, tmp_path, ["car-0003"], {"opted_in": False})
            again = lot.serve(heard.kept)
            life = await ready(again)
            assert not life.kept.guard.terms.rows[3].opted_in
            await lot.stop()
            async for _ in again:
                pass
        await server.stop(0)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("cards", "lots", "share"), [(1, 2, 0.5), (4, 2, 1.0), (2, 3, 0.5), (1, 6, 0.1666), (2, 8, 0.25)]
)
def test_all_lots_find_room_on_the_cards(cards: float, lots: int, share: float) -> None:
    assert actor.share_of_card(cards, lots) == share
    assert int(1.0 / share) * cards >= lots
