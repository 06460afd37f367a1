"""What the owners' terms make of the cars of a lot: who may work now, what the cars draw, how warm they are, and
what they fetch.

Pure: simulated seconds in, columns out. A car that may not work has a `Reason`. What must hold: no work below the
least charge; the wanted charge is there at the departure whenever that could be had without work. So every look is
ahead to the next one, and by the worst that the site's connection may give.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from node.battery import TAPER_FROM, Battery, Flags, Floats
from node.network import Fetched, Fetches
from node.profile import Profile
from node.site import Heat, Place, shared
from node.terms import Columns, Terms

LINGER_S = 900.0
"""A car stays awake for so long after its last work, unless its owner's terms end that (assumed)."""
MONTH_S = 30 * 24 * 3600.0
SPARE_CHARGE = 0.02
"""A car that was too empty works again with so much more, lest it come and go (assumed)."""
SPARE_S = 1800.0
"""A car that had to charge first works again when it has so much time to spare (assumed)."""
LEAST_SPARE_S = 60.0
"""What is kept in hand of the time until a departure, for what the steps of the integration lose."""


class Reason(IntEnum):
    """Why a car is kept from work, by its owner as a rule; the first that holds."""

    NONE = 0
    NOT_OPTED_IN = 1
    UNPLUGGED = 2
    OUT_OF_HOURS = 3
    CHARGE_LOW = 4
    CHARGING_FIRST = 5
    NO_WIFI = 6
    CELLULAR_SPENT = 7
    TOO_HOT = 8
    PAID_TOO_LITTLE = 9
    MODELS_REFUSED = 10
    WEIGHTS_TOO_LARGE = 11
    FETCHING = 12


WORDS = {
    Reason.NONE: "",
    Reason.NOT_OPTED_IN: "its owner has not opted in",
    Reason.UNPLUGGED: "its owner lends it only while it is plugged in",
    Reason.OUT_OF_HOURS: "it is not one of the hours in which its owner lends it",
    Reason.CHARGE_LOW: "its charge is not above the least that its owner wants",
    Reason.CHARGING_FIRST: "it has to charge first, to have what its owner wants at the departure",
    Reason.NO_WIFI: "it has no Wi-Fi, and its owner allows no other network",
    Reason.CELLULAR_SPENT: "what its owner allows over the cellular network in a month is spent",
    Reason.TOO_HOT: "its cabin is hotter than its owner allows",
    Reason.PAID_TOO_LITTLE: "an hour there pays less than its owner wants",
    Reason.MODELS_REFUSED: "its owner refuses every model that it has",
    Reason.WEIGHTS_TOO_LARGE: "its owner allows too little over the cellular network for the weights that it lacks",
    Reason.FETCHING: "it fetches the weights of its models",
}


