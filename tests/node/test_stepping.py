"""Rows that begin, step and leave: what comes while payloads are read, while there is no room, while one begins."""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from node.executor import Executor
from node.models import ModelCache
from node.roofline import Cost
from node.stepping import RIDERS
from node.work import ModelSpeed, Work
from node.workloads import Continuous, Control, Outcome, Workload
from node.workloads.transcript import Passage, Transcript
from tests.node.test_executor import Ear, work

POSITIONS = 100


@dataclass(eq=False)
class Count:
    """A row that has so many steps left."""

    name: str
    positions: int
    left: int
    transcript: Transcript = field(default_factory=lambda: Transcript(lambda tokens: "." * len(tokens)))

    @property
    def ended(self) -> bool:
        return self.left == 0


class Counting:
    """A model whose rows count down. A payload says a name, the positions that its row takes, and its steps."""

    kind = "generate"
    computes = True
    batch_items = 8
    most_rows = 32
    positions = POSITIONS
    values = float(POSITIONS)
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    context_tokens = POSITIONS

    def __init__(self, at: Callable[[str, str], None]) -> None:
        self._at = at  # told what it does and to whom, as it begins that
        self.done: list[tuple[str, str]] = []  # the same
        self.owners: list[Hashable] = []  # of rows that began
        self.used = 0

    def prepare(self, inputs: Sequence[bytes], control: Control) -> Sequence[Count]:
        rows = []
        for payload in inputs:
            control.check()
            name, positions, steps = payload.decode().split()
            self._note("read", name)
            rows.append(Count(name, int(positions), int(steps)))
        return rows

    def join(self, owner: Hashable, prepared: Count, begun: Sequence[int], patient: bool = False) -> Count | None:
        self._note("join", prepared.name)
        if self.used + prepared.positions > POSITIONS:
            self._note("no room", prepared.name)
            return None
        self.used += prepared.positions
        self.owners.append(owner)
        self._note("begun", prepared.name)
        return prepared

    def step(self, rows: Sequence[Count], control: Control) -> None:
        for row in rows:
            control.check()
            self._note("step", row.name)
        for row in rows:
            row.left -= 1

    def likelihoods(self, row: Count, passage: Passage) -> tuple[bytes, ...]:
        return ()

    def outcome(self, row: Count) -> bytes:
        return row.name.encode()

    def leave(self, row: Count) -> None:
        self.used -= row.positions

    def _note(self, what: str, name: str) -> None:
        self.done.append((what, name))
        self._at(what, name)

    def hold(self, positions: int) -> None:
        raise NotImplementedError

    def ordinary_positions(self) -> int:
        raise NotImplementedError

    def limit(self, values: float) -> None:
        raise NotImplementedError

    def step_cost(self, rows: Sequence[Count]) -> Cost:
        raise NotImplementedError

    def cost(self, prepared: Sequence[Count], outcomes: Sequence[object]) -> Cost:
        raise NotImplementedError

    def ordinary_cost(self) -> Cost:
        raise NotImplementedError

    def plan(self, prepared: Sequence[Count]) -> list[list[int]]:
        raise NotImplementedError

    def run(self, prepared: Sequence[Count], control: Control) -> Sequence[Outcome]:
        raise NotImplementedError

    def items_per_s(self) -> float:
        raise NotImplementedError


class Moment:
    """Holds whoever comes to it first, from `reached` to `go`."""

    def __init__(self, what: str, name: str) -> None:
        self._at = what, name
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self, what: str, name: str) -> None:
        if (what, name) == self._at and not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(60)


class Counted(Executor):
    """An executor that has this model and loads none."""

    def __init__(self, ear: Ear, model: Counting) -> None:
        super().__init__(ear, cache=ModelCache(Path()), models=["count"], device="cpu", dtype="fp32", threads=1)
        self._model = model

    def _load(self) -> tuple[ModelSpeed, ...]:
        workload: Workload = self._model
        assert isinstance(workload, Continuous)
        self._models.enter("count", workload, 0.0, 0.0)
        self._models.limits["count"] = 100
        return ()


@contextmanager
def held(ear: Ear, what: str, name: str, *works: Work) -> Iterator[tuple[Executor, Counting, Moment]]:
    """An executor whose thread is held at a moment of these works."""
    moment = Moment(what, name)
    model = Counting(moment)
    executor = Counted(ear, model)
    executor.start()
    try:
        for each in works:
            executor.submit(each)
        assert moment.reached.wait(60)
        yield executor, model, moment
    finally:
        moment.go.set()
        executor.close()


def items(name: str, count: int, positions: int, steps: int) -> list[bytes]:
    return [f"{name}{number} {positions} {steps}".encode() for number in range(count)]


def names(model: Counting, what: str) -> list[str]:
    return [name for done, name in model.done if done == what]


