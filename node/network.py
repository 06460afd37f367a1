"""Weights on their way to the cars of a place: who fetches when, over which link, and how long it takes.

Pure: simulated seconds in, whole bytes out. Cars on the place's Wi-Fi share its line: one at a time fetches over
it, since what one car has the others get from it by the local network. Any other car has a cellular link of its
own, and fetches only what its owner's cap has room for as a whole. A car that leaves keeps what it has.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.site import BYTES_PER_MBIT, Place

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Cars = NDArray[np.intp]
"""[K] indices of cars."""
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
        self._line_rate = place.line.down_mbit * BYTES_PER_MBIT  # bytes a second, as the next
        self._lan_rate = place.lan_mbit * BYTES_PER_MBIT
        self._cellular_rate = place.cellular.down_mbit * BYTES_PER_MBIT

    def advance(self, seconds: float, may: Flags, wifi: Flags, windows_s: Floats, room_bytes: Floats) -> Fetched:
        """Let so many seconds pass. `may` [N]: who is let fetch and share by its owner; wifi [N]: who is on that of
        the place; windows_s [N]: what each is expected to stay; room_bytes [N]: what its owner still allows over
        the cellular network."""
        begun, none = self.left_bytes.copy(), np.zeros_like(self.left_bytes)
        if not (seconds > 0.0 and begun.any()):
            return Fetched(none, none, none)
        alone, near, shared = self._waiting(may, wifi, room_bytes)
        self._take(alone, np.full(len(alone), self._cellular_rate * seconds))
        cellular = begun - self.left_bytes
        if near.size and not shared:
            first = self._ordered(near, windows_s, self._line_rate)[:1]
            needed_s = float(self.left_bytes[first[0]]) / self._line_rate
            self._take(first, np.full(1, self._line_rate * seconds))
            near, seconds = near[near != first[0]], seconds - needed_s
        line = begun - self.left_bytes - cellular
        if near.size and seconds > 0.0:
            ordered = self._ordered(near, windows_s, self._lan_rate)
            ahead = np.cumsum(self.left_bytes[ordered]) - self.left_bytes[ordered]
            self._take(ordered, self._lan_rate * seconds - ahead)
        return Fetched(line, begun - self.left_bytes - cellular - line, cellular)

    def left_s(self, may: Flags, wifi: Flags, windows_s: Floats, room_bytes: Floats) -> Floats:
        """Seconds until each car has its weights [N], if nobody comes or goes; infinite for those that may not."""
        left_s = np.where(self.left_bytes > 0.0, np.inf, 0.0)
        alone, near, shared = self._waiting(may, wifi, room_bytes)
        left_s[alone] = self.left_bytes[alone] / self._cellular_rate
        ahead_s = 0.0
        if near.size and not shared:
            first = self._ordered(near, windows_s, self._line_rate)[0]
            left_s[first] = ahead_s = float(self.left_bytes[first]) / self._line_rate
            near = near[near != first]
        ordered = self._ordered(near, windows_s, self._lan_rate)
        left_s[ordered] = ahead_s + np.cumsum(self.left_bytes[ordered]) / self._lan_rate
        return left_s

    def too_large(self, wifi: Flags, room_bytes: Floats) -> Flags:
        """Whose owner's cap has no room for what is lacking [N]; of those on Wi-Fi, nobody's."""
        return (self.left_bytes > room_bytes) & (self.left_bytes > 0.0) & ~wifi

    def told(self, car: int, left_s: float) -> str:
        """How far it is, in words; `left_s` as is to be said."""
        done = 1.0 - self.left_bytes[car] / self.total_bytes
        until = f"{left_s:.0f} s to go" if np.isfinite(left_s) else "not now"
        return f"fetching weights: {done:.0%} of {self.total_bytes / MEGABYTE:.3g} MB, {until}"

    def _waiting(self, may: Flags, wifi: Flags, room_bytes: Floats) -> tuple[Cars, Cars, bool]:
        """Who fetches over a link of its own, who on the Wi-Fi, and whether somebody there has what they lack."""
        waiting = may & (self.left_bytes > 0.0)
        alone = np.flatnonzero(waiting & ~wifi & ~self.too_large(wifi, room_bytes))
        shared = bool((may & wifi & (self.left_bytes == 0.0)).any())
        return alone, np.flatnonzero(waiting & wifi), shared

    def _ordered(self, cars: Cars, windows_s: Floats, rate: float) -> Cars:
        """Those first that will have them before they leave; of these whoever lacks least, and leaves soonest. Of
        the others those first that stay longest: a forecast may be wrong."""
        left, window = self.left_bytes[cars], windows_s[cars]
        fits = left / rate <= window
        return cars[np.lexsort((np.where(fits, window, -window), np.where(fits, left, 0.0), ~fits))]

    def _take(self, cars: Cars, most_bytes: Floats) -> None:
        """These get so many bytes each [K], and no more than they lack."""
        left = self.left_bytes[cars]
        self.left_bytes[cars] = left - np.minimum(np.floor(most_bytes).clip(0.0), left)
