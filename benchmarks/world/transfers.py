"""Large inputs and results: calls beside the stream that break and are made again; in place of `node.transfer`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from benchmarks.world.clock import Clock, Process
from benchmarks.world.coordinator import Coordinator
from benchmarks.world.network import Route
from benchmarks.world.trace import Trace
from coordinator.refusal import Refused
from node.events import Event, InputsFetched, Put, ResultPut, TransferRefused
from node.messages import Granted, Token
from node.transfer import RETRY_S

_Call = Callable[[Coordinator], Event]


class Calls:
    """The way of a lot's calls to whichever coordinator runs, over all processes of the lot."""

    def __init__(
        self,
        clock: Clock,
        generator: Random,
        trace: Trace,
        route: Route,
        coordinator: Callable[[], Coordinator | None],
    ) -> None:
        self.breaks = 0  # so many of the next calls break
        self.clock, self.generator, self.trace, self.route = clock, generator, trace, route
        self.coordinator = coordinator


class Transfers:
    """Transfers of one process."""

    def __init__(self, calls: Calls, process: Process, tell: Callable[[Event], None]) -> None:
        """`tell` is called with what came of each."""
        self._calls, self._process, self._tell = calls, process, tell
        self._stopped: set[Token] = set()

    def fetch(self, granted: Granted) -> None:
        """Fetch the inputs of a grant that did not travel with it."""

        def fetched(coordinator: Coordinator) -> Event:
            inputs = list(granted.inputs)
            for item, payload in zip(
                granted.deferred, coordinator.fetch(granted.token, granted.deferred), strict=True
            ):
                inputs[item] = payload
            return InputsFetched(replace(granted, inputs=inputs))

        self._begin(granted.token, fetched)

    def put(self, put: Put) -> None:
        """Bring a result to the coordinator ahead of its report."""

        def brought(coordinator: Coordinator) -> Event:
            coordinator.put(put.token, put.item, put.payload)
            return ResultPut(put.token, put.item)

        self._begin(put.token, brought)

    def stop(self, tokens: Sequence[Token]) -> None:
        """Nobody wants the payloads of these leases any more."""
        self._stopped.update(tokens)

    def _begin(self, token: Token, call: _Call) -> None:
        self._after(token, self._calls.route.up.delay_s, partial(self._arrive, token, call))

    def _arrive(self, token: Token, call: _Call) -> None:
        calls, coordinator = self._calls, self._calls.coordinator()
        now_s = calls.clock.now_s
        wait_s = calls.route.up.blocked_until_s - now_s
        if coordinator is not None:
            wait_s = max(wait_s, coordinator.process.still_until_s - now_s)
        if wait_s > 0:
            self._after(token, wait_s, partial(self._arrive, token, call))
            return
        breaks = calls.breaks > 0
        if breaks:
            calls.breaks -= 1
            calls.trace.count("broken transfer")
        if coordinator is None or (breaks and calls.generator.random() < 0.5):
            self._after(token, RETRY_S, partial(self._begin, token, call))
            return
        try:
            event = call(coordinator)
        except Refused:
            calls.trace.reach("a transfer is refused: its lease is not live")
            event = TransferRefused(token)
        if breaks:  # it was served, and the lot does not learn it
            self._after(token, RETRY_S, partial(self._begin, token, call))
            return
        calls.trace.note(b"transfer")
        self._after(token, calls.route.down.delay_s, partial(self._tell, event))

    def _after(self, token: Token, seconds: float, action: Callable[[], None]) -> None:
        seconds *= 1.0 + 0.5 * self._calls.generator.random()
        self._calls.clock.after(seconds, self._process, partial(self._unless_stopped, token, action))

    def _unless_stopped(self, token: Token, action: Callable[[], None]) -> None:
        if token not in self._stopped:
            action()
