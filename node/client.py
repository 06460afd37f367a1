"""The driver's hand, called: finds the lot that a vehicle belongs to, and plugs it in or takes it away."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from node.address import LotAddress, addresses
from protos import driver_pb2, driver_pb2_grpc

CALL_WITHIN_S = 10.0
"""A lot on this machine answers in milliseconds; one that hangs is told of after so long (assumed)."""


class DriverError(Exception):
    """What the driver asked for cannot be. The message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Parked:
    """One vehicle as its lot sees it."""

    name: str
    profile: str
    plugged_in: bool
    window_s: float  # what remains, real seconds
    state_of_charge: float  # 0 to 1, modelled
    leases: int  # held now
    lot_id: str
    process_id: int  # of its lot
    terms: Mapping[str, Any]  # the owner's, those that differ from the default
    withheld: str  # why these keep it from work, in words; empty: they do not
    site: str
    day: str
    parked: bool = False  # off its charger, and not driving


@dataclass(frozen=True, slots=True)
class Unplugging:
    """What taking vehicles of one lot away did."""

    vehicles: Sequence[str]
    stop_s: float  # from the call to the last torch work of these vehicles
    leases: int  # live leases that this took away


def last_cluster() -> Path:
    """The folder of the last `carpool up`; raises DriverError when there is none."""
    named = os.environ.get("CARPOOL_RUN_DIR")
    run_dir = Path(named) if named else Path(tempfile.gettempdir()) / f"carpool-{os.getuid()}"
    try:
        return Path(json.loads((run_dir / "last.json").read_text(encoding="utf-8"))["cluster"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DriverError(
            f"no `carpool up` is known in {run_dir}; start one, or name its folder with --cluster"
        ) from None


def parked(cluster: Path) -> tuple[Parked, ...]:
    """Every vehicle of the lots in this folder that answer."""
    found: list[Parked] = []
    for lot in addresses(cluster):
        try:
            with _calling(lot) as stub:
                listed = stub.ListVehicles(driver_pb2.ListVehiclesRequest(), timeout=CALL_WITHIN_S)
        except DriverError:
            continue  # killed: it comes back under another address, or not at all
        found.extend(_parked(row, lot) for row in listed.vehicles)
    return tuple(found)


def plug(cluster: Path, names: Sequence[str], window_s: float = 0.0) -> None:
    """Put these vehicles on the charger for so many seconds, 0 for until unplugged; raises DriverError."""
    for lot, mine in _lots_of(cluster, names):
        with _calling(lot) as stub:
            stub.PlugIn(driver_pb2.PlugInRequest(names=mine, window_s=window_s), timeout=CALL_WITHIN_S)


def unplug(cluster: Path, names: Sequence[str]) -> tuple[Unplugging, ...]:
    """Take these vehicles away, with no torch work of them left on return; raises DriverError."""
    done = []
    for lot, mine in _lots_of(cluster, names):
        with _calling(lot) as stub:
            stop = stub.Unplug(driver_pb2.UnplugRequest(names=mine), timeout=CALL_WITHIN_S)
        done.append(Unplugging(mine, stop.stop_s, stop.leases))
    return tuple(done)


def terms(cluster: Path, names: Sequence[str], change: Mapping[str, Any]) -> tuple[tuple[Parked, ...], float]:
    """Change the terms of these vehicles' owners, if anything is to be changed; the vehicles then, and the seconds
    until the last torch work that the terms forbid had ended. Raises DriverError."""
    found: list[Parked] = []
    stop_s = 0.0
    for lot, mine in _lots_of(cluster, names):
        request = driver_pb2.SetTermsRequest(names=mine, change=json.dumps(change) if change else "")
        with _calling(lot) as stub:
            told = stub.SetTerms(request, timeout=CALL_WITHIN_S)
        found.extend(_parked(row, lot) for row in told.vehicles)
        stop_s = max(stop_s, told.stop_s)
    return tuple(found), stop_s


def _parked(row: driver_pb2.ParkedVehicle, lot: LotAddress) -> Parked:
    return Parked(
        name=row.name,
        profile=row.profile,
        plugged_in=row.plugged_in,
        window_s=row.window_s,
        state_of_charge=row.state_of_charge,
        leases=row.leases,
        lot_id=lot.lot_id,
        process_id=row.process_id,
        terms=json.loads(row.terms) if row.terms else {},
        withheld=row.withheld,
        site=row.site,
        day=row.day,
        parked=row.parked,
    )


def _lots_of(cluster: Path, names: Sequence[str]) -> list[tuple[LotAddress, tuple[str, ...]]]:
    """Each lot that has some of these vehicles, and which; every name is known before the first call."""
    lots = addresses(cluster)
    known = {name for lot in lots for name in lot.vehicles}
    for name in names:
        if name not in known:
            few = ", ".join(sorted(known)[:6]) + (", …" if len(known) > 6 else "")
            raise DriverError(
                f"no vehicle is called {name!r} here; there are {few or 'none'} on this machine, and those of "
                f"another machine of a Ray cluster are called there, with --cluster {cluster}"
            )
    chosen = ((lot, tuple(name for name in names if name in set(lot.vehicles))) for lot in lots)
    return [(lot, mine) for lot, mine in chosen if mine]


@contextmanager
def _calling(lot: LotAddress) -> Iterator[driver_pb2_grpc.DriverServiceStub]:
    with grpc.insecure_channel(lot.driver, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            yield driver_pb2_grpc.DriverServiceStub(channel)
        except grpc.RpcError as error:
            raise DriverError(f"lot {lot.lot_id} at {lot.driver} did not do it: {error.details()}") from None
