"""One lot's open stream, from the runtime's side: orders that wait to be written. Knows no gRPC."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from coordinator.core.effects import Acknowledge, Drop, Order
from coordinator.core.events import LotJoined

_ACKNOWLEDGE_WITHIN_S = 0.05  # lots keep what is not acknowledged: at most a few messages more


class Queued(NamedTuple):
    """An order that waits to be written."""

    order: Order | Acknowledge
    inputs: Sequence[bytes] | None  # that it takes along; None: they are to be read
    size: int  # bytes of them, about
    said: Sequence[int] | None = None  # of the answer to a grant's one item; None: it is not told as it is made


class Link:
    """The orders for one lot.

    The first is the core's answer to the hello; what it decided before that is void and is not sent. An
    acknowledgement is in no hurry: it goes with the next order, or alone after `_ACKNOWLEDGE_WITHIN_S`.
    """

    def __init__(self, name: str, joined: LotJoined) -> None:
        self.lot = joined.lot
        self.name = name
        self.joined = joined
        self.broken = False  # to be closed
        self._welcomed = False
        self._orders: deque[Queued] = deque()
        self._acknowledge: Acknowledge | None = None
        self._patience: asyncio.TimerHandle | None = None  # of the acknowledgement that waits
        self._wake = asyncio.Event()

    def put(
        self,
        order: Order | Acknowledge,
        inputs: Sequence[bytes] | None = (),
        size: int = 0,
        said: Sequence[int] | None = None,
    ) -> None:
        """Queue an order; the inputs of a batch job's grant are to be read, about `size` bytes."""
        self._welcomed = self._welcomed or isinstance(order, Drop)
        if not self._welcomed:
            return
        if isinstance(order, Acknowledge):
            if self._patience is None:
                loop = asyncio.get_running_loop()
                self._patience = loop.call_later(_ACKNOWLEDGE_WITHIN_S, self._put_acknowledge)
            self._acknowledge = order  # it holds for all before it, too
            return
        self._orders.append(Queued(order, inputs, size, said))
        self._put_acknowledge()
        self._wake.set()

    def close(self) -> None:
        """Ask for the stream to be broken."""
        self.broken = True
        self._wake.set()

    async def take(self, most: int, most_bytes: int) -> list[Queued]:
        """The next orders, waited for, at most so many, and no more once their inputs have so many bytes; none when
        the stream is to be broken."""
        while not self._orders and not self.broken:
            self._wake.clear()
            await self._wake.wait()
        taken: list[Queued] = []
        size = 0
        while self._orders and not self.broken and len(taken) < most and size < most_bytes:
            taken.append(self._orders.popleft())
            size += taken[-1].size
        return taken

    def _put_acknowledge(self) -> None:
        if self._acknowledge is not None and self._patience is not None:
            self._orders.append(Queued(self._acknowledge, (), 0))
            self._patience.cancel()
            self._acknowledge = self._patience = None
            self._wake.set()
