"""Every invariant of the core, checked after each step by tests, and by the live runtime now and then."""

from itertools import pairwise

from coordinator.core.effects import Outcome
from coordinator.core.state import State


def validate(state: State) -> None:
    """Raise AssertionError with the first invariant that does not hold."""
    for _, check in CHECKS:
        check(state)


def violations(state: State) -> list[tuple[str, str]]:
    """The invariants that do not hold: the name of each, and what was found."""
    found: list[tuple[str, str]] = []
    for name, check in CHECKS:
        try:
            check(state)
        except AssertionError as breach:
            found.append((name, str(breach)))
    return found


def _items_are_in_one_place(state: State) -> None:
    for job in state.jobs.values():
        number = job.spec.job
        if job.leases or job.waiting:
            pieces = [*job.open, *((item, 1) for item in job.waiting)]
            for lease in job.leases.values():
                pieces.extend(lease.ranges_of(lease.undone))
            lent = sum(lease.undone.bit_count() for lease in job.leases.values())
            assert job.lent == lent, f"job {number}: {job.lent} items counted as lent, {lent} are"
            for (first, count), (after, _) in pairwise(sorted(pieces)):
                assert first + count <= after, f"job {number}: item {after} is in two places"
        else:
            assert not job.lent, f"job {number}: {job.lent} items counted as lent, none is"
        total = job.open.count + len(job.waiting) + job.lent + job.done + job.failed
        assert total == job.spec.items, f"job {number}: {total} of {job.spec.items} items accounted for"
        if job.ended is Outcome.DONE:
            assert job.settled == job.spec.items, f"job {number}: done with unsettled items"
        if job.ended is not None:
            assert not job.leases, f"job {number}: ended with leases"
        elif job.placeable:
            assert job.entry, f"job {number}: has items to place and stands in no queue"
            assert job.retried is not bool(job.open.count), f"job {number}: stands in the wrong line"


def _leases_agree(state: State) -> None:
    by_job = {token for job in state.jobs.values() for token in job.leases}
    by_node = {token for held in state.held.values() for token in held}
    assert by_job == by_node == set(state.leases), "leases, jobs and nodes name different tokens"
    for token, lease in state.leases.items():
        assert lease.token == token
        assert lease.items == sum(count for _, count in lease.ranges)
        assert not lease.done & lease.failed, f"lease {token}: an item has both result and error"
        assert not lease.solo or lease.items == 1, f"lease {token}: solo with {lease.items} items"


def _nodes_agree(state: State) -> None:
    fleet = state.fleet
    for row in range(fleet.size):
        held = state.held.get(row, {}).values()
        interactive = sum(lease.interactive for lease in held)
        assert fleet.interactive_leases[row] == interactive, f"node {row}: interactive leases miscounted"
        assert fleet.batch_leases[row] == len(held) - interactive, f"node {row}: batch leases miscounted"
        assert not held or fleet.present[row], f"node {row}: away with leases"
    assert fleet.buckets_are_true(), "a free node stands in the wrong bucket"


CHECKS = (
    ("items_in_one_place", _items_are_in_one_place),
    ("leases_agree", _leases_agree),
    ("nodes_agree", _nodes_agree),
)
