"""Read-only pictures of the core: the snapshot for metrics, rows for operators and tenants."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from coordinator.core.effects import Outcome
from coordinator.core.events import JobId, JobSpec, LotId
from coordinator.core.job import Band, Job
from coordinator.core.snapshot import Snapshot
from coordinator.core.state import State

_STATES = ("away", "withdrawn", "cordoned", "idle", "busy")


@dataclass(frozen=True, slots=True)
class JobView:
    """One job now. Counts are items, seconds from now; `ended` only once that is recorded."""

    spec: JobSpec
    done: int
    failed: int
    lent: int
    nodes: int
    age_s: float
    deadline_in_s: float
    ended: Outcome | None


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node now. Seconds are from now, or ago."""

    row: int
    profile: str
    lot: LotId
    state: str
    window_s: float
    share: float
    leases: int
    items_done: int
    departures: int
    silent_s: float
    models: tuple[str, ...]


def job_view(state: State, job_id: JobId, now_s: float) -> JobView | None:
    """One job that has not ended, as far as anybody has been told; None when it is not known."""
    job = state.jobs.get(job_id)
    if job is None:
        return None
    nodes = len({lease.node for lease in job.leases.values()})
    return JobView(
        job.spec,
        job.done,
        job.failed,
        job.lent,
        nodes,
        now_s - job.submitted_s,
        job.spec.deadline_s - now_s,
        None,
    )


def node_views(state: State, now_s: float) -> Iterator[NodeView]:
    """Every node, by row."""
    fleet = state.fleet
    states = _states(state)
    for row in range(fleet.size):
        lot = LotId(int(fleet.lot[row]))
        yield NodeView(
            row,
            fleet.profiles[fleet.profile[row]],
            lot,
            _STATES[states[row]],
            max(0.0, float(fleet.until_s[row]) - now_s) if fleet.present[row] else 0.0,
            float(fleet.share[row]),
            int(fleet.batch_leases[row] + fleet.interactive_leases[row]),
            int(fleet.items_done[row]),
            int(fleet.departures[row]),
            now_s - float(fleet.seen_s[row]),
            tuple(sorted(fleet.lots[lot].speeds)) if lot in fleet.lots else (),
        )


def snapshot(state: State, value_over_bound: float | None, now_s: float) -> Snapshot:
    """Counts for metrics."""
    fleet, tally = state.fleet, state.tally
    states = _states(state)
    profiles = fleet.profile[: fleet.size]
    power_w = fleet.power_w[: fleet.size]
    nodes: dict[tuple[str, str], int] = {}
    idle_w: dict[str, float] = {}
    busy_w: dict[str, float] = {}
    windows: dict[str, tuple[float, ...]] = {}
    here = fleet.present[: fleet.size]
    for number, profile in enumerate(fleet.profiles):
        mine = profiles == number
        counts = np.bincount(states[mine], minlength=len(_STATES))
        nodes.update({(state, profile): int(count) for state, count in zip(_STATES, counts, strict=True)})
        idle_w[profile] = float(power_w[mine & (states == _STATES.index("idle"))].sum())
        busy_w[profile] = float(power_w[mine & (states == _STATES.index("busy"))].sum())
        rows = np.flatnonzero(mine & here)
        step = max(1, len(rows) // 256)
        remaining_s = fleet.until_s[rows[::step][:256]] - now_s
        windows[profile] = tuple(max(0.0, float(left)) for left in remaining_s)
    late_s = now_s - 2 * state.settings.heartbeat_s
    pending, open_items, oldest, at_risk = _demand(state, now_s)
    return Snapshot(
        now_s=now_s,
        epoch=state.epoch,
        nodes=nodes,
        idle_capacity_modelled_w=idle_w,
        compute_power_modelled_w=busy_w,
        window_remaining_s=windows,
        lots_connected=sum(lot.connected for lot in fleet.lots.values()),
        heartbeats_overdue=int((here & (fleet.seen_s[: fleet.size] < late_s)).sum()),
        departures=dict(tally.departures),
        jobs_submitted=dict(tally.jobs_submitted),
        jobs_finished=dict(tally.jobs_finished),
        jobs_pending=pending,
        items_finished=dict(tally.items_finished),
        items_open=open_items,
        oldest_pending_age_s=oldest,
        deadlines_at_risk=at_risk,
        deadlines_missed=dict(tally.deadlines_missed),
        value_over_bound=value_over_bound,
        leases=dict(tally.leases),
        leases_active=len(state.leases),
        results_rejected=dict(tally.results_rejected),
        accelerator_s=dict(tally.accelerator_s),
        energy_modelled_j=dict(tally.energy_modelled_j),
        decisions=dict(tally.decisions),
        forecast_outcomes=dict(tally.forecast_outcomes),
        forecast_chances=dict(tally.forecast_chances),
    )


def _states(state: State) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    """Index into _STATES of every node."""
    fleet, size = state.fleet, state.fleet.size
    busy = (fleet.batch_leases[:size] + fleet.interactive_leases[:size]) > 0
    states = np.where(busy, 4, 3).astype(np.int8)
    states[fleet.cordoned[:size] | fleet.draining[:size]] = 2
    states[fleet.share[:size] <= 0] = 1
    states[~fleet.present[:size]] = 0
    return states


def _demand(
    state: State, now_s: float
) -> tuple[dict[str, int], dict[tuple[str, str], int], dict[str, float], dict[str, int]]:
    pending = {"interactive": 0, "batch": 0}
    oldest = {"interactive": 0.0, "batch": 0.0}
    at_risk = {"interactive": 0, "batch": 0}
    open_items: dict[tuple[str, str], int] = defaultdict(int)
    rates = {model: _rate(state, model) for model in {job.spec.model for job in state.jobs.values()}}
    for job in state.jobs.values():
        if job.ended is not None:
            continue
        label = job.spec.label
        pending[label] += 1
        oldest[label] = max(oldest[label], now_s - job.submitted_s)
        open_items[label, job.spec.model] += job.spec.items - job.settled
        at_risk[label] += _is_at_risk(job, rates[job.spec.model], now_s)
    return pending, dict(open_items), oldest, at_risk


def _is_at_risk(job: Job, items_per_s: float, now_s: float) -> bool:
    """Whether the plan has no room for a job; or, if interactive, whether the whole fleet is too slow for it."""
    if not isfinite(job.spec.deadline_s):
        return False
    if not job.spec.interactive:
        return job.band >= Band.SPARE or (job.ready and not job.promised)
    left = job.spec.items - job.settled
    work_s = left / items_per_s if items_per_s > 0 else inf
    return now_s + work_s > job.spec.deadline_s


def _rate(state: State, model: str) -> float:
    """Items a second of one model that the vehicles here could do together."""
    fleet = state.fleet
    return sum(
        lot.speeds[model].items_per_s * float(fleet.share[lot.rows].sum())
        for lot in fleet.lots.values()
        if lot.connected and model in lot.speeds
    )
