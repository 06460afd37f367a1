"""Virtual time: what happens next, and to whom. Owns the queue of events; knows nothing of what they do."""

from collections.abc import Callable
from heapq import heappop, heappush

Action = Callable[[], None]


class Process:
    """Whom events happen to: to one that ended nothing does any more, to one that stands still it does later."""

    __slots__ = ("ended", "still_until_s")

    def __init__(self) -> None:
        self.ended = False
        self.still_until_s = 0.0

    def stand_still(self, until_s: float) -> None:
        """Do nothing before then."""
        self.still_until_s = max(self.still_until_s, until_s)


class Timer:
    """Something that is to happen, unless it is cancelled."""

    __slots__ = ("action", "process")

    def __init__(self, process: Process, action: Action) -> None:
        self.process = process
        self.action: Action | None = action

    def cancel(self) -> None:
        """It does not happen."""
        self.action = None


class Clock:
    """Seconds that pass only between events. Those of one instant happen in the order in which they were set."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self._queue: list[tuple[float, int, Timer]] = []
        self._number = 0

    def after(self, seconds: float, process: Process, action: Action) -> Timer:
        """Let this happen so many seconds from now."""
        return self.at(self.now_s + seconds, process, action)

    def at(self, when_s: float, process: Process, action: Action) -> Timer:
        """Let this happen then; what is late happens next."""
        timer = Timer(process, action)
        self._number += 1
        heappush(self._queue, (when_s, self._number, timer))
        return timer

    def step(self) -> bool:
        """Let the next event happen; False when there is none."""
        while self._queue:
            when_s, number, timer = heappop(self._queue)
            process, action = timer.process, timer.action
            if action is None or process.ended:
                continue
            self.now_s = max(self.now_s, when_s)
            if process.still_until_s > self.now_s:
                heappush(self._queue, (process.still_until_s, number, timer))
                continue
            action()
            return True
        return False
