"""Trouble: damage, no room, failure. How it is counted, what callers are told, and when the coordinator stops.

Knows no job and no lot, and nothing of what it is that went wrong.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused
from coordinator.store import Corrupt, Full

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")


class Trouble:
    """Of one coordinator."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with what the coordinator has to stop for."""

    def stop(self, error: Exception) -> None:
        """What the core holds may not be what was recorded: stop rather than go on."""
        if not self.failed.done():
            self.failed.set_exception(error)

    async def reading(self, read: Awaitable[_T]) -> _T:
        """What the store answers; refused when what it holds is damaged."""
        try:
            return await read
        except Corrupt as corrupt:
            self.damaged(str(corrupt))
            raise Refused(Refusal.DAMAGED, str(corrupt)) from None

    def damaged(self, message: str) -> None:
        """What is stored is not what was written."""
        self._metrics.count_store_error("corrupt")
        _LOG.critical("%s", message)

    def no_room(self, full: Full) -> Refused:
        """What a caller is told then."""
        self._metrics.count_rejection("disk_full")
        self._metrics.count_store_error("full")
        return Refused(Refusal.OVERLOADED, str(full))
