"""Which models stay in a memory, and who leaves for whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.resident import STAYS, Change, Residents, Want


def residents(memory: float, *there: str, **sizes: float) -> Residents:
    """A memory, models of these sizes, and those of them that are there, the least recently used first."""
    made = Residents(memory)
    for name, size in sizes.items():
        made.enter(name, size)
        made.leave(name)
    for name in there:
        made.enter(name, sizes[name])
    return made


def batch(model: str, number: int, begun: bool = False) -> Want:
    return Want(model, False, number, begun)


def asked(model: str, number: int, begun: bool = False) -> Want:
    return Want(model, True, number, begun)


def test_nothing_is_loaded_for_models_that_are_there() -> None:
    assert residents(10, "a", a=5).change([batch("a", 1), asked("a", 2)], 0.0) is None


def test_a_model_that_has_room_is_loaded_beside_the_others() -> None:
    assert residents(10, "a", a=5, b=5).change([batch("b", 1)], 0.0) == Change("b", (), True)


def test_the_least_recently_used_leave_and_no_more_than_need_be() -> None:
    made = residents(10, "a", "b", "c", a=3, b=3, c=3, d=4)
    assert made.change([batch("d", 1)], 0.0) == Change("d", ("a",), True)
    made.use("a")
    assert made.change([batch("d", 1)], 0.0) == Change("d", ("b",), True)
    made.enter("b", 1)
    assert made.change([batch("d", 1)], 0.0) == Change("d", ("c",), True)


def test_what_takes_no_memory_never_leaves() -> None:
    assert residents(4, "echo", "a", echo=0, a=3, b=4).change([batch("b", 1)], 0.0) == Change("b", ("a",), True)


def test_a_model_that_works_makes_room_only_when_what_began_has_ended() -> None:
    made = residents(5, "a", a=5, b=5)
    assert made.change([batch("a", 2, begun=True), asked("b", 3)], 0.0) == Change("b", ("a",), False)
    assert made.change([batch("a", 2), asked("b", 3)], 0.0) == Change("b", ("a",), True)


def test_work_that_came_before_keeps_its_model_and_later_work_does_not() -> None:
    made = residents(5, "a", a=5, b=5)
    assert made.change([batch("a", 1), batch("b", 2)], 0.0) is None
    assert made.change([batch("b", 2), batch("a", 3)], 0.0) == Change("b", ("a",), True)


def test_models_are_loaded_for_requests_before_batch_work() -> None:
    made = residents(5, a=5, b=5)
    assert made.change([batch("a", 1), asked("b", 2)], 0.0) == Change("b", (), True)
    made.enter("a", 5)
    assert made.change([asked("a", 9), batch("b", 1)], 0.0) is None, "who asks keeps the model, however late"


def test_what_no_room_can_be_made_for_yet_keeps_no_smaller_one_out() -> None:
    made = residents(10, "a", a=6, b=6, c=4)
    assert made.change([batch("a", 1), batch("b", 2), batch("c", 3)], 0.0) == Change("c", (), True)


def test_a_model_at_work_stays_for_some_times_its_loading_but_not_when_somebody_asks() -> None:
    made = residents(5, a=5, b=5)
    made.enter("a", 5, now_s=100.0, took_s=2.0)
    wants = [batch("b", 1), batch("a", 2)]
    assert made.change(wants, 100.0 + 2.0 * STAYS - 0.1) is None
    assert made.change(wants, 100.0 + 2.0 * STAYS) == Change("b", ("a",), True)
    assert made.change([asked("b", 1), batch("a", 2)], 100.1) == Change("b", ("a",), True)
    assert made.change([batch("b", 1)], 100.1) == Change("b", ("a",), True), "nobody wants it"


@pytest.mark.parametrize(
    ("size", "who"), [(5, ()), (6, ("a",)), (8, ("b",)), (9, ("a", "b")), (10, ("a", "b")), (11, None)]
)
def test_room_is_made_for_what_can_fit(size: float, who: tuple[str, ...] | None) -> None:
    assert residents(10, "a", "b", a=2, b=3).leaving_for(size) == who


@given(
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=5),
    works=st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 3)), max_size=40),
    at_once=st.integers(1, 8),
)
def test_the_memory_is_never_exceeded_and_no_work_waits_for_ever(
    sizes: list[int], works: list[tuple[int, bool, int]], at_once: int
) -> None:
    """Works of so many turns come, a few waiting at a time; each turn runs one that may, or loads."""
    made = residents(10, **{str(model): size for model, size in enumerate(sizes)})
    coming = [(number, str(model % len(sizes)), asks, turns) for number, (model, asks, turns) in enumerate(works)]
    waiting: dict[int, tuple[Want, int]] = {}
    for now_s in range(20 * (len(works) + 1)):
        while coming and len(waiting) < at_once:
            number, model, asks, turns = coming.pop(0)
            waiting[number] = Want(model, asks, number, False), turns
        if not waiting:
            break
        change = made.change([want for want, _ in waiting.values()], now_s)
        leaving = () if change is None else change.leaving
        if change is not None and change.may_begin:
            for model in leaving:
                made.leave(model)
            made.enter(change.load, sizes[int(change.load)], now_s, 1.0)
        assert made.used_bytes <= 10
        may = [
            (want.rank, number)
            for number, (want, _) in waiting.items()
            if want.model in made and (want.begun or want.model not in leaving)
        ]
        if may:
            want, turns = waiting.pop(min(may)[1])
            if turns > 1:
                waiting[want.number] = Want(want.model, want.interactive, want.number, turns % 2 == 0), turns - 1
    assert not waiting
    assert not coming
