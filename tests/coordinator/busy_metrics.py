"""Metrics of a coordinator to which everything has happened that a metric counts, for tests that read them."""

from coordinator.core.snapshot import Snapshot
from coordinator.metrics import Metrics
from coordinator.store import StoreState

PROFILES = ("hw4", "ai5")
MODELS = ("minilm", "smollm2")
CLASSES = ("interactive", "batch")


def snapshot(
    jobs_submitted: dict[tuple[str, str, str], int] | None = None,
    window_remaining_s: dict[str, tuple[float, ...]] | None = None,
) -> Snapshot:
    """A fleet at work."""
    return Snapshot(
        now_s=100.0,
        epoch=3,
        nodes={(state, profile): 2 for state in ("idle", "busy", "away") for profile in PROFILES},
        idle_capacity_modelled_w=dict.fromkeys(PROFILES, 320.0),
        compute_power_modelled_w=dict.fromkeys(PROFILES, 160.0),
        window_remaining_s=window_remaining_s or dict.fromkeys(PROFILES, (600.0, 7200.0, 90_000.0)),
        lots_connected=2,
        heartbeats_overdue=1,
        departures={("unplugged", "hw4"): 4, ("died", "ai5"): 1},
        jobs_submitted=jobs_submitted or {("grpc", model, "local"): 9 for model in MODELS},
        jobs_finished={(outcome, "minilm"): 3 for outcome in ("done", "cancelled", "expired")},
        jobs_pending=dict.fromkeys(CLASSES, 1),
        items_finished={("batch", "minilm", "done"): 2000, ("batch", "minilm", "failed"): 1},
        items_open={("batch", model): 2000 for model in MODELS},
        oldest_pending_age_s=dict.fromkeys(CLASSES, 1.5),
        deadlines_at_risk=dict.fromkeys(CLASSES, 1),
        deadlines_missed=dict.fromkeys(CLASSES, 1),
        value_over_bound=0.9,
        leases={("finished", "hw4"): 40, ("unplugged", "hw4"): 3, ("expired", "ai5"): 2},
        leases_active=5,
        results_rejected={"stale_token": 1, "duplicate": 2},
        accelerator_s={("hw4", "useful"): 61.5, ("hw4", "lost"): 0.5},
        energy_modelled_j={("hw4", "useful"): 9840.0, ("hw4", "lost"): 80.0},
        decisions={"placed": 45, "no_node": 3, "window_too_short": 2},
        forecast_outcomes={("1h", 9, True): 20, ("1h", 9, False): 1},
        forecast_chances={("1h", 9): 19.5},
    )


def busy_metrics() -> Metrics:
    """Metrics in which every family has a value."""
    metrics = Metrics(
        snapshot, lambda: StoreState(waiting=7, log_bytes=4096, free_bytes=1 << 30, disk_bytes=1 << 34)
    )
    metrics.observe_handle(0.0003)
    metrics.observe_commit(0.004, operations=12)
    metrics.count_store_error("full")
    metrics.set_recovery(0.4)
    metrics.observe_loop_lag(0.0002)
    metrics.observe_job_queue("batch", 0.02)
    metrics.observe_job("minilm", "done", 12.5)
    metrics.begin_rpc("JobService/Run")
    metrics.end_rpc("JobService/Run", "OK", 0.003)
    metrics.begin_rpc("LinkService/Connect")
    metrics.count_rejection("overloaded")
    metrics.count_auth_failure("unknown_key")
    metrics.observe_first_token("smollm2", 0.12)
    metrics.observe_each_token("smollm2", 0.03)
    metrics.observe_handover(0.2)
    metrics.count_tokens("smollm2", 64)
    metrics.count_recomputed(100)
    metrics.count_reused("smollm2", 40)
    metrics.count_breach("stale_token")
    metrics.count_hedge("second")
    metrics.count_violation("items_are_in_one_place")
    return metrics
