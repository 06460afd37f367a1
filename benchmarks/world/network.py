"""The network: ordered streams that break, stall, repeat themselves and outlive each other. Knows bytes only.

A stream loses no message in the middle: what is lost breaks it, and its two ends learn that at different times.
What an old stream still carries may arrive after a new one has opened.
"""

from collections.abc import Callable
from functools import partial
from random import Random

from benchmarks.world.clock import Clock, Process
from benchmarks.world.trace import Trace

_NOTICED_WITHIN_S = (0.001, 0.2, 3.0, 20.0)
"""Longest times until an end learns that its stream broke: reset, retransmission, keepalive, silence (assumed)."""


class Direction:
    """One way between a lot and the coordinator, over all its streams."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s  # of a message, at the least; half as much again at the most
        self.blocked_until_s = 0.0  # partitioned: nothing arrives before
        self.repeats = 0  # so many of the next messages come twice


class Route:
    """Both ways between one lot and the coordinator."""

    def __init__(self, delay_s: float) -> None:
        self.up, self.down = Direction(delay_s), Direction(delay_s)

    def heal(self) -> None:
        """What is sent from now on arrives."""
        for direction in (self.up, self.down):
            direction.blocked_until_s, direction.repeats = 0.0, 0


class End:
    """One end of a stream. Whoever has it sets `receive` and `ended`."""

    peer: "End"
    receive: Callable[[bytes], None]
    ended: Callable[[], None]

    def __init__(self, network: "Network", process: Process, direction: Direction) -> None:
        self.open = True
        self.process = process
        self._network = network
        self._direction = direction  # towards the peer
        self._arrives_s = 0.0  # what was written last; nothing overtakes it
        self._cut = False  # what is written gets lost

    def write(self, message: bytes) -> None:
        """Send; on a stream that is over it vanishes."""
        if self.open and not self._cut:
            self._carry(partial(self.peer._take, message))
            if self._direction.repeats:
                self._direction.repeats -= 1
                self._network.trace.count("duplication")
                self._carry(partial(self.peer._take, message))

    def close(self) -> None:
        """End it: the peer learns that after everything that is under way."""
        if self.open:
            self.open = False
            if not self._cut:
                self._carry(self.peer._end)

    def reset(self) -> None:
        """It breaks here, and whoever has this end learns it."""
        if self.open:
            self.close()
            self.ended()

    def lose(self) -> None:
        """The next message is lost, and with it the stream: each end learns it in its own time."""
        self._cut = True
        for end in (self, self.peer):
            longest_s = self._network.generator.choice(_NOTICED_WITHIN_S)
            self._network.clock.after(self._network.generator.random() * longest_s, end.process, end._end)

    def hold(self, seconds: float) -> None:
        """What is written from now on is stuck in a queue for so long."""
        self._arrives_s = max(self._arrives_s, self._network.clock.now_s + seconds)

    def _carry(self, arrive: Callable[[], None]) -> None:
        clock, direction = self._network.clock, self._direction
        delay_s = direction.delay_s * (1.0 + 0.5 * self._network.generator.random())
        self._arrives_s = max(self._arrives_s, direction.blocked_until_s, clock.now_s + delay_s)
        clock.at(self._arrives_s, self.peer.process, arrive)

    def _take(self, message: bytes) -> None:
        if self.open:
            self._network.trace.note(message)
            self.receive(message)

    def _end(self) -> None:
        if self.open:
            self.open = False
            self.ended()


class Network:
    """Opens streams."""

    def __init__(self, clock: Clock, generator: Random, trace: Trace) -> None:
        self.clock, self.generator, self.trace = clock, generator, trace

    def connect(self, lot: Process, coordinator: Process, route: Route) -> tuple[End, End]:
        """A stream between these, its end at the lot first."""
        near, far = End(self, lot, route.up), End(self, coordinator, route.down)
        near.peer, far.peer = far, near
        return near, far
