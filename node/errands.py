"""Errands: transfers of large payloads that are under way for leases. Knows neither cars nor the executor."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from node.events import Event, InputsFetched, Put, ResultPut, TransferRefused
from node.messages import Granted, Token
from node.transfer import TransferFailed, Transfers


class Errands:
    """Of one lot; what comes of them is an event."""

    def __init__(
        self, transfers: Transfers, tasks: asyncio.TaskGroup, handle: Callable[[Sequence[Event]], object]
    ) -> None:
        """`tasks` owns them, `handle` tells the lot."""
        self._transfers, self._tasks, self._handle = transfers, tasks, handle
        self._under_way: dict[Token, set[asyncio.Task[None]]] = {}

    def begin(self, errand: Granted | Put) -> None:
        """Bring the inputs here that a grant lacks, or a result to the coordinator."""
        task = self._tasks.create_task(self._run(errand))
        tasks = self._under_way.setdefault(errand.token, set())
        tasks.add(task)

        def forget(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not tasks:
                self._under_way.pop(errand.token, None)

        task.add_done_callback(forget)

    def stop(self, tokens: Sequence[Token]) -> None:
        """What is under way for these is wanted no more."""
        for token in tokens:
            for task in self._under_way.pop(token, ()):
                task.cancel()

    def close(self) -> None:
        """Nothing is wanted any more."""
        self.stop(list(self._under_way))

    async def _run(self, errand: Granted | Put) -> None:
        try:
            event = await (self._put(errand) if isinstance(errand, Put) else self._fetch(errand))
        except TransferFailed:
            event = TransferRefused(errand.token)
        self._handle((event,))

    async def _fetch(self, granted: Granted) -> Event:
        inputs = list(granted.inputs)
        for item, payload in (await self._transfers.fetch(granted.token, granted.deferred)).items():
            inputs[item] = payload
        return InputsFetched(replace(granted, inputs=inputs))

    async def _put(self, put: Put) -> Event:
        await self._transfers.put(put.token, put.item, put.payload)
        return ResultPut(put.token, put.item)
