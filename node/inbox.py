"""The inbox: what the executor says on its thread, brought to the loop. Knows neither cars nor the executor."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from node.events import Announced, Event, ResidencyChanged, Said, Worked
from node.messages import ItemError, Token
from node.work import Finished, Key, Spoken


class Inbox:
    """The executor's listener. What it hears is handled together, once a turn of the loop."""

    def __init__(
        self,
        handle: Callable[[Sequence[Event]], object],
        announced: Callable[[Token, threading.Event], None],
    ) -> None:
        """Both are called on the loop where it is made: `handle` tells the lot, and then `announced` which event
        to set when the coordinator has heard of a lease's announcement."""
        self._handle, self._announced = handle, announced
        self._loop = asyncio.get_running_loop()
        self._news: deque[Event | tuple[Announced, threading.Event]] = deque()
        self._wanted = False  # whether a look at them is under way

    def announce(self, key: Key, items: Sequence[int]) -> threading.Event:
        """The executor is about to run these; the event is set when the coordinator has been told."""
        assert isinstance(key, Token), "the lot's works are keyed by token"
        on_wire = threading.Event()
        self.put((Announced(key, items), on_wire))
        return on_wire

    def finished(self, finished: Finished) -> None:
        """The executor finished a micro-batch."""
        assert isinstance(finished.key, Token), "the lot's works are keyed by token"
        errors = [ItemError(*error) for error in finished.errors]
        items, results = finished.items, finished.results
        took = finished.busy_s, finished.last, finished.paced_s, finished.loading_s
        self.put(Worked(finished.key, items, results, errors, *took))

    def spoke(self, spoken: Spoken) -> None:
        """The executor said more of an answer."""
        assert isinstance(spoken.key, Token), "the lot's works are keyed by token"
        passage = spoken.first, spoken.tokens, spoken.start, spoken.text
        beside = spoken.reused, spoken.prompt_tokens, spoken.likelihoods, spoken.busy_s
        self.put(Said(spoken.key, spoken.offset, *passage, *beside))

    def resident(self, load_s: Mapping[str, float]) -> None:
        """Other models are in the executor's memory."""
        self.put(ResidencyChanged(load_s))

    def put(self, news: Event | tuple[Announced, threading.Event]) -> None:
        """This has happened, on any thread."""
        self._news.append(news)
        if not self._wanted:
            self._wanted = True
            self._loop.call_soon_threadsafe(self._open)

    def _open(self) -> None:
        self._wanted = False  # first: what comes from here on asks again
        events: list[Event] = []
        announcements = []
        while self._news:
            news = self._news.popleft()
            if isinstance(news, tuple):
                announcements.append(news)
                events.append(news[0])
            else:
                events.append(news)
        self._handle(events)
        for announced, on_wire in announcements:
            self._announced(announced.token, on_wire)
