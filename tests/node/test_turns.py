"""Whose turn it is while some models are not loaded."""

from dataclasses import dataclass

from node.turns import Turns


@dataclass(eq=False)
class Waits:
    """A work that waits; its group is its car's and its model's."""

    vehicle: int
    model: str
    solo: bool = False
    over: bool = False
    last_batch: bool = True

    @property
    def group(self) -> tuple[int, str]:
        return self.vehicle, self.model


def turns(loaded: set[str], *works: Waits, interactive: bool = False) -> Turns[Waits]:
    made: Turns[Waits] = Turns(lambda work: work.model in loaded)
    for work in works:
        made.add(work, interactive)
    return made


def test_a_work_whose_model_is_not_loaded_keeps_no_other_of_its_car_waiting() -> None:
    loaded, absent, other = {"a"}, Waits(0, "b"), Waits(0, "a")
    made = turns(loaded, absent, other)
    assert made.firsts() == [other]
    assert made.in_line(0, other.group) == [other]
    assert made.following(other) is None
    assert made.waiting() == [absent, other]
    loaded.add("b")
    assert made.firsts() == [absent]


def test_the_work_that_follows_is_of_another_car_or_its_own_and_never_one_that_cannot_run() -> None:
    absent, work, behind, there = Waits(0, "b"), Waits(1, "a"), Waits(1, "a"), Waits(2, "a")
    assert turns({"a"}, absent, work, behind, there).following(work) is there
    assert turns({"a"}, absent, work, behind).following(work) is behind
    assert turns({"a"}, absent, work).following(work) is None
    work.last_batch = False
    assert turns({"a"}, absent, work, behind).following(work) is work


def test_requests_for_a_model_that_is_not_loaded_let_others_go_first() -> None:
    absent, one, other = Waits(0, "b"), Waits(0, "a"), Waits(0, "a")
    made = turns({"a"}, absent, one, other, interactive=True)
    assert made.urgent is one
    assert made.sharing(one) == [one, other]
    assert turns({"c"}, absent, one, interactive=True).urgent is None


def test_where_nothing_gathers_each_request_is_looked_at_once() -> None:
    looked: list[int] = []

    class Watched(Waits):
        @property
        def group(self) -> tuple[int, str]:
            looked.append(self.vehicle)
            return super().group

    asked = [Watched(vehicle, "a") for vehicle in range(50)]
    assert turns({"a"}, *asked, interactive=True).urgent_ones() == asked
    assert looked == list(range(50))
