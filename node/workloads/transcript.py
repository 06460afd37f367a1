"""The text of an answer while its tokens come: what of it is final, and where a stop string ends it.

The text of tokens t is decode(t) less what the next token may change: a character that is not whole, a possible
beginning of a stop string. So it only grows, and a transcript that is given the same tokens again, by another car,
is where the first one was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_HALF = "\ufffd"
"""What a character that is not whole decodes to."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of an answer."""

    first: int  # index in the answer of the first of `tokens`
    tokens: tuple[int, ...]
    start: int  # characters of the answer before `text`
    text: str  # what these tokens made final


class Transcript:
    """One answer. Decodes each token a few times only, however long the answer is."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._text = ""  # of whole characters, held back or not; nothing follows a stop string
        self._tail = ""  # of the tokens that are not in `_text`
        self._spelled: list[int] = []  # those of `tokens` that have a text
        self._window = self._whole = 0  # of these, where a text begins, and ends, at a whole character
        self._told_tokens = self._told = 0
        self.tokens: list[int] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """The answer, if it ends here."""
        return self._text if self.stopped else self._text + self._tail

    def add(self, token: int, silent: bool = False) -> bool:
        """Add a token, which has no text if it is `silent`; whether a stop string is whole now, which ends the
        answer before it."""
        assert not self.stopped, "nothing follows a stop string"
        self.tokens.append(token)
        if silent:
            return False
        self._spelled.append(token)
        before = self._decode(self._spelled[self._window : self._whole])
        after = self._decode(self._spelled[self._window :])
        self._tail = after[len(before) :]
        if self._tail and not self._tail.endswith(_HALF):
            searched = max(0, len(self._text) - self._longest + 1)
            self._text, self._tail = self._text + self._tail, ""
            self._window, self._whole = self._whole, len(self._spelled)
            found = [at for stop in self._stops if (at := self._text.find(stop, searched)) >= 0]
            if found:
                self.stopped, self._text = True, self._text[: min(found)]
        return self.stopped

    def take(self, ended: bool = False) -> Passage:
        """What became final since it was last asked; with everything that was held back when the answer ended."""
        text = self.text if ended else self._text[: len(self._text) - self._held()]
        first, start = self._told_tokens, self._told
        self._told_tokens, self._told = len(self.tokens), max(start, len(text))
        return Passage(first, tuple(self.tokens[first:]), start, text[start:])

    def _held(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        return 0 if self.stopped else max(map(self._begun, self._stops), default=0)

    def _begun(self, stop: str) -> int:
        """Characters at the end with which this stop string begins."""
        at = self._text.find(stop[0], max(0, len(self._text) - len(stop) + 1))
        while at >= 0 and not stop.startswith(self._text[at:]):
            at = self._text.find(stop[0], at + 1)
        return len(self._text) - at if at >= 0 else 0