def test_a_batch_that_is_being_read_when_a_request_comes_is_read_and_answered_once() -> None:
    ear = Ear()
    payloads = items("b", 5, 1, 3)
    with held(ear, "read", "b0", work("batch", payloads, "count")) as (executor, model, moment):
        executor.submit(work("chat", [b"c 1 20"], "count", interactive=True))
        moment.go.set()
        ear.wait_for("batch", "chat")
    assert sorted(names(model, "read")) == ["b0", "b1", "b2", "b3", "b4", "c"]
    assert sorted(names(model, "begun")) == ["b0", "b1", "b2", "b3", "b4", "c"]
    told = [item for what, key, each in ear.heard if (what, key) == ("finished", "batch") for item in each]
    assert sorted(told) == [0, 1, 2, 3, 4]
    assert model.used == 0


def test_a_batch_is_read_between_the_steps_of_those_that_talk_and_rides_along() -> None:
    ear = Ear()
    with held(ear, "step", "c", work("chat", [b"c 1 30"], "count", interactive=True)) as (executor, model, moment):
        executor.submit(work("batch", items("b", 5, 1, 3), "count"))
        moment.go.set()
        ear.wait_for("batch", "chat")
    order = [(what, name) for what, name in model.done if what == "read" or name == "c"]
    reads = [place for place, (what, name) in enumerate(order) if what == "read" and name != "c"]
    assert len(reads) == 5
    for before, after in pairwise(reads):
        assert order[before + 1 : after] == [("step", "c")], "one step for each that is read"
    assert names(model, "step").index("b0") < len(names(model, "step")) - names(model, "step")[::-1].index("c")


def test_of_a_batch_that_has_begun_a_few_rows_ride_along_with_one_that_talks() -> None:
    ear = Ear()
    with held(ear, "step", "b0", work("batch", items("b", 10, 1, 40), "count")) as (executor, model, moment):
        executor.submit(work("chat", [b"c 1 10"], "count", interactive=True))
        moment.go.set()
        ear.wait_for("batch", "chat")
    steps = names(model, "step")
    talks = [place for place, name in enumerate(steps) if name == "c"]
    assert len(talks) == 10
    riders = {after - before - 1 for before, after in pairwise(talks)}
    assert riders == {RIDERS}
    assert RIDERS < 10


def filling(car: int) -> Work:
    """A batch work whose first ten rows fill the memory; they end one by one."""
    return work(car, [f"{car}.{number} 10 {1 + number}".encode() for number in range(20)], "count", vehicle=car)


def test_a_request_that_is_short_of_room_begins_before_any_batch_row_of_any_car() -> None:
    ear = Ear()
    with held(ear, "no room", "1.10", filling(1), filling(2), filling(3)) as (executor, model, moment):
        executor.submit(work("chat", [b"c 60 5"], "count", interactive=True))
        moment.go.set()
        ear.wait_for(1, 2, 3, "chat")
    short = model.done.index(("no room", "c"))
    later = [name for what, name in model.done[short:] if what == "begun"]
    assert later[0] == "c"
    assert len(later) > 1, "and batch rows after it"


def test_batch_rows_begin_beside_a_request_that_was_short_of_room() -> None:
    ear = Ear()
    with held(ear, "no room", "1.10", filling(1)) as (executor, model, moment):
        executor.submit(work("chat", [b"c 60 50"], "count", vehicle=1, interactive=True))
        moment.go.set()
        ear.wait_for(1, "chat")
    begun, ends = model.done.index(("begun", "c")), len(model.done) - model.done[::-1].index(("step", "c"))
    assert ("no room", "c") in model.done[:begun]
    assert "begun" in [what for what, name in model.done[begun + 1 : ends]]


def test_a_request_that_is_stopped_while_it_is_short_of_room_keeps_nobody_waiting() -> None:
    ear = Ear()
    chat = work("chat", [b"c 101 1"], "count", interactive=True)
    with held(ear, "no room", "c", chat) as (executor, model, moment):
        executor.submit(work("batch", items("b", 5, 1, 3), "count"))
        stopping = executor.stop(["chat"])
        moment.go.set()
        ear.wait_for("batch")
        assert stopping.result(60) == {"chat": 0.0}
    assert "c" not in names(model, "begun")


def test_a_work_that_is_wound_down_while_its_row_begins_does_not_begin() -> None:
    ear = Ear()
    with held(ear, "join", "b0", work("batch", items("b", 1, 10, 1000), "count")) as (executor, model, moment):
        stopping = executor.stop(["batch"], gently=True)
        moment.go.set()
        executor.submit(work("next", [b"n 1 2"], "count"))
        ear.wait_for("next")
        assert stopping.result(60) == {"batch": 0.0}
        assert names(model, "step") == ["n", "n"]
        assert model.used == 0


def test_what_is_kept_of_a_row_is_of_its_car_and_its_tenant() -> None:
    ear = Ear()
    asked = [
        Work(number, car, "count", [b"c 1 2"], (0,), True, False, tenant=tenant)
        for number, (car, tenant) in enumerate([(0, "a"), (0, "b"), (1, "a"), (0, "a")])
    ]
    with held(ear, "step", "c", *asked) as (_, model, moment):
        moment.go.set()
        ear.wait_for(*range(4))
    assert len(model.owners) == 4
    assert len(set(model.owners)) == 3
