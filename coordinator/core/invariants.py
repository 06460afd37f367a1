"""Every invariant of the core, checked after each step by tests, and by the live runtime now and then."""

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
        name = f"job {job.spec.job}"
        lent = sum(lease.undone.bit_count() for lease in job.leases.values())
        assert job.lent == lent, f"{name}: {job.lent} items counted as lent, {lent} are"
        total = job.open.count + len(job.waiting) + job.lent + job.done + job.failed
        assert total == job.spec.items, f"{name}: {total} of {job.spec.items} items accounted for"
        taken: set[int] = set(job.waiting)
        for first, count in job.open:
            assert taken.isdisjoint(range(first, first + count)), f"{name}: an item is open and waiting"
        for lease in job.leases.values():
            items = lease.items_of(lease.undone)
            assert taken.isdisjoint(items), f"{name}: an item is lent twice"
            assert not any(item in job.open for item in items), f"{name}: an item is open and lent"
            taken.update(items)
        if job.ended is Outcome.DONE:
            assert job.settled == job.spec.items, f"{name}: done with unsettled items"
        if job.ended is not None:
            assert not job.leases, f"{name}: ended with leases"
        elif job.placeable:
            assert job.entry, f"{name}: has items to place and stands in no queue"


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
