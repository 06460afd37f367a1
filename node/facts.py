"""What a lot did, as raw facts in JSON lines, for whoever wants to judge it afterwards.

A fact is one line: its kind, the cars' clock (`t_s`, since Monday 00:00), seconds of this process (`real_s`), the
car. Kinds: `car` (hardware, weights it has to fetch), `terms` (the owner's, all of them), `state` (when something
of it moved), `fetched` (weights, by link), `began` and `ended` (a lease, with its energy). Lines are written on a
thread of their own.
"""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from node.battery import TAPER_FROM, TAPER_TO, Flags, Floats
from node.guard import Guard
from node.lease import Lease
from node.network import Fetched
from node.profile import Profile
from node.terms import Terms

_STATE = (
    *("plugged", "parked", "since_s", "charge", "given_kw", "drawn_kw"),
    *("cabin_c", "cellular_bytes", "withheld", "wifi"),
)


class Facts:
    """One file, written until `close`."""

    def __init__(self, folder: Path, name: str, cars: Sequence[str]) -> None:
        """Raises OSError when there can be no such file."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{name}.jsonl").open("a", encoding="utf-8")
        self._cars = cars
        self._told: dict[int, tuple[Any, ...]] = {}
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def tell(self, fact: str, node: int, t_s: float, real_s: float, said: Mapping[str, Any]) -> None:
        """One fact about one car; what is infinite is left out."""
        row = {"fact": fact, "t_s": round(t_s, 3), "real_s": round(real_s, 3), "car": self._cars[node]}
        finite = {key: value for key, value in said.items() if value is not math.inf and value != math.inf}
        self._lines.put(json.dumps({**row, **finite}) + "\n")

    def cars(
        self, profiles: Sequence[Profile], guard: Guard, site: str, limit_kw: float, t_s: float, real_s: float
    ) -> None:
        """The hardware, where it stands with what its connection gives all cars there, and what the owners say."""
        where = {"site": site, "place": guard.place.name, "limit_kw": limit_kw}
        for node, profile in enumerate(profiles):
            known = {} if profile.battery is None else asdict(profile.battery)
            board = {key: profile.figures[key] for key in ("board_w", "awake_w") if key in profile.figures}
            taper = {"taper_from": TAPER_FROM, "taper_to": TAPER_TO}
            weights = {"weights_bytes": guard.fetches.left_bytes[node]}
            self.tell("car", node, t_s, real_s, {**known, **board, **taper, **where, **weights})
            self.terms(node, guard.terms.rows[node], t_s, real_s)

    def terms(self, node: int, terms: Terms, t_s: float, real_s: float) -> None:
        """What an owner says from now on."""
        self.tell("terms", node, t_s, real_s, asdict(terms))

    def states(
        self,
        guard: Guard,
        plugged: Flags,
        parked: Flags,
        since_s: Floats,
        t_s: float,
        real_s: float,
        elsewhere: Flags | None = None,
    ) -> None:
        """The cars of which something moved since they were told last; since_s [N]: when each was plugged in, or
        parked; elsewhere [N]: not at their place."""
        columns = (
            *(plugged, parked, since_s.round(), guard.battery.state_of_charge.round(4), guard.given_kw.round(2)),
            guard.drawn_kw.round(2),
            *(guard.heat.cabin_c.round(1), guard.cellular_bytes, guard.reason, guard.wifi(elsewhere)),
        )
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for node, row in enumerate(rows):
            if self._told.get(node) != row:
                self._told[node] = row
                names = _STATE
                place = {"pay_per_h": guard.place.pay_per_h}
                self.tell("state", node, t_s, real_s, {**dict(zip(names, row, strict=True)), **place})

    def fetched(self, fetched: Fetched, left_bytes: Floats, t_s: float, real_s: float) -> None:
        """Weights that came to cars, and what each still lacks [N]."""
        for node in np.flatnonzero(fetched.all).tolist():
            links = {"line": fetched.line[node], "lan": fetched.lan[node], "cellular": fetched.cellular[node]}
            self.tell("fetched", node, t_s, real_s, {**links, "left_bytes": left_bytes[node]})

    def began(self, lease: Lease, t_s: float, real_s: float) -> None:
        """Work came to a car."""
        self.tell("began", lease.node, t_s, real_s, {**_named(lease), "model": lease.model, "tenant": lease.tenant})

    def ended(self, lease: Lease, t_s: float, real_s: float) -> None:
        """Nothing of it runs any more."""
        compute_j, awake_j = lease.spent_j
        energy = {"compute_modelled_j": round(compute_j, 3), "awake_modelled_j": round(awake_j, 3)}
        self.tell("ended", lease.node, t_s, real_s, {**_named(lease), **energy})

    def close(self) -> None:
        """Return when all that was told is in the file."""
        self._lines.put(None)
        self._thread.join()
        self._file.close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._file.write(line)
            if self._lines.empty():
                self._file.flush()


def _named(lease: Lease) -> dict[str, str]:
    return {"lease": f"{lease.token.epoch}/{lease.token.attempt}"}
