"""What lots are told of requests whose callers have gone."""

import asyncio
from time import monotonic

import pytest

from coordinator.config import LimitSettings
from coordinator.core.effects import Grant
from coordinator.core.events import JobId
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from coordinator.link import Queued
from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused
from coordinator.runtime import Runtime
from coordinator.store.memory import MemoryStore
from coordinator.streams import Partial
from coordinator.wire import OfferedModel
from tests.coordinator.fleet import MODEL, Town


def test_the_inputs_of_a_request_whose_caller_has_gone_are_not_looked_for_among_jobs() -> None:
    async def scene() -> None:
        store = MemoryStore()
        town = Town(scheduler=Scheduler(SchedulingSettings(), epoch=1))
        town.now_s = monotonic()
        town.park(cars=4, models=(MODEL,))
        metrics = Metrics(lambda: town.scheduler.snapshot(monotonic()), store.state)
        runtime = Runtime(town.scheduler, store, metrics, LimitSettings(), JobId(0))
        runtime.catalogue.add(OfferedModel(MODEL, "generate", "digest", 1 << 20))
        asked = [runtime.requests.generate("local", "test", MODEL, b"what?", None) for _ in range(4)]
        hearing = [asyncio.ensure_future(anext(each)) for each in asked]
        while len(town.scheduler.leases) < len(asked):
            await asyncio.sleep(0)
        token, lease = next(iter(town.scheduler.leases.items()))
        assert await runtime.inputs.of_lease(token, [0]) == [b"what?"]
        runtime.requests.hear(lease.lot, [Partial(token, 0, 0, [1], 0, "That")])
        (heard,), others = await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
        await asked[hearing.index(heard)].aclose()
        assert token in town.scheduler.leases, "the core has not been told yet"
        with pytest.raises(Refused, match="drop it") as refused:
            await runtime.inputs.of_lease(token, [0])
        assert refused.value.refusal is Refusal.NOT_FOUND
        grant = Grant(lease.lot, lease.node, token, lease.job, MODEL, ((0, 1),), 0.0, True, False)
        assert await runtime.inputs.of_orders([Queued(grant, None, 0)]) == [None]
        for each in others:
            each.cancel()
        await asyncio.wait(others)

    asyncio.run(scene())
