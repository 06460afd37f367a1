"""Where lots are found: small files of each in its cluster's folder.

One says where the driver's hand reaches it, another where lots of its site get weights from it.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class LotAddress:
    """The loopback side of one lot."""

    lot_id: str
    driver: str  # 127.0.0.1:PORT
    vehicles: Sequence[str]  # names
    pid: int

    def write(self, cluster: Path) -> Path:
        """Put it into place at once: readers see the old file or the new one."""
        return _write(cluster / "lots", self.lot_id, asdict(self))


@dataclass(frozen=True, slots=True)
class NeighbourAddress:
    """Where a lot serves what its cache holds."""

    lot_id: str
    site: str  # where its vehicles stand
    weights: str  # 127.0.0.1:PORT
    pid: int

    def write(self, cluster: Path) -> Path:
        """Put it into place at once: readers see the old file or the new one."""
        return _write(cluster / "weights", self.lot_id, asdict(self))


_Address = TypeVar("_Address", LotAddress, NeighbourAddress)


def addresses(cluster: Path) -> tuple[LotAddress, ...]:
    """Every lot of a cluster that has written its address, by name."""
    return tuple(_read(cluster / "lots", LotAddress))


def neighbours(cluster: Path) -> tuple[NeighbourAddress, ...]:
    """Every lot of a cluster that serves its cache, by name."""
    return tuple(_read(cluster / "weights", NeighbourAddress))


def _write(folder: Path, lot_id: str, row: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=".", dir=folder)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(row, file)
    path = folder / f"{lot_id}.json"
    os.replace(fresh, path)
    return path


def _read(folder: Path, kind: type[_Address]) -> Iterator[_Address]:
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            yield kind(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # removed or half a disk: that lot cannot be called