class Guard:
    """N cars of one place; those that are parked may be elsewhere."""

    def __init__(
        self,
        profiles: Sequence[Profile],
        battery: Battery,
        place: Place,
        terms: Sequence[Terms],
        models: Sequence[str],
        now_s: float,
        weights_bytes: int = 0,
    ) -> None:
        """Every car has yet to fetch so many bytes before it can work."""
        count = len(profiles)
        self.battery, self.place = battery, place
        self.heat = Heat(profiles, place.at(place.ambient_c, now_s))
        self.reason = np.full(count, Reason.NOT_OPTED_IN, np.uint8)  # [N]
        self.given_kw = np.zeros(count)  # [N] the most that the wall gave each lately
        self.drawn_kw = np.zeros(count)  # [N] what each took from it lately
        self.awake = np.zeros(count, np.bool_)  # [N] drawing power around their computers
        self.charging = np.zeros(count, np.bool_)  # [N]
        self.cellular_bytes = np.zeros(count)  # [N] in this month
        self.fetches = Fetches(count, place, weights_bytes)
        self._windows_s = np.zeros(count)  # [N] as last told
        self._wifi = np.full(count, place.wifi)  # [N] as last told
        self._wake_j = np.array([profile.wake_j for profile in profiles])  # [N]
        self._charge_to = battery.charge_to.copy()
        self._awake_until_s = np.full(count, -np.inf)  # [N]
        self._month = np.floor(now_s / MONTH_S)
        self.terms = Columns(terms)
        self.offering(models)

    def offering(self, models: Sequence[str]) -> None:
        """The cars have these models."""
        self.models = frozenset(models)
        self.tell(self.terms)

    def tell(self, terms: Columns) -> None:
        """The owners' terms are these from now on. `look` says what follows."""
        self.terms = terms
        self.battery.charge_to = np.maximum(self._charge_to, terms.wanted_charge)
        self._all_refused = np.array([self.models <= set(row.refused_models) for row in terms.rows], np.bool_)

    def pass_time(self, now_s: float, seconds: float, plugged: Flags, parked: Flags, computing: Flags) -> None:
        """So many simulated seconds passed until now; columns are [N], parked: there and off the charger."""
        battery, here = self.battery, plugged | parked
        self._awake_until_s[computing] = now_s + LINGER_S
        self.awake = here & (computing | ((self._awake_until_s > now_s - seconds) & self._lent))
        load_kw = np.where(here, battery.load_kw(self.awake, computing), 0.0)
        supply_kw, level_kw = self._supply(plugged, load_kw)
        self.given_kw = np.where(plugged, np.minimum(battery.wall_kw, level_kw), 0.0)
        self.drawn_kw = np.where(plugged, supply_kw, 0.0)
        self.charging = plugged & (battery.accepts_kw() > 0.0)
        battery.advance(seconds, plugged, computing, self.awake, parked, supply_kw)
        self.heat.advance(seconds, self.place.at(self.place.ambient_c, now_s), load_kw)

    def moved(self, now_s: float, moved_bytes: Floats, elsewhere: Flags | None = None) -> None:
        """The cars sent and received so much [N] since the last call; elsewhere [N]: not at their place."""
        self._turn_month(now_s)
        self._wifi = self.wifi(elsewhere)
        self.cellular_bytes += np.where(self._wifi, 0.0, moved_bytes)

    def fetch(self, now_s: float, seconds: float, here: Flags, windows_s: Floats) -> Fetched:
        """So many simulated seconds passed until now, in which cars that were here [N], and are expected to stay so
        long [N], fetched what they lack."""
        self._turn_month(now_s)
        self._windows_s = windows_s
        lent = here & self._lent
        fetched = self.fetches.advance(seconds, lent, self._wifi, windows_s, self._room_bytes)
        self.cellular_bytes += fetched.cellular
        self._awake_until_s[fetched.all > 0.0] = now_s + LINGER_S
        return fetched

    def told(self, speed: float) -> list[str]:
        """Why each car is kept from work [N], in words; empty when it is not. Times are divided by the clock's
        speed."""
        words = [WORDS[Reason(reason)] for reason in self.reason.tolist()]
        if self.fetches.left_bytes.any():
            left_s = self.fetches.left_s(self._lent, self._wifi, self._windows_s, self._room_bytes) / speed
            for car in np.flatnonzero(self.reason == Reason.FETCHING).tolist():
                words[car] = self.fetches.told(car, float(left_s[car]))
        return words

    def wifi(self, elsewhere: Flags | None) -> Flags:
        """Who has it [N]: who is at their place, if that has; elsewhere [N], None: nobody is."""
        has = np.full(len(self.reason), self.place.wifi)
        return has if elsewhere is None else has & ~elsewhere

    def look(
        self,
        now_s: float,
        ahead_s: float,
        plugged: Flags,
        parked: Flags,
        declared_s: Floats,
        elsewhere: Flags | None = None,
    ) -> None:
        """Bring `reason` up to date. The next look is at most so far ahead; declared_s [N]: simulated seconds until
        owners have said to leave, infinite where they have not; elsewhere [N]: parked, and not at their place."""
        terms, place, battery = self.terms, self.place, self.battery
        reason = np.zeros(len(self.reason), np.uint8)
        charge, least = battery.state_of_charge, terms.least_charge
        load_kw = battery.awake_kw + battery.board_kw
        supply_kw, _ = self._supply(plugged, load_kw)  # the least there is: if all work
        drained = np.maximum(load_kw - supply_kw, 0.0) * ahead_s / 3600.0 / battery.usable_kwh
        unslowed = plugged & (supply_kw >= battery.accepts_kw() + load_kw)
        spare = np.where(self.reason == Reason.CHARGE_LOW, SPARE_CHARGE, 0.0)
        departs_s = np.minimum(terms.departs_in_s(now_s), declared_s)
        self._wifi = self.wifi(elsewhere)
        metered = ~self._wifi & ~(self.cellular_bytes < terms.cellular_bytes)
        for cause, holds in (
            (Reason.FETCHING, self.fetches.left_bytes > 0.0),
            (Reason.WEIGHTS_TOO_LARGE, self.fetches.too_large(self._wifi, self._room_bytes)),
            (Reason.MODELS_REFUSED, self._all_refused),
            (Reason.PAID_TOO_LITTLE, terms.least_pay_per_h > place.pay_per_h),
            (Reason.TOO_HOT, self.heat.cabin_c > terms.hottest_cabin_c),
            (Reason.CELLULAR_SPENT, metered & (terms.cellular_bytes > 0.0)),
            (Reason.NO_WIFI, metered & (terms.cellular_bytes == 0.0)),
            (Reason.CHARGING_FIRST, ~(unslowed | self._on_time(charge - drained, plugged, departs_s, ahead_s))),
            (Reason.CHARGE_LOW, (charge - drained < least + spare) & ((drained > 0.0) | (charge < least + spare))),
            (Reason.OUT_OF_HOURS, ~terms.in_hours(now_s / 60.0)),
            (Reason.UNPLUGGED, ~(plugged | (parked & terms.parked))),
            (Reason.NOT_OPTED_IN, ~terms.opted_in),
        ):
            reason[holds] = cause
        self.reason = reason

    def wake_j(self, now_s: float) -> Floats:
        """What it would take to wake each car for work now [N], joules; 0 for those awake or charging."""
        asleep = (self._awake_until_s <= now_s) & ~self.charging
        return np.where(asleep, self._wake_j, 0.0)

    @property
    def _lent(self) -> Flags:
        """Whose owners lend them now [N], whether they have their weights or not."""
        lent: Flags = (self.reason == Reason.NONE) | (self.reason == Reason.FETCHING)
        return lent

    @property
    def _room_bytes(self) -> Floats:
        """What the owners still allow over the cellular network in this month [N]."""
        return self.terms.cellular_bytes - self.cellular_bytes

    def _turn_month(self, now_s: float) -> None:
        month = np.floor(now_s / MONTH_S)
        if month != self._month:
            self._month = month
            self.cellular_bytes[:] = 0.0

    def _supply(self, plugged: Flags, load_kw: Floats) -> tuple[Floats, float]:
        """What the wall gives each that wants to charge and to feed such a load [N], and the most for one that
        charges, kW. Packs first: what computing draws may not slow the charging of another car of the place."""
        battery, limit_kw = self.battery, self.place.limit_kw
        charging_kw, level_kw = shared(limit_kw, np.where(plugged, battery.accepts_kw(), 0.0))
        wanted_kw = np.where(plugged, np.minimum(load_kw, battery.wall_kw - charging_kw), 0.0)
        loads_kw, _ = shared(max(0.0, limit_kw - float(charging_kw.sum())), wanted_kw)
        return charging_kw + loads_kw, level_kw

    def _on_time(self, after: Floats, plugged: Flags, departs_s: Floats, ahead_s: float) -> Flags:
        """Who has the wanted charge at the departure [N] if it works until the next look, to be left with such a
        charge [N], and no longer: by the least that the place gives a car that charges."""
        battery, wanted = self.battery, self.terms.wanted_charge
        sure_kw = np.minimum(battery.wall_kw, self.place.limit_kw / max(1, len(self.reason)))
        knee = np.clip(wanted, 0.0, TAPER_FROM)
        below_h = np.maximum(knee - after, 0.0) / sure_kw
        slowest_kw = np.minimum(sure_kw, battery.tapered_kw(wanted))
        above_h = np.maximum(wanted - np.maximum(after, TAPER_FROM), 0.0) / slowest_kw
        needed_h = below_h + above_h
        needed_s = np.where(needed_h > 0.0, battery.usable_kwh, 0.0) * needed_h * 3600.0
        spare_s = np.where(self.reason == Reason.CHARGING_FIRST, SPARE_S, LEAST_SPARE_S)
        soon = plugged & np.isfinite(departs_s) & (departs_s - ahead_s >= needed_s + spare_s)
        on_time: Flags = (after >= wanted) | soon
        return on_time
