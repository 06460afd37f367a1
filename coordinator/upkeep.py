"""Upkeep: what is looked after for ever beside the work. Knows neither callers nor lots."""

import asyncio
import logging
from collections.abc import Collection
from time import monotonic, time

from coordinator.config import StoreSettings
from coordinator.core import invariants
from coordinator.core.events import JobId
from coordinator.core.scheduler import Scheduler
from coordinator.metrics import Metrics
from coordinator.shelf import Shelf
from coordinator.store import Store
from coordinator.trouble import Trouble

_LOG = logging.getLogger(__name__)

_LAG_CHECK_S = 0.5
_CHECK_S = 10.0
_CHECKED_NODES = 200  # a check costs about 10 us a node and 20 us a job
_CHECKED_JOBS = 100
_FORGET_S = 10.0
_CLOCK_SET_S = 60.0  # by so much against the monotonic clock


async def measure_lag(metrics: Metrics) -> None:
    """Measure how late the loop runs its timers."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _LAG_CHECK_S
        await asyncio.sleep(_LAG_CHECK_S)
        metrics.observe_loop_lag(max(0.0, loop.time() - due_s))


async def check_invariants(scheduler: Scheduler, metrics: Metrics) -> None:
    """Check the core, while it is small enough for that to cost little."""
    while True:
        await asyncio.sleep(_CHECK_S)
        state = scheduler.state
        if state.fleet.size <= _CHECKED_NODES and len(state.jobs) <= _CHECKED_JOBS:
            for name, breach in invariants.violations(state):
                metrics.count_violation(name)
                _LOG.critical("invariant %s does not hold: %s", name, breach)


async def forget(
    store: Store, shelf: Shelf, trouble: Trouble, wanted: Collection[JobId], keep: StoreSettings
) -> None:
    """Forget documents, and finished jobs that are kept no longer and not `wanted`; for a while not after a start,
    nor when the wall clock was set: it is told by the ages of jobs, and may be set again."""
    spare_s, ahead_s = keep.spare_finished_s, time() - monotonic()
    older_s = max(keep.keep_finished_s, spare_s)
    await asyncio.sleep(spare_s)
    while True:
        if abs(time() - monotonic() - ahead_s) > _CLOCK_SET_S:
            ahead_s = time() - monotonic()
            _LOG.warning("the clock was set: no finished job is forgotten for %g s", spare_s)
            await asyncio.sleep(spare_s)
            continue
        try:
            forgotten = await store.forget(older_s, keep.keep_bytes, spare_s, frozenset(wanted))
            forgotten += await shelf.forget()
        except Exception as error:
            trouble.stop(error)
            return
        if not forgotten:
            await asyncio.sleep(_FORGET_S)
