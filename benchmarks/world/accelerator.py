"""A lot's accelerator: one micro-batch at a time, announced before it runs. Stands in for `node.executor`."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Protocol

from benchmarks.world.clock import Clock, Process, Timer
from benchmarks.world.items import Item, Nature
from node.events import Event, Stopped, Worked
from node.messages import Granted, ItemError, Token

_STOPS_WITHIN_S = 0.05  # as the executor promises


class Agent(Protocol):
    """Who is told."""

    def tell(self, *events: Event) -> None:
        """Something happened to the lot."""

    def announce(self, token: Token, items: Sequence[int], run: Callable[[], None]) -> None:
        """These items are about to run; they may once the coordinator could know it."""

    def die(self) -> None:
        """The process ends without a word."""


class _Work:
    """A lease on its way through the accelerator."""

    def __init__(self, granted: Granted) -> None:
        self.granted = granted
        self.left = list(range(len(granted.inputs)))
        self.stopped = False
        self.winding_down = False


class Accelerator:
    """Runs the works of one process, interactive ones first."""

    def __init__(self, clock: Clock, process: Process, generator: Random, agent: Agent, item_s: float) -> None:
        self.slowness = 1.0
        self.wedged = False  # the next micro-batch does not end by itself
        self._clock, self._process, self._generator, self._agent = clock, process, generator, agent
        self._item_s = item_s
        self._waiting: deque[_Work] = deque()
        self._current: _Work | None = None
        self._running: Timer | None = None
        self._began_s = 0.0

    def submit(self, granted: Granted) -> None:
        """Take a work."""
        self._waiting.append(_Work(granted))
        self._turn()

    def stop(self, tokens: Sequence[Token]) -> None:
        """End these works, and tell when nothing of them runs."""
        lost_s = dict.fromkeys(tokens, 0.0)
        for work in [work for work in self._waiting if work.granted.token in lost_s]:
            self._waiting.remove(work)
        current, wait_s = self._current, 0.0
        if current is not None and current.granted.token in lost_s:
            current.stopped = True
            if self._running is not None:
                wait_s = self._generator.random() * _STOPS_WITHIN_S
                lost_s[current.granted.token] = self._clock.now_s + wait_s - self._began_s
                self._running.cancel()
                self._running = self._clock.after(wait_s, self._process, self._over)
        self._clock.after(wait_s, self._process, partial(self._agent.tell, Stopped(lost_s)))

    def wind_down(self, tokens: Sequence[Token]) -> None:
        """Begin no more of these works, and tell when what runs of them has ended by itself."""
        for work in [work for work in self._waiting if work.granted.token in tokens]:
            self._waiting.remove(work)
        ended = set(tokens)
        current = self._current
        if current is not None and current.granted.token in ended:
            current.winding_down = True
            if self._running is not None:
                ended.remove(current.granted.token)
        self._clock.after(0.0, self._process, partial(self._agent.tell, Stopped(dict.fromkeys(ended, 0.0))))

    def _turn(self) -> None:
        if self._current is not None or not self._waiting:
            return
        urgent = next((work for work in self._waiting if work.granted.interactive), self._waiting[0])
        self._waiting.remove(urgent)
        self._current = urgent
        granted = urgent.granted
        items = urgent.left[: 1 if granted.solo else self._generator.choice((1, 4, 8, 16))]
        run = partial(self._run, urgent, items)
        if granted.interactive and not granted.solo:
            run()
        else:
            self._agent.announce(granted.token, items, run)

    def _run(self, work: _Work, items: Sequence[int]) -> None:
        if work.stopped or work.winding_down:
            self._over()
            return
        self._began_s = self._clock.now_s
        busy_s = len(items) * self._item_s * self.slowness * (0.5 + self._generator.random())
        ran = partial(self._ran, work, items, busy_s)
        wedged, self.wedged = self.wedged, False
        self._running = Timer(self._process, ran) if wedged else self._clock.after(busy_s, self._process, ran)

    def _ran(self, work: _Work, items: Sequence[int], busy_s: float) -> None:
        done: list[int] = []
        results: list[bytes] = []
        errors: list[ItemError] = []
        for offset in items:
            item = Item.of(work.granted.inputs[offset])
            match item.nature:
                case Nature.KILLS:
                    self._agent.die()
                    return
                case Nature.BAD:
                    errors.append(ItemError(offset, "bad_input", "it cannot be read"))
                case Nature.FAILS:
                    errors.append(ItemError(offset, "model", "it always fails"))
                case Nature.FLAKY if self._generator.random() < 0.5:
                    errors.append(ItemError(offset, "model", "it fails now and then"))
                case _:
                    done.append(offset)
                    results.append(item.result)
        del work.left[: len(items)]
        self._running = self._current = None
        if work.left and not work.winding_down:
            self._waiting.append(work)
        token = work.granted.token
        self._agent.tell(Worked(token, done, results, errors, busy_s, not work.left))
        if work.winding_down:
            self._agent.tell(Stopped({token: 0.0}))
        self._turn()

    def _over(self) -> None:
        self._running = self._current = None
        self._turn()
