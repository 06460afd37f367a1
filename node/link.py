"""The state of a lot's link: numbers, what is not yet acknowledged, and when to try again.

Pure: it neither waits nor writes, and the seeded generator for the jitter is passed in. The order on a
stream is Hello, (Welcome), everything unacknowledged under its old numbers, then news.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from node.messages import Message, Token, Welcome

FIRST_RETRY_S = 0.05
"""The first retry comes within this: 10,000 rows in 20 messages are cheap for a coordinator (15 ms)."""
LONGEST_RETRY_S = 1.0
"""A coordinator that is back shall have its fleet within 2 s."""


class Link:
    """One lot's link over all its streams."""

    def __init__(self, generator: random.Random) -> None:
        self._generator = generator
        self._unacknowledged: deque[Message] = deque()
        self._sequence = 0
        self._failures = 0
        self.welcome: Welcome | None = None  # of the stream that is open now
        self.ever_welcomed = False

    @property
    def open(self) -> bool:
        """Whether the coordinator has said Welcome on the stream of now."""
        return self.welcome is not None

    def welcomed(self, welcome: Welcome) -> Sequence[Message]:
        """The stream is open: what to write first, in order; reports of dropped leases are forgotten."""
        self.welcome = welcome
        self.ever_welcomed = True
        self._failures = 0
        if welcome.dropped:
            self.forget(welcome.dropped)
        return tuple(self._unacknowledged)

    def submit(self, message: Message) -> Message:
        """Number a message that must arrive, and keep it until it is acknowledged; others pass as they are."""
        if not message.lasting:
            return message
        self._sequence += 1
        numbered = replace(message, sequence=self._sequence)
        self._unacknowledged.append(numbered)
        return numbered

    def acknowledged(self, sequence: int, ended: Callable[[Token], None]) -> None:
        """Everything up to `sequence` is recorded: drop it, and name each lease whose end it told."""
        while self._unacknowledged and self._unacknowledged[0].sequence <= sequence:
            for report in self._unacknowledged.popleft().reports:
                if report.ended is not None:
                    ended(report.token)

    def forget(self, tokens: Sequence[Token]) -> None:
        """These leases are not ours any more: drop what was to be reported of them."""
        gone = frozenset(tokens)
        kept = (
            replace(message, reports=tuple(r for r in message.reports if r.token not in gone))
            for message in self._unacknowledged
        )
        self._unacknowledged = deque(message for message in kept if message.lasting)

    def lost(self, retry_after_s: float | None = None) -> float:
        """The stream broke or never opened: seconds to wait before the next try.

        The n-th failure in a row waits up to 50 ms times 2^n, at most 1 s, with full jitter: whatever time a herd
        takes, it comes spread over it. A wait that the server asked for is kept, with a tenth of jitter on top.
        """
        self.welcome = None
        if retry_after_s is not None:
            self._failures += 1
            return retry_after_s * self._generator.uniform(1.0, 1.1)
        longest = min(FIRST_RETRY_S * 2.0**self._failures, LONGEST_RETRY_S)
        self._failures = min(self._failures + 1, 30)
        return longest * self._generator.random()
