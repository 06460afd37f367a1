"""Lots: whose streams are open, and the orders handed to them. Knows neither the store nor protobuf."""

from collections.abc import Callable

from coordinator.core.effects import Acknowledge, Disconnect, Grant, Order
from coordinator.core.events import Event, LotId, LotLeft, LotLost
from coordinator.core.scheduler import Scheduler
from coordinator.link import Link
from coordinator.metrics import Metrics
from coordinator.requests import Requests


class Lots:
    """All that have a stream."""

    def __init__(
        self, scheduler: Scheduler, requests: Requests, metrics: Metrics, post: Callable[[Event], None]
    ) -> None:
        """`post` tells the core."""
        self._scheduler = scheduler
        self._requests = requests
        self._metrics = metrics
        self._post = post
        self._links: dict[LotId, Link] = {}

    def join(self, link: Link) -> None:
        """A lot opened its stream; an older stream of it is broken."""
        older = self._links.get(link.lot)
        if older is not None:
            older.close()
        self._links[link.lot] = link
        self._post(link.joined)

    def leave(self, link: Link, goodbye: bool) -> None:
        """A lot's stream ended."""
        if self._links.get(link.lot) is link:
            del self._links[link.lot]
            self._post(LotLeft(link.lot) if goodbye else LotLost(link.lot))

    def send(self, order: Order | Acknowledge) -> None:
        """Hand an order to a lot; one whose link broke a moment ago misses it, as the core will hear."""
        link = self._links.get(order.lot)
        if isinstance(order, Grant):
            job = self._scheduler.jobs.get(order.job)
            if job is not None and job.started_s is not None and len(job.leases) == 1 and not job.settled:
                self._metrics.observe_job_queue(job.spec.label, job.started_s - job.submitted_s)
            if link is not None:
                inputs, said = self._requests.inputs(order.job, order.ranges), self._requests.lent(order)
                items = sum(count for _, count in order.ranges)
                size = items * job.spec.item_bytes if job is not None else 0
                link.put(order, inputs, size, said)
        elif link is not None:
            if isinstance(order, Disconnect):
                link.close()
            else:
                link.put(order)
