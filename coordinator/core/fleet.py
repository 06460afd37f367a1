"""The fleet: nodes in columns, their lots, and buckets of those that are free. Knows no job."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from coordinator.core.events import LotId, ModelSpeed, Rows
from coordinator.core.settings import SchedulingSettings

Capability = tuple[tuple[str, int, bool, int], ...]
"""What a lot can run, coarsely: (model, log of its speed, resident, batch) by name. Lots alike share one."""

KindId = int
"""Nodes of one kind run the same models about as fast, whatever is resident; its place in `Fleet.kinds`."""

Bucket = dict[int, None]
"""Rows, last in first out; a dict, so that any of them can leave."""


_WINDOW_CLASSES = 64
"""More than there are: a bucket's key is the leases held times this, less the class of the window."""
_NOWHERE, _NO_KEY = -1, np.iinfo(np.int32).max
_MANY = 64
"""Rows that are moved a bucket at a time: fewer are moved faster one by one."""


@dataclass(slots=True)
class Lot:
    """One process that holds vehicles."""

    incarnation: int
    rows: Rows
    speeds: dict[str, ModelSpeed] = field(default_factory=dict)
    capability: int = 0
    resident: frozenset[str] = frozenset()  # models that need not be loaded
    heavy: frozenset[str] = frozenset()  # models that it would take long to load
    heaviest_s: float = 0.0  # to load the one of them that takes longest
    connected: bool = True
    lost_s: float | None = None  # when its link broke
    disconnecting: bool = False  # its link was told to break


