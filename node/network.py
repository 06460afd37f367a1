"""Weights on their way to the cars of a place: who fetches when, over which link, and how long it takes.

Pure: simulated seconds in, whole bytes out. A place with Wi-Fi has one line for all its cars: one at a time fetches
over it, since what one car has the others get from it by the local network. Without Wi-Fi each car has its own
cellular link, and fetches only what its owner's cap has room for as a whole. A car that leaves keeps what it has.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.site import BYTES_PER_MBIT, Place

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
MEGABYTE = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """Bytes that came to each car [N], by link."""

    line: Floats
    lan: Floats
    cellular: Floats

    @property
    def all(self) -> Floats:
        """Over whichever link."""
        return self.line + self.lan + self.cellular


class Fetches:
    """How far N cars are with the weights of their lot, of so many bytes for each; with 0 all have them."""

    def __init__(self, cars: int, place: Place, total_bytes: int) -> None:
        self.total_bytes = float(total_bytes)
        self.left_bytes = np.full(cars, self.total_bytes)  # [N]
        self._wifi = place.wifi
        self._link_rate = place.link.down_mbit * BYTES_PER_MBIT  # of the line, or of each car's cellular link
        self._lan_rate = place.lan_mbit * BYTES_PER_MBIT

    def advance(self, seconds: float, may: Flags, window_s: Floats, room_bytes: Floats) -> Fetched:
        """Let so many seconds pass. `may` [N]: who is there, and is let fetch and share by its owner; window_s [N]:
        what each is expected to stay; room_bytes [N]: what its owner still allows over the cellular network."""
        before, line = self.left_bytes.copy(), np.zeros_like(self.left_bytes)
        waiting = self._waiting(may, room_bytes)
        if not waiting.size or not seconds > 0.0:
            return Fetched(line, line, line)
        if not self._wifi:
            self._take(waiting, np.full(len(waiting), self._link_rate * seconds))
            return Fetched(line, line, before - self.left_bytes)
        if not self._shared(may):
            first = self._ordered(waiting, window_s, self._link_rate)[:1]
            needed_s = float(self.left_bytes[first[0]]) / self._link_rate
            self._take(first, np.full(1, self._link_rate * seconds))
            line = before - self.left_bytes
            seconds -= needed_s
            waiting = waiting[waiting != first[0]]
        if seconds > 0.0:
            ordered = self._ordered(waiting, window_s, self._lan_rate)
            ahead = np.cumsum(self.left_bytes[ordered]) - self.left_bytes[ordered]
            self._take(ordered, self._lan_rate * seconds - ahead)
        return Fetched(line, before - self.left_bytes - line, np.zeros_like(line))

    def left_s(self, may: Flags, window_s: Floats, room_bytes: Floats) -> Floats:
        """Seconds until each car has its weights [N], if nobody comes or goes; infinite for those that may not."""
        left_s = np.where(self.left_bytes > 0.0, np.inf, 0.0)
        waiting = self._waiting(may, room_bytes)
        if not self._wifi:
            left_s[waiting] = self.left_bytes[waiting] / self._link_rate
            return left_s
        ahead_s = 0.0
        if waiting.size and not self._shared(may):
            first = self._ordered(waiting, window_s, self._link_rate)[0]
            left_s[first] = ahead_s = float(self.left_bytes[first]) / self._link_rate
            waiting = waiting[waiting != first]
        ordered = self._ordered(waiting, window_s, self._lan_rate)
        left_s[ordered] = ahead_s + np.cumsum(self.left_bytes[ordered]) / self._lan_rate
        return left_s

    def too_large(self, room_bytes: Floats) -> Flags:
        """Whose owner's cap has no room for what is lacking [N]; where there is Wi-Fi, nobody's."""
        return (self.left_bytes > room_bytes) & (self.left_bytes > 0.0) & (not self._wifi)

    def told(self, car: int, left_s: float) -> str:
        """How far it is, in words; `left_s` as is to be said."""
        done = 1.0 - self.left_bytes[car] / self.total_bytes
        until = f"{left_s:.0f} s to go" if np.isfinite(left_s) else "not now"
        return f"fetching weights: {done:.0%} of {self.total_bytes / MEGABYTE:.3g} MB, {until}"

    def _waiting(self, may: Flags, room_bytes: Floats) -> NDArray[np.intp]:
        return np.flatnonzero(may & (self.left_bytes > 0.0) & ~self.too_large(room_bytes))

    def _shared(self, may: Flags) -> bool:
        """Whether a car is there that has them."""
        return bool((may & (self.left_bytes == 0.0)).any())

    def _ordered(self, cars: NDArray[np.intp], window_s: Floats, rate: float) -> NDArray[np.intp]:
        """Those first that will have them before they leave; of these whoever lacks least, and leaves soonest. Of
        the others those first that stay longest: a forecast may be wrong."""
        left, window = self.left_bytes[cars], window_s[cars]
        fits = left / rate <= window
        return cars[np.lexsort((np.where(fits, window, -window), np.where(fits, left, 0.0), ~fits))]

    def _take(self, cars: NDArray[np.intp], most_bytes: Floats) -> None:
        """These get so many bytes each [K], and no more than they lack."""
        left = self.left_bytes[cars]
        self.left_bytes[cars] = left - np.minimum(np.floor(most_bytes).clip(0.0), left)
