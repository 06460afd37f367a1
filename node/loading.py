"""The models of an executor: it measures all of them at the start, and then keeps loaded what its memory holds.

A model that work waits for is loaded on a thread of its own, one at a time, so that what runs goes on meanwhile,
and an owner who takes that waits for no loading. All else is for the executor's own thread. Which model is loaded
and who leaves for it is decided in `resident`.
"""

import importlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from node.attempt import Failure
from node.models import MAX_ITEM_BYTES, NOOP, ModelCache, ModelError
from node.pacing import Pace
from node.resident import Residents, Want
from node.roofline import model as modelled
from node.work import ModelSpeed
from node.workloads import BadInput, Continuous, Row, Workload, load
from node.workloads.echo import Echo

FREE_PART = 0.8
"""Of the memory that is free at the start what models may take, unless it is said: the rest is for what passes
through them (assumed)."""

_CLOSES_WITHIN_S = 1.0
"""How long the end of the executor waits for a loading, which cannot be interrupted."""


@dataclass(slots=True)
class _Loading:
    """A model that is being loaded. All but its name is written by its thread, `outcome` last."""

    model: str
    size_bytes: float = 0.0
    took_s: float = 0.0
    outcome: Workload | Exception | None = None


class Models:
    """One executor's."""

    def __init__(
        self,
        cache: ModelCache,
        names: Sequence[str],
        *,
        device: str,
        dtype: str,
        threads: int,
        pace: Pace | None,
        memory_bytes: float | None,  # None: what is free at the start
        positions: int | None,  # of keys and values; None: as many as do the workload good
        loaded: Callable[[], None],  # called on any thread when `settle` has something to do
    ) -> None:
        self._cache = cache
        self._names = tuple(dict.fromkeys(names))
        self._device = device
        self._dtype = dtype
        self._threads = threads
        self._pace = pace
        self._positions = positions
        self._loaded = loaded
        self._memory_bytes = inf if memory_bytes is None else memory_bytes
        self._memory_said = memory_bytes is not None
        if pace is not None:
            self._memory_bytes = inf if pace.machine.memory_bytes is None else pace.machine.memory_bytes
            self._memory_said = True
        self._residents = Residents(self._memory_bytes)
        self._speeds: dict[str, ModelSpeed] = {}
        self._load_s: dict[str, float] = {}
        self._held: dict[str, int] = {}  # positions of keys and values, always as many: prompts count on them
        self._loading: _Loading | None = None
        self._thread: threading.Thread | None = None
        self.workloads: dict[str, Workload] = {}  # those that are resident
        self.continuous: dict[str, Continuous[Row]] = {}  # likewise, those whose items take many steps
        self.steps: set[str] = set()  # all of that kind, resident or not
        self.limits: dict[str, int] = {}
        self.leaving: set[str] = set()  # nothing more of these is begun: they make room
        self.broken: dict[str, Failure] = {}  # they could not be loaded when they were wanted

    @property
    def whole(self) -> bool:
        """Whether every model is resident: there is nothing to load."""
        return len(self.workloads) == len(self._names)

    def measure(self) -> tuple[ModelSpeed, ...]:
        """Load every model, measure its speed, which warms it up, and keep those that fit, those named first before
        others. Raises ModelError, or ValueError when one would not fit a profile."""
        if any(name != NOOP for name in self._names):
            from node.workloads.device import device_named, free_bytes, use_threads

            use_threads(self._threads)
            if not self._memory_said:
                self._memory_bytes = FREE_PART * free_bytes(device_named(self._device))
                self._residents = Residents(self._memory_bytes)
        for name in reversed(self._names):
            self._measure(name)
        for name in self._names:
            if name not in self._residents and self._residents.fits_beside(name):
                began_s = time.perf_counter()
                workload = self._made(name)
                self.enter(name, workload, self._size_bytes(name, workload), time.perf_counter() - began_s)
        load_s = self.load_s()
        return tuple(replace(self._speeds[name], load_s=load_s[name]) for name in self._names)

    def load_s(self) -> Mapping[str, float]:
        """What loading each model would take, seconds; 0: it is resident. Those that are broken are left out."""
        left = [name for name in self._names if name not in self.broken]
        return {name: 0.0 if name in self.workloads else self._load_s[name] for name in left}

    def took_s(self, name: str) -> float:
        """What loading a model took last, seconds."""
        return self._load_s[name]

    def ready(self, model: str, begun: bool) -> bool:
        """Whether a work may have a turn: its model is resident, and makes no room, or it has begun."""
        return model in self.workloads and (begun or model not in self.leaving)

    def settle(self, wants: Callable[[], Sequence[Want]]) -> bool:
        """Take in what was loaded, and load what is wanted next when there is room. Whether `load_s` or `broken` is
        another than before."""
        changed = self._take_in()
        if self._loading is None:
            self.leaving.clear()
            change = self._residents.change(wants(), time.perf_counter())
            if change is not None and change.may_begin:
                self._let_go(change.leaving)
                self._begin(change.load)
                changed = changed or bool(change.leaving)
            elif change is not None:
                self.leaving.update(change.leaving)
        return changed

    def enter(self, name: str, workload: Workload, size_bytes: float, load_s: float) -> None:
        """This model is resident now, and loading it took so long."""
        self._load_s[name] = load_s
        self._residents.enter(name, size_bytes, time.perf_counter(), load_s)
        self.workloads[name] = workload
        if isinstance(workload, Continuous):
            self.continuous[name] = workload
            self.steps.add(name)

    def use(self, model: str) -> None:
        """A resident model is at work."""
        self._residents.use(model)

    def close(self) -> None:
        """Wait for a loading to end, but not long."""
        if self._thread is not None:
            self._thread.join(_CLOSES_WITHIN_S)

    def _measure(self, name: str) -> None:
        workload, load_s = self._first(name)
        size_bytes = self._size_bytes(name, workload)
        leaving = self._residents.leaving_for(size_bytes)
        if leaving is None:
            raise self._too_large(name, size_bytes)
        self._let_go(leaving)
        self.enter(name, workload, size_bytes, load_s)
        limit = MAX_ITEM_BYTES[workload.kind] if name == NOOP else self._cache.get(name).max_item_bytes
        digest = "" if name == NOOP else self._cache.get(name).digest
        self.limits[name] = limit
        paced = self._paced_items_per_s(workload)
        speed = workload.items_per_s()
        self._speeds[name] = ModelSpeed(
            name,
            digest,
            workload.kind,
            speed,
            workload.batch_items,
            limit,
            load_s,
            paced,
            workload.input_shape,
            workload.output_shape,
            workload.context_tokens,  # the same each time that it is loaded, as its room for keys and values is
        )

    def _first(self, name: str) -> tuple[Workload, float]:
        """A model that was not loaded before, with room for its weights, and what loading it took."""
        if name == NOOP:
            return Echo(), 0.0
        from node.models import tensors_of

        kind = self._cache.get(name).kind
        importlib.import_module(f"node.workloads.{kind}")  # which is no part of loading a model
        weights_bytes = tensors_of(self._cache.get(name))[0] * self._value_bytes(name)
        leaving = self._residents.leaving_for(weights_bytes)
        if leaving is None and self._pace is None:
            raise self._too_large(name, weights_bytes)
        self._let_go(leaving or ())
        began_s = time.perf_counter()
        workload = self._made(name)
        return workload, time.perf_counter() - began_s

    def _made(self, name: str) -> Workload:
        """A model, loaded: one that keeps keys and values leaves itself room for them, the same each time. Raises
        ModelError, or ValueError when it would not fit a profile."""
        workload = load(self._cache, name, self._device, self._dtype)
        ordinary = _ordinary_positions(name, workload) if isinstance(workload, Continuous) else 0
        self._paced_items_per_s(workload)
        if isinstance(workload, Continuous):
            positions = self._held.get(name, self._positions)
            if positions is None and self._memory_bytes < inf:
                workload.limit(self._memory_bytes / self._value_bytes(name))
            elif positions not in (None, workload.positions):
                workload.hold(positions)
            if workload.positions < ordinary:
                raise ModelError(
                    f"{name} has room for keys and values of {workload.positions:,} positions, and an ordinary"
                    f" request takes {ordinary:,}; give more with --kv-positions or --memory-gb"
                )
            self._held[name] = workload.positions
        return workload

    def _size_bytes(self, name: str, workload: Workload) -> float:
        """What a model takes: its weights, and its keys and values. What passes through it is not counted."""
        if name == NOOP:
            return 0.0
        values = workload.values if isinstance(workload, Continuous) else workload.ordinary_cost().parameters
        return values * self._value_bytes(name)

    def _value_bytes(self, name: str) -> float:
        """Of a number: where cars keep a pace, on their profile."""
        if self._pace is not None:
            return self._pace.machine.value_bytes
        from node.workloads.device import device_named, dtype_named

        return dtype_named(self._dtype, device_named(self._device), self._cache.get(name)).itemsize

    def _too_large(self, name: str, size_bytes: float) -> ModelError:
        kept = f" with keys and values of {self._positions:,} positions" if self._positions is not None else ""
        fewer = ", fewer --kv-positions" if kept else ""
        return ModelError(
            f"{name}{kept} takes {size_bytes / 1e9:,.3g} GB, and the memory for models is "
            f"{self._memory_bytes / 1e9:,.3g} GB; give more with --memory-gb{fewer}, or leave it out of --models"
        )

    def _paced_items_per_s(self, workload: Workload) -> float:
        """Of one car, on ordinary items. Raises ValueError when the model does not fit its memory."""
        if self._pace is None:
            return inf
        cost = workload.ordinary_cost()
        took_s = modelled(self._pace.machine, cost).total_s / self._pace.speed
        return cost.items / took_s if took_s > 0 else inf

    def _let_go(self, names: Sequence[str]) -> None:
        for name in names:
            self._residents.leave(name)
            del self.workloads[name]
            self.continuous.pop(name, None)
        if names:
            from node.workloads.device import give_back

            give_back()

    def _begin(self, name: str) -> None:
        loading = self._loading = _Loading(name)
        self._thread = threading.Thread(target=self._load, args=(loading,), name="loading", daemon=True)
        self._thread.start()

    def _load(self, loading: _Loading) -> None:
        """On a thread of its own."""
        from node.workloads.device import use_threads

        use_threads(self._threads)
        began_s = time.perf_counter()
        try:
            workload = self._made(loading.model)
            loading.took_s = time.perf_counter() - began_s
            loading.size_bytes = self._size_bytes(loading.model, workload)  # here, since it reads files
            loading.outcome = workload
        except Exception as error:
            loading.outcome = error
        self._loaded()

    def _take_in(self) -> bool:
        """What the thread loaded, if it has."""
        loading = self._loading
        if loading is None or loading.outcome is None:
            return False
        assert self._thread is not None
        self._thread.join()  # it has nothing left to do
        self._loading = self._thread = None
        if isinstance(loading.outcome, Exception):
            self.broken[loading.model] = _failure(loading.model, loading.outcome)
        else:
            self.enter(loading.model, loading.outcome, loading.size_bytes, loading.took_s)
        return True


def _ordinary_positions(name: str, workload: Continuous[Row]) -> int:
    """Those of an ordinary request. Raises ModelError when the model refuses that: it cannot be measured."""
    try:
        return workload.ordinary_positions()
    except BadInput as refused:
        raise ModelError(f"{name} refuses an ordinary request: {refused}") from None


def _failure(name: str, error: Exception) -> Failure:
    """What to say to those who wanted a model that cannot be loaded."""
    from node.workloads.device import diagnose

    said = " ".join(str(error).split())[:300]
    return Failure(diagnose(error), f"{name} could not be loaded, and is offered here no more: {said}")