class Fleet:
    """Every vehicle known, by row. `refresh` keeps the buckets true after a change to a row."""

    _COLUMNS = (
        ("lot", np.int32),
        ("profile", np.int16),
        ("site", np.int32),
        ("power_w", np.float32),
        ("present", np.bool_),
        ("cordoned", np.bool_),
        ("draining", np.bool_),
        ("until_s", np.float64),
        ("share", np.float64),
        ("seen_s", np.float64),
        ("cost_per_h", np.float32),
        ("batch_leases", np.int16),
        ("interactive_leases", np.int16),
        ("items_done", np.int64),
        ("departures", np.int32),
        ("_kind", np.int32),
        ("_capability", np.int32),
        ("_batch_key", np.int32),
        ("_interactive_key", np.int32),
    )

    lot: NDArray[np.int32]
    profile: NDArray[np.int16]
    site: NDArray[np.int32]  # those of one site share a number; 0: unknown
    power_w: NDArray[np.float32]
    present: NDArray[np.bool_]
    cordoned: NDArray[np.bool_]
    draining: NDArray[np.bool_]
    until_s: NDArray[np.float64]
    share: NDArray[np.float64]
    seen_s: NDArray[np.float64]
    cost_per_h: NDArray[np.float32]
    batch_leases: NDArray[np.int16]
    interactive_leases: NDArray[np.int16]
    items_done: NDArray[np.int64]
    departures: NDArray[np.int32]
    _kind: NDArray[np.int32]
    _capability: NDArray[np.int32]  # where a row stands: its capability and its buckets there; -1 for none
    _batch_key: NDArray[np.int32]
    _interactive_key: NDArray[np.int32]

    def __init__(self, settings: SchedulingSettings) -> None:
        self._settings = settings
        self.size = 0
        for name, dtype in self._COLUMNS:
            setattr(self, name, np.zeros(0, dtype))
        self._heard_s = -inf  # no row that is here was heard of last before this
        self.priced = False  # a vehicle that costs something was offered
        self.lots: dict[LotId, Lot] = {}
        self.profiles: list[str] = []
        self._sites: dict[str, int] = {"": 0}
        self.moved = 0  # grows whenever other rows take work, or some with another capability
        # [interactive]: grows whenever a row may be lent more, so that a blocked queue looks again
        self.freed = [0, 0]
        self._capabilities: list[Capability] = [()]
        self._capability_ids: dict[Capability, int] = {(): 0}
        self._serving: list[int] = [0]  # rows that take work, by capability
        self._by_model: dict[str, list[int]] = {}  # capabilities that run it, the fastest first
        self.kinds: list[dict[str, float]] = [{}]  # items a second of each model, of a whole lot of this kind
        self._kind_ids: dict[tuple[tuple[str, int], ...], KindId] = {(): 0}
        self._kind_of: list[KindId] = [0]  # by capability
        self._free: tuple[list[dict[int, Bucket]], ...] = ([{}], [{}])  # [interactive][capability][key]: rows

    def join(
        self, lot: LotId, incarnation: int, rows: Rows, profiles: Iterable[str], sites: Iterable[str], now_s: float
    ) -> None:
        """Enter a lot's vehicles: they are here, and offer nothing yet. Sites may be left out."""
        self._grow(int(rows.max(initial=-1)) + 1)
        self.lot[rows] = lot
        self._kind[rows] = 0
        self.profile[rows] = [self._profile_id(profile) for profile in profiles]
        self.site[rows] = [self._sites.setdefault(site, len(self._sites)) for site in sites] or 0
        self.seen_s[rows] = now_s
        self.lots[lot] = Lot(incarnation, rows)

    def measure(self, lot_id: LotId, speeds: dict[str, ModelSpeed], now_s: float) -> None:
        """Enter what a lot can run, and how fast."""
        lot = self.lots[lot_id]
        lot.speeds = speeds
        lot.resident = frozenset(model for model, speed in speeds.items() if speed.load_s == 0)
        lot.heavy = frozenset(
            model for model, speed in speeds.items() if speed.load_s >= self._settings.load_matters_s
        )
        lot.heaviest_s = max((speeds[model].load_s for model in lot.heavy), default=0.0)
        capability = self._capability_id(speeds)
        if capability != lot.capability:
            lot.capability = capability
            self._kind[lot.rows[self.lot[lot.rows] == lot_id]] = self._kind_of[capability]
            self.refresh_all(lot.rows[self.present[lot.rows]], now_s)

    def leave(self, row: int) -> None:
        """A vehicle that was here is gone; its leases are the caller's to end first."""
        self.present[row] = False
        self.share[row] = 0.0
        self.draining[row] = False
        self.departures[row] += 1
        self.moved += 1
        self._take_out(row)

    def serves(self, row: int) -> bool:
        """Whether a vehicle takes new work."""
        return bool(
            self.present[row]
            and self.share[row] > 0
            and not self.cordoned[row]
            and not self.draining[row]
            and self.lot_of(row).connected
        )

    def lot_of(self, row: int) -> Lot:
        """The lot of a vehicle."""
        return self.lots[LotId(self.lot.item(row))]

    def profile_of(self, row: int) -> str:
        """The label of a vehicle's hardware profile."""
        return self.profiles[int(self.profile[row])]

    def speed(self, row: int, model: str, item_work: float = 1.0) -> ModelSpeed:
        """How this vehicle alone runs a model that its lot offers, with items of so much work."""
        speed = self.lot_of(row).speeds[model]
        return ModelSpeed(speed.items_per_s * self.share.item(row) / item_work, speed.load_s, speed.batch_items)

    def kind(self, row: int) -> KindId:
        """The kind of a vehicle, here or not."""
        return self._kind_of[self.lot_of(row).capability]

    def capability(self, row: int) -> int:
        """A number that vehicles share which run the same models as fast, with the same ones resident."""
        return self.lot_of(row).capability

    def kinds_of_all(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The kind of every row, and whether it takes new work now."""
        return self._kind[: self.size], self._capability[: self.size] != _NOWHERE

    def resident(self) -> dict[tuple[KindId, str], int]:
        """Vehicles that take new work, by kind and by each model that is resident in their lots."""
        counts: dict[tuple[KindId, str], int] = {}
        for number, capability in enumerate(self._capabilities):
            if self._serving[number]:
                for model, _, resident, _ in capability:
                    if resident:
                        key = self._kind_of[number], model
                        counts[key] = counts.get(key, 0) + self._serving[number]
        return counts

    @property
    def serving(self) -> int:
        """Vehicles that take new work."""
        return sum(self._serving)

    def capable(self, model: str) -> int:
        """Vehicles that take new work and run this model."""
        return sum(self._serving[capability] for capability in self._by_model.get(model, ()))

    def has_choice(self, model: str) -> bool:
        """Whether more than one lot has a vehicle that takes new work and runs this model."""
        lots = (
            lot for lot in self.lots.values() if model in lot.speeds and any(map(self.serves, lot.rows.tolist()))
        )
        return next(lots, None) is not None and next(lots, None) is not None

    def free(self, model: str, interactive: bool) -> list[tuple[int, Bucket]]:
        """Free rows for a model, by capability: fewest leases first, then where it is resident, then fast lots.

        After that long windows go first, and in a bucket those that came last.

        The caller may change rows only after it has stopped iterating.
        """
        free = self._free[interactive]
        keyed = [  # a key is the smaller the fewer leases are held, and then the longer the window is
            (-(-key // _WINDOW_CLASSES), rank, key, capability)
            for rank, capability in enumerate(self._by_model.get(model, ()))
            for key in free[capability]
        ]
        if len(keyed) > 1:
            keyed.sort()
        return [(capability, free[capability][key]) for _, _, key, capability in keyed]

    def refresh(self, row: int, now_s: float) -> None:
        """Put a row into the buckets where it belongs now."""
        before = self._capability.item(row)
        self._take_out(row)
        if not self.serves(row):
            self.moved += before != _NOWHERE
            return
        capability = self.lot_of(row).capability
        window = _window_class(self.until_s.item(row) - now_s)
        batch, interactive = self.batch_leases.item(row), self.interactive_leases.item(row)
        if batch < self._settings.slices_in_hand:
            key = batch * _WINDOW_CLASSES - window
            self._free[False][capability].setdefault(key, {})[row] = None
            self._batch_key[row] = key
            self.freed[False] += 1
        if interactive < self._settings.interactive_in_hand:
            key = interactive * _WINDOW_CLASSES - window
            self._free[True][capability].setdefault(key, {})[row] = None
            self._interactive_key[row] = key
            self.freed[True] += 1
        self._serving[capability] += 1
        self._capability[row] = capability
        self.moved += before != capability

    def refresh_all(self, rows: Rows, now_s: float) -> None:
        """Put rows into the buckets where they belong now: a bucket at a time when they are many."""
        if len(rows) < _MANY:
            for row in rows.tolist():
                self.refresh(row, now_s)
            return
        rows = _distinct(rows)
        lots = self.lot[rows]
        connected = np.zeros(int(lots.max()) + 1, np.bool_)
        capabilities = np.zeros(len(connected), np.int32)
        for number in _distinct(lots).tolist():
            lot = self.lots.get(LotId(number))
            if lot is not None:
                connected[number], capabilities[number] = lot.connected, lot.capability
        serves = self.present[rows] & (self.share[rows] > 0) & ~self.cordoned[rows] & ~self.draining[rows]
        serves &= connected[lots]
        capability = np.where(serves, capabilities[lots], _NOWHERE).astype(np.int32)
        window = _window_classes(self.until_s[rows] - now_s)
        for kind, (column, held, most) in enumerate(
            (
                (self._batch_key, self.batch_leases[rows], self._settings.slices_in_hand),
                (self._interactive_key, self.interactive_leases[rows], self._settings.interactive_in_hand),
            )
        ):
            free = serves & (held < most)
            keys = np.where(free, held.astype(np.int32) * _WINDOW_CLASSES - window, _NO_KEY).astype(np.int32)
            moved = (keys != column[rows]) | (capability != self._capability[rows])
            movers = rows[moved]
            before = column[movers]
            column[movers] = _NO_KEY
            self._take_out_of(self._free[kind], movers, before, column)
            self._put_into(self._free[kind], movers, capability[moved], keys[moved])
            column[movers] = keys[moved]
        for there, change in ((self._capability[rows], -1), (capability, 1)):
            for number, count in enumerate(np.bincount(there[there != _NOWHERE]).tolist()):
                self._serving[number] += change * count
        self._capability[rows] = capability
        self.moved += 1
        self.freed = [freed + 1 for freed in self.freed]

    def _take_out_of(
        self, free: list[dict[int, Bucket]], rows: Rows, keys: NDArray[np.int32], column: NDArray[np.int32]
    ) -> None:
        """Take rows out of the buckets of these keys; `column` has them nowhere already."""
        for capability, key, some in _groups(rows, self._capability[rows], keys):
            buckets = free[capability]
            bucket = buckets[key]
            if len(some) == len(bucket):
                del buckets[key]
            elif 2 * len(some) > len(bucket):  # made anew in less time
                stand = np.fromiter(bucket, np.int32, len(bucket))
                buckets[key] = dict.fromkeys(stand[column[stand] == key].tolist())
            else:
                for row in some.tolist():
                    del bucket[row]

    @staticmethod
    def _put_into(
        free: list[dict[int, Bucket]], rows: Rows, capabilities: NDArray[np.int32], keys: NDArray[np.int32]
    ) -> None:
        for capability, key, some in _groups(rows, capabilities, keys):
            free[capability].setdefault(key, {}).update(dict.fromkeys(some.tolist()))

    def silent(self, now_s: float) -> Rows:
        """Rows here on an open link that have not been heard of for too long."""
        if self._heard_s + self._settings.silent_after_s > now_s:
            return np.zeros(0, np.int32)
        present = self.present[: self.size]
        quiet = present & (self.seen_s[: self.size] + self._settings.silent_after_s <= now_s)
        self._heard_s = float(self.seen_s[: self.size].min(initial=now_s, where=present))
        return np.flatnonzero(quiet).astype(np.int32)

    def buckets_are_true(self) -> bool:
        """Whether every row stands exactly where its columns say (but for the window class, which ages)."""
        kinds = (
            (self._batch_key, self.batch_leases, self._settings.slices_in_hand),
            (self._interactive_key, self.interactive_leases, self._settings.interactive_in_hand),
        )
        stand = 0
        for row in range(self.size):
            capability = int(self._capability[row])
            if (capability != _NOWHERE) != self.serves(row):
                return False
            for kind, (column, held, most) in enumerate(kinds):
                key = int(column[row])
                if (key != _NO_KEY) != (capability != _NOWHERE and held[row] < most):
                    return False
                if key != _NO_KEY:
                    stand += 1
                    if -(-key // _WINDOW_CLASSES) != held[row] or row not in self._free[kind][capability][key]:
                        return False
        in_buckets = sum(len(bucket) for free in self._free for keyed in free for bucket in keyed.values())
        serving = int((self._capability[: self.size] != _NOWHERE).sum())
        return (in_buckets, sum(self._serving)) == (stand, serving)

    def _take_out(self, row: int) -> None:
        capability = self._capability.item(row)
        if capability == _NOWHERE:
            return
        for kind, column in ((False, self._batch_key), (True, self._interactive_key)):
            key = column.item(row)
            if key != _NO_KEY:
                buckets = self._free[kind][capability]
                bucket = buckets[key]
                del bucket[row]
                if not bucket:
                    del buckets[key]
                column[row] = _NO_KEY
        self._serving[capability] -= 1
        self._capability[row] = _NOWHERE

    def _grow(self, size: int) -> None:
        if size <= self.size:
            return
        if size > len(self.lot):
            room = max(size, 2 * len(self.lot), 64)
            for name, dtype in self._COLUMNS:
                column = np.zeros(room, dtype)
                column[: self.size] = getattr(self, name)[: self.size]
                setattr(self, name, column)
        self._capability[self.size : size] = _NOWHERE
        self._batch_key[self.size : size] = self._interactive_key[self.size : size] = _NO_KEY
        self.size = size

    def _profile_id(self, profile: str) -> int:
        if profile not in self.profiles:
            self.profiles.append(profile)
        return self.profiles.index(profile)

    def _capability_id(self, speeds: dict[str, ModelSpeed]) -> int:
        capability: Capability = tuple(
            (model, round(4 * log(speed.items_per_s)), speed.load_s == 0, speed.batch_items)
            for model, speed in sorted(speeds.items())
        )
        known = self._capability_ids.get(capability)
        if known is not None:
            return known
        number = len(self._capabilities)
        self._capabilities.append(capability)
        self._capability_ids[capability] = number
        self._serving.append(0)
        self._kind_of.append(self._kind_id(speeds, capability))
        for free in self._free:
            free.append({})
        for model, speed, resident, _ in capability:
            ranked = self._by_model.setdefault(model, [])
            ranked.append(number)
            ranked.sort(key=lambda at: self._rank(at, model))
            del speed, resident
        return number

    def _kind_id(self, speeds: dict[str, ModelSpeed], capability: Capability) -> KindId:
        kind = tuple((model, speed) for model, speed, _, _ in capability)
        if kind not in self._kind_ids:
            self._kind_ids[kind] = len(self.kinds)
            self.kinds.append({model: speed.items_per_s for model, speed in speeds.items()})
        return self._kind_ids[kind]

    def _rank(self, capability: int, model: str) -> tuple[bool, int]:
        speed, resident = next(
            (speed, resident) for name, speed, resident, _ in self._capabilities[capability] if name == model
        )
        return (not resident, -speed)


def _window_class(remaining_s: float) -> int:
    """Windows within a factor of two share a class."""
    return int(min(max(remaining_s, 1.0), 1e9)).bit_length()


def _window_classes(remaining_s: NDArray[np.float64]) -> NDArray[np.int32]:
    """The same of many."""
    _, classes = np.frexp(np.floor(remaining_s.clip(1.0, 1e9)))
    return np.asarray(classes, np.int32)


def _distinct(numbers: Rows) -> Rows:
    """Each of these once, in order. They are small, so that marks are faster than `numpy.unique`."""
    marks = np.zeros(int(numbers.max(initial=-1)) + 1, np.bool_)
    marks[numbers] = True
    return np.flatnonzero(marks).astype(np.int32)


def _groups(
    rows: Rows, capabilities: NDArray[np.int32], keys: NDArray[np.int32]
) -> Iterator[tuple[int, int, Rows]]:
    """Rows that stand in a bucket, by capability and key."""
    placed = keys != _NO_KEY
    rows, capabilities, keys = rows[placed], capabilities[placed], keys[placed]
    if not len(rows):
        return
    low = int(keys.min())
    span = int(keys.max()) - low + 1
    codes = capabilities.astype(np.int64) * span + (keys - low)
    if codes.max() < 1 << 16:
        codes = codes.astype(np.uint16)  # numpy sorts these by their digits, ten times as fast
    order = np.argsort(codes, kind="stable")
    rows, codes = rows[order], codes[order]
    for first, last in pairwise((0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(rows))):
        capability, key = divmod(int(codes[first]), span)
        yield capability, key + low, rows[first:last]
