"""Trying items: a payload that cannot be read, or an item on which the model fails, fails by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from node.workloads import BadInput, BadModel, Continuous, Control, Row, Stopped, Workload

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no result, for its report."""

    code: str
    message: str


def read(workload: Workload, inputs: Sequence[bytes], limit: int, control: Control) -> Sequence[Any]:
    """Prepared items; a Failure for each input that is empty, too large or unreadable."""
    sizes = list(map(len, inputs))
    fit = list(range(len(inputs)))
    prepared: list[Any] = [None] * len(inputs)
    if min(sizes) == 0 or max(sizes) > limit:
        fit = [index for index, size in enumerate(sizes) if 0 < size <= limit]
        for index, size in enumerate(sizes):
            if size == 0:
                prepared[index] = Failure("bad_input", "the item is empty")
            elif size > limit:
                message = f"the item has {size:,} bytes, more than the {limit:,} that the model takes; shorten it"
                prepared[index] = Failure("bad_input", message)
        inputs = [inputs[index] for index in fit]
    try:
        items: Sequence[Any] = workload.prepare(inputs, control) if inputs else ()
    except Stopped:
        raise
    except Exception as error:
        if len(inputs) == 1:
            items = (_failure_of(error),)
        else:
            items = [read(workload, [payload], limit, control)[0] for payload in inputs]
    for index, item in zip(fit, items, strict=True):
        prepared[index] = Failure("bad_input", str(item)) if isinstance(item, BadInput) else item
    return prepared


def run(workload: Workload, items: Sequence[Any], control: Control) -> Sequence[Any]:
    """Outcomes of a micro-batch; where it fails as a whole, its items are run one by one."""
    try:
        outcomes = workload.run(items, control)
    except Stopped:
        raise
    except Exception as error:
        failure = _failure_of(error)
        if len(items) == 1:
            return (failure,)
        alone: list[Any] = []
        for place, item in enumerate(items):
            control.check()
            control.first = place
            alone.extend(run(workload, (item,), control) if control.wanted(0) else (None,))
        return alone
    if BadInput in set(map(type, outcomes)):
        return [Failure("bad_input", str(item)) if isinstance(item, BadInput) else item for item in outcomes]
    return outcomes


def step(workload: Continuous[R], rows: Sequence[R], control: Control) -> dict[R, Failure]:
    """Take rows a step further; where it fails as a whole, each by itself. Those that cannot go on."""
    try:
        workload.step(rows, control)
    except Stopped:
        raise
    except Exception as error:
        failure = _failure_of(error)
        if len(rows) == 1:
            return {rows[0]: failure}
        failed: dict[R, Failure] = {}
        for row in rows:
            failed |= step(workload, (row,), control)
        return failed
    return {}


def ended(workload: Continuous[R], row: R) -> bytes | Failure:
    """What a row gave."""
    outcome = workload.outcome(row)
    return _failure_of(outcome) if isinstance(outcome, BadModel) else outcome


def _failure_of(error: Exception) -> Failure:
    """What to say of an exception that a model raised, and room for the next try."""
    if isinstance(error, BadModel):
        return Failure("model", str(error))
    from node.workloads.device import diagnose

    said = " ".join(str(error).split())[:300]
    return Failure(diagnose(error), f"the model raised {type(error).__name__}: {said}")
