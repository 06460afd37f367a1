"""The suite, tested: take out what a promise rests on, and the tests of that promise turn red.

Each change is made to a copy of the checkout in which the ordinary command runs, so that coordinators and lots
that a test starts are changed, too.
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
COPIED = ("coordinator", "node", "protos", "tests", "pyproject.toml")
SERVES = "tests/test_live.py::test_it_serves_within_a_second_and_stops_cleanly"
"""Stays green: what is broken is a promise, not the coordinator as a whole."""
PASSED, FAILED = 0, 1
"""Exit codes of pytest; the others say that it could not run what it was told to."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """What stands once in a file, what takes its place, and tests each of which notices."""

    file: str
    old: str
    new: str
    noticed_by: tuple[str, ...]

    def apply(self, checkout: Path) -> None:
        """Change the file; this table is out of date when there is nothing to change."""
        path = checkout / self.file
        text = path.read_text()
        assert text.count(self.old) == 1, f"{self.file} is to have this once: {self.old}"
        path.write_text(text.replace(self.old, self.new))


MUTATIONS = {
    "answer before the commit": Mutation(
        "coordinator/perform.py",
        "    store.commit([driver.operation(record) for record in effects.save], committed)\n",
        "    operations = [driver.operation(record) for record in effects.save]\n"
        "    committed(None)\n"
        "    store.commit(operations, lambda error: None)\n",
        ("tests/faults/test_order.py::test_no_answer_leaves_before_the_sync_that_covers_it",),
    ),
    "take a report under any token": Mutation(
        "coordinator/core/scheduler.py",
        "            lease = self.leases.get(report.token)\n"
        "            if lease is not None and lease.lot == event.lot:\n",
        "            lease = self.leases.get(report.token) or next(reversed(self.leases.values()), None)\n"
        "            if lease is not None:\n",
        (
            "tests/coordinator/test_scheduler.py::test_a_lot_cannot_report_on_another_lots_lease",
            "tests/test_late_result.py::test_a_result_under_a_lease_that_ran_out_is_refused",
            "tests/test_late_result.py::test_a_token_of_a_former_coordinator_is_refused",
        ),
    ),
    "let a key name two jobs": Mutation(
        "coordinator/store/schema.py",
        "CREATE UNIQUE INDEX jobs_by_key",
        "CREATE INDEX jobs_by_key",
        ("tests/coordinator/test_store.py::test_a_key_names_one_job_in_the_database_too",),
    ),
    "skip the segment's sync": Mutation(
        "coordinator/store/segments.py",
        "            os.fdatasync(self._descriptor)\n            self._dirty = False\n",
        "            self._dirty = False\n",
        ("tests/faults/test_order.py::test_no_answer_leaves_before_the_sync_that_covers_it",),
    ),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The checkout again, to be changed."""
    for name in COPIED:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(CHECKOUT / name, tmp_path / name)
    return tmp_path


def run(checkout: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run these tests of a checkout by the ordinary command."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfs", "--color=no", *tests],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_breaks_a_promise_turns_its_tests_red(name: str, copy: Path) -> None:
    mutation = MUTATIONS[name]
    mutation.apply(copy)
    ended = run(copy, SERVES, *mutation.noticed_by)
    skipped = re.search(r"^SKIPPED \[\d+\] \S+ (.*)", ended.stdout, re.MULTILINE)
    if skipped is not None and ended.returncode == PASSED:
        pytest.skip(skipped[1])
    failed = re.findall(r"^FAILED (\S+)", ended.stdout, re.MULTILINE)
    assert (ended.returncode, {*failed}) == (FAILED, {*mutation.noticed_by}), ended.stdout


def test_a_checkout_in_which_nothing_is_changed_stays_green(copy: Path) -> None:
    tests = dict.fromkeys(test for mutation in MUTATIONS.values() for test in mutation.noticed_by)
    ended = run(copy, SERVES, *tests)
    assert ended.returncode == PASSED, ended.stdout
