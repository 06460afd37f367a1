"""Inputs that leases take along: those of requests are at hand, those of batch jobs are in the store.

Knows no answers. A lease whose inputs turn out to be damaged ends here, before a lot hears of it.
"""

import asyncio
from collections.abc import Callable, Sequence

from coordinator.core.effects import Grant
from coordinator.core.events import Event, JobId, LeaseEnd, Progressed, Report, Token
from coordinator.core.ranges import Range
from coordinator.core.scheduler import Scheduler
from coordinator.link import Queued
from coordinator.refusal import Refusal, Refused
from coordinator.requests import Requests
from coordinator.store import Corrupt, Store
from coordinator.trouble import Trouble


class Inputs:
    """Of all live leases."""

    def __init__(
        self,
        scheduler: Scheduler,
        store: Store,
        requests: Requests,
        trouble: Trouble,
        post: Callable[[Event], None],
    ) -> None:
        """`post` tells the core."""
        self._scheduler = scheduler
        self._store = store
        self._requests = requests
        self._trouble = trouble
        self._post = post

    async def of_lease(self, token: Token, items: Sequence[int]) -> list[bytes]:
        """Those of a live lease by their offsets in it; refused when it is not live."""
        lease = self._scheduler.leases.get(token)
        if lease is None:
            raise Refused(Refusal.NOT_FOUND, f"lease {token.epoch}.{token.attempt} is not live; drop it")
        for item in items:
            if item >= lease.items:
                raise Refused(Refusal.BAD_INPUT, f"the lease has {lease.items} items; item {item} was asked for")
        ranges = [(lease.item(item), 1) for item in items]
        return await self._read(lease.job, ranges)

    async def of_orders(self, orders: Sequence[Queued]) -> list[Sequence[bytes] | None]:
        """Those that each of these takes along; None: they are damaged or gone, the grant is void."""
        reads = [self._granted(order) for order, given, *_ in orders if isinstance(order, Grant) and given is None]
        read = iter(await asyncio.gather(*reads))
        return [next(read) if given is None else given for _, given, *_ in orders]

    async def _granted(self, grant: Grant) -> Sequence[bytes] | None:
        try:
            return await self._read(grant.job, grant.ranges)
        except Refused:  # its caller has gone, as the core hears
            return None
        except Corrupt as corrupt:
            self._trouble.damaged(str(corrupt))
            await self._void(grant)
            return None

    async def _void(self, grant: Grant) -> None:
        """End a lease that no lot heard of: items whose inputs are damaged fail, the others wait for another."""
        errors = []
        items = (item for first, count in grant.ranges for item in range(first, first + count))
        for offset, item in enumerate(items):
            try:
                await self._store.inputs(grant.job, [(item, 1)])
            except Corrupt as corrupt:
                errors.append((offset, "bad_input", str(corrupt)))
        report = Report(grant.token, 0, errors=tuple(errors), ended=LeaseEnd.REFUSED)
        self._post(Progressed(grant.lot, 0, (report,)))

    async def _read(self, job: JobId, ranges: Sequence[Range]) -> list[bytes]:
        """Inputs of a job or of a request; refused when the caller of a request has gone."""
        inputs = self._requests.inputs(job, ranges)
        if inputs is not None:
            return inputs
        if self._requests.owns(job):
            raise Refused(Refusal.NOT_FOUND, "the caller of this request has gone; drop it")
        return await self._store.inputs(job, ranges)
