"""What the core shows of itself to metrics and consoles: counts, never references into its state."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The core at one instant. Counts since start unless said; keys are label values.

    `nodes`, `pending`, `open_items` and the like are of now. Seconds are seconds, energies joules, powers watts.
    """

    now_s: float
    epoch: int
    nodes: Mapping[tuple[str, str], int]  # (state, profile); states: idle busy cordoned withdrawn away
    idle_capacity_modelled_w: Mapping[str, float]  # profile: power of those idle
    compute_power_modelled_w: Mapping[str, float]  # profile: power of those busy
    window_remaining_s: Mapping[str, tuple[float, ...]]  # profile: a sample of at most 256 nodes here now
    lots_connected: int
    heartbeats_overdue: int  # nodes here whose last beat is older than two intervals
    departures: Mapping[tuple[str, str], int]  # (cause, profile); causes: unplugged drained silent died
    jobs_submitted: Mapping[tuple[str, str, str], int]  # (api, model, tenant)
    jobs_finished: Mapping[tuple[str, str], int]  # (outcome, model); outcomes: done cancelled expired failed
    jobs_pending: Mapping[str, int]  # class: interactive batch
    items_finished: Mapping[tuple[str, str, str], int]  # (class, model, outcome); outcomes: done failed
    items_open: Mapping[tuple[str, str], int]  # (class, model)
    oldest_pending_age_s: Mapping[str, float]  # class
    deadlines_at_risk: Mapping[str, int]  # class: pending jobs that are not expected to make theirs
    deadlines_missed: Mapping[str, int]  # class
    value_over_bound: float | None  # of the last day's batch jobs with a deadline; None: there was nothing to earn
    leases: Mapping[tuple[str, str], int]  # (outcome, profile); by how it ended: `LeaseEnd` in lower case
    leases_active: int
    results_rejected: Mapping[str, int]  # reason: stale_token, duplicate
    accelerator_s: Mapping[tuple[str, str], float]  # (profile, use); uses: useful lost loading
    energy_modelled_j: Mapping[tuple[str, str], float]  # (profile, use)
    decisions: Mapping[str, int]  # result: placed, no_node, window_too_short
    forecast_outcomes: Mapping[tuple[str, int, bool], int]  # (horizon, tenth of the chance said, whether it stayed)
    forecast_chances: Mapping[tuple[str, int], float]  # (horizon, tenth): sum of the chances said
