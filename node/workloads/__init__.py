"""Workloads: what a model of each kind does with payloads. One module a kind; this one is what they share.

A workload is asked in three steps: `prepare` reads payloads, `plan` cuts them into micro-batches, `run` computes
one micro-batch. It knows neither leases nor cars, and asks its `Control` between two layers whether to go on.
Importing this package does not import torch: a lot that only echoes never needs it.
"""

import importlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from node.models import ModelCache
from node.roofline import Cost
from node.workloads.transcript import Passage, Transcript


class Stopped(Exception):
    """Raised inside running work whose control says that it has ended."""


class BadInput(Exception):
    """A payload that no car could run. The message is one sentence for the person who sent it."""


class BadModel(Exception):
    """What a model made of an item is no answer. The message is one sentence for the person who sent it."""


@dataclass(slots=True)
class Control:
    """What running work looks at between two layers. Other threads may set `ended` and add to `dropped`."""

    ended: bool = False
    """All of the micro-batch is to end now."""
    dropped: set[int] = field(default_factory=set)
    """Items of the micro-batch, by position, that nobody waits for any more."""
    first: int = 0
    """Position of the first item of this run, when the items of a micro-batch are run one by one."""
    urgent: Callable[[], None] | None = None
    """Runs what may not wait, if there is any; set for work that lets others go first."""

    def wanted(self, item: int) -> bool:
        """Whether somebody still waits for an item of this run."""
        return self.first + item not in self.dropped

    def check(self) -> None:
        """Let urgent work go first. Raises Stopped when this work has ended."""
        if self.urgent is not None:
            self.urgent()
        if self.ended:
            raise Stopped


Outcome = bytes | BadInput | None
"""What `run` gives for one item: its result, why it has none, or None for an item that was dropped."""


class Workload(Protocol):
    """One model, loaded."""

    @property
    def kind(self) -> str:
        """How payloads read: see protos/jobs.proto."""

    @property
    def computes(self) -> bool:
        """Whether it occupies the accelerator, and could fail there; what does not waits for no turn."""

    @property
    def batch_items(self) -> int:
        """Ordinary items that one micro-batch holds well."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one item as a tensor; empty: items are no tensors."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one result as a tensor; empty: it is none."""

    @property
    def context_tokens(self) -> int:
        """Tokens of a text that count, or of a prompt with its answer, at most; 0: it reads no text."""

    def prepare(self, inputs: Sequence[bytes], control: Control) -> Sequence[Any]:
        """Read payloads: for each a prepared item, or a BadInput. Cheap, and never decodes what is large."""

    def plan(self, prepared: Sequence[Any]) -> list[list[int]]:
        """Cut prepared items (none of them a BadInput) into micro-batches, by index, in the order to run them."""

    def run(self, prepared: Sequence[Any], control: Control) -> Sequence[Outcome]:
        """Compute one micro-batch. Raises Stopped, or whatever the model raises."""

    def cost(self, prepared: Sequence[Any], outcomes: Sequence[Any]) -> Cost:
        """What a micro-batch that was run asks of any computer: how long its answers are is known only then."""

    def ordinary_cost(self) -> Cost:
        """The cost of a micro-batch of ordinary items."""

    def items_per_s(self) -> float:
        """Measure the speed on ordinary items, items a second. Takes about a second; warms up on the way."""


class Row(Protocol):
    """An answer in the making."""

    @property
    def ended(self) -> bool:
        """Nothing is to be added to it."""

    @property
    def transcript(self) -> Transcript:
        """Its text so far."""

    @property
    def reused(self) -> int:
        """Tokens that it did not pass through: their keys and values were there already."""

    @property
    def prompt_tokens(self) -> int:
        """Of its prompt, as the model reads it."""


R = TypeVar("R", bound=Row)


@runtime_checkable
class Continuous(Workload, Protocol[R]):
    """A model whose items take many steps, which they begin and end when they like, sharing those in between."""

    most_rows: int
    """Rows that step together, at most."""

    def join(self, owner: Hashable, prepared: Any, begun: Sequence[int], patient: bool = False) -> R | None:
        """Begin an item; None while there is no room for it. A patient one lets others go first, and leaves room
        for them. What its owner did before may shorten its way; nobody else's does."""

    def step(self, rows: Sequence[R], control: Control) -> None:
        """Take rows that have not ended one step further. Raises Stopped, or whatever the model raises: then
        nothing has changed."""

    def step_cost(self, rows: Sequence[R]) -> Cost:
        """What the next step of these rows asks of any computer."""

    def outcome(self, row: R) -> bytes | BadModel:
        """What a row that has ended gives."""

    def likelihoods(self, row: R, passage: Passage) -> Sequence[bytes]:
        """How likely each token of a passage of its answer was, as the wire has it; none unless asked for."""

    def leave(self, row: R) -> None:
        """A row has ended, or nobody waits for it any more."""

    @property
    def values(self) -> float:
        """Numbers that it holds at most: weights, keys and values."""

    @property
    def positions(self) -> int:
        """Positions, over all rows, whose keys and values it holds at once."""

    def ordinary_positions(self) -> int:
        """Those of an ordinary item. Raises BadInput when the model refuses it."""

    def hold(self, positions: int) -> None:
        """Hold keys and values of so many positions. Before anything joins."""

    def limit(self, values: float) -> None:
        """Hold no more than so many numbers, weights, keys and values together. Raises ModelError when that is too
        little. Before anything joins."""


def load(cache: ModelCache, name: str, device: str = "cpu", dtype: str = "fp32") -> Workload:
    """Load a cached model. `device` is "auto", "cpu" or "cuda", `dtype` is "auto", "fp32" or "bf16".

    Raises ModelError when the model is not cached or its files are not whole, or there is no such device.
    """
    model = cache.get(name)
    model.verify(contents=False)  # done when it was added; half a gigabyte takes 0.4 s in each process
    module = importlib.import_module(f"node.workloads.{model.kind}")
    workload: Workload = module.load(model, device, dtype)
    return workload


def run_alone(workload: Workload, inputs: Sequence[bytes]) -> list[bytes | BadInput]:
    """Results of all inputs, in their order, computed here and now: the reference that a fleet is compared with."""
    control = Control()
    prepared = workload.prepare(inputs, control)
    results: list[bytes | BadInput] = [item if isinstance(item, BadInput) else b"" for item in prepared]
    sound = [index for index, item in enumerate(prepared) if not isinstance(item, BadInput)]
    for batch in workload.plan([prepared[index] for index in sound]):
        places = [sound[index] for index in batch]
        outcomes = workload.run([prepared[place] for place in places], control)
        for place, outcome in zip(places, outcomes, strict=True):
            assert outcome is not None, "nothing was dropped"
            results[place] = outcome
    return results
