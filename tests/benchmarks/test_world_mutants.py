"""The world, tested: whatever promise is taken out of the code, the ordinary command notices within ten seeds.

Each change is made to a copy of the packages, in which `python -m benchmarks world` runs.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
COPIED = ("benchmarks", "coordinator", "node", "protos")
SEEDS = 10
STORM = 8_000


@dataclass(frozen=True, slots=True)
class Mutant:
    """What stands once in a file, and what takes its place."""

    file: str
    old: str
    new: str


MUTANTS = {
    "token comparison dropped": Mutant(
        "coordinator/core/scheduler.py",
        "            lease = self.leases.get(report.token)\n"
        "            if lease is not None and lease.lot == event.lot:\n",
        "            lease = self.leases.get(report.token) or next(reversed(self.leases.values()), None)\n"
        "            if lease is not None:\n",
    ),
    "answer before save": Mutant(
        "coordinator/perform.py",
        "    store.commit([driver.operation(record) for record in effects.save], committed)\n",
        "    operations = [driver.operation(record) for record in effects.save]\n"
        "    committed(None)\n"
        "    store.commit(operations, lambda error: None)\n",
    ),
    "remainder forgotten": Mutant(
        "coordinator/core/job.py",
        "            if run < first + count:\n                self.open.add(run, first + count - run)\n",
        "            if first < run < first + count:\n                self.open.add(run, first + count - run)\n",
    ),
    "bitmap off by one": Mutant(
        "coordinator/core/lease.py",
        "        offset += count\n",
        "        offset += count - 1\n",
    ),
    "lease never expired": Mutant(
        "coordinator/core/ledger.py",
        "            if lease.expires_s > now_s:\n"
        "                heappush(self._expiries, (lease.expires_s, token))\n",
        "            if lease.expires_s <= now_s + 1e9:\n                continue\n",
    ),
    "resync without epoch": Mutant(
        "coordinator/core/ledger.py",
        "        token = Token(self._state.epoch, self._attempt)\n",
        "        token = Token(1, self._attempt)\n",
    ),
    "fairness ignored": Mutant(
        "coordinator/core/shares.py",
        "        return self._lent.get(tenant, 0.0)\n",
        "        return 0.0\n",
    ),
    "retry cap on departures": Mutant(
        "coordinator/core/scheduler.py",
        "        if report.ended is not None or not lease.undone:\n",
        "        if report.ended is LeaseEnd.UNPLUGGED:\n"
        "            for offset in range(lease.items):\n"
        "                if lease.undone >> offset & 1:\n"
        '                    self._item_error(job, lease, offset, "departed", "", effects)\n'
        "        if report.ended is not None or not lease.undone:\n",
    ),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages again, to be changed."""
    for name in COPIED:
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_noticed_within_ten_seeds(name: str, copy: Path) -> None:
    mutant = MUTANTS[name]
    path = copy / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} is to have this once: {mutant.old}"
    path.write_text(text.replace(mutant.old, mutant.new))
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", "world", "--storm", str(STORM), "--events", str(SEEDS * 10 * STORM)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    noticed = re.search(r"^seed (\d+), at event", ended.stderr, re.MULTILINE)
    assert noticed is not None, ended.stderr
    assert int(noticed[1]) < SEEDS
    assert f"World(Plan.of({noticed[1]})).run({STORM})" in ended.stdout
