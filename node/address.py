"""Where a lot's driver service is found: one small file for each lot in its cluster's folder."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LotAddress:
    """The loopback side of one lot."""

    lot_id: str
    driver: str  # 127.0.0.1:PORT
    vehicles: Sequence[str]  # names
    pid: int

    def write(self, cluster: Path) -> Path:
        """Put it into place at once: readers see the old file or the new one."""
        folder = cluster / "lots"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(prefix=".", dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        path = folder / f"{self.lot_id}.json"
        os.replace(fresh, path)
        return path


def addresses(cluster: Path) -> tuple[LotAddress, ...]:
    """Every lot of a cluster that has written its address, by name."""
    found = []
    for path in sorted((cluster / "lots").glob("[!.]*.json")):
        try:
            found.append(LotAddress(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # removed or half a disk: that lot cannot be called
    return tuple(found)
