"""Census: what the core counts, as families of metrics.

Owns their names, labels and help texts, which it reads from a `Snapshot` when somebody scrapes. A label takes few
values: never a node, a job, a key or a prompt. What is modelled says so in its name.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from prometheus_client.core import GaugeHistogramMetricFamily, Metric

from coordinator.core.calibration import BINS, HORIZONS
from coordinator.core.effects import Outcome
from coordinator.core.events import Cause, LeaseEnd
from coordinator.core.snapshot import Snapshot
from coordinator.instruments import Buckets, Labels, family

TENANTS_NAMED = 50

_WINDOW_S = (300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 43200.0, 57600.0, 86400.0, 172800.0)
_OUTCOMES = (*(outcome.value for outcome in Outcome), "failed")
_LEASE_ENDS = tuple(end.name.lower() for end in LeaseEnd)
_USES = ("useful", "lost", "hedged")  # nothing is hedged yet
_TENTHS = tuple(f"{tenth / BINS:.1f}-{(tenth + 1) / BINS:.1f}" for tenth in range(BINS))
_CAUSES = tuple(cause.name.lower() for cause in Cause)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A family read from the snapshot: `read` gives its values by label value, or by tuple of them."""

    name: str
    labels: Labels
    read: Callable[[Snapshot], Mapping[Any, float]]
    documentation: str


_SHOWN = (
    _Shown(
        "carpool_jobs_finished_total",
        ("outcome", "model"),
        lambda s: _from_zero(s.jobs_finished, _OUTCOMES, {model for _, model, _ in s.jobs_submitted}),
        "Jobs ended, by outcome: done with a result or an error for every item, failed when all are errors.",
    ),
    _Shown("carpool_jobs_pending", ("class",), lambda s: s.jobs_pending, "Jobs accepted and not ended."),
    _Shown(
        "carpool_items_finished_total",
        ("class", "model", "outcome"),
        lambda s: s.items_finished,
        "Items that got a result or failed for good.",
    ),
    _Shown(
        "carpool_items_open",
        ("class", "model"),
        lambda s: s.items_open,
        "Items that have neither result nor error, leased or not.",
    ),
    _Shown(
        "carpool_job_oldest_pending_age_seconds",
        ("class",),
        lambda s: s.oldest_pending_age_s,
        "Age of the oldest job that has not ended.",
    ),
    _Shown(
        "carpool_jobs_deadline_at_risk",
        ("class",),
        lambda s: s.deadlines_at_risk,
        "Pending jobs that will be late: the plan has no room for them, or interactive ones find the rate too low.",
    ),
    _Shown(
        "carpool_jobs_deadline_missed_total",
        ("class",),
        lambda s: {**dict.fromkeys(s.jobs_pending, 0), **s.deadlines_missed},
        "Jobs that had not ended by their deadline.",
    ),
    _Shown(
        "carpool_value_over_bound_ratio",
        (),
        lambda s: {} if s.value_over_bound is None else {(): s.value_over_bound},
        "Value of the last day's batch jobs that were on time, over the most that could have been, in hindsight.",
    ),
    _Shown(
        "carpool_leases_total",
        ("outcome", "profile"),
        lambda s: _from_zero(s.leases, _LEASE_ENDS, _profiles(s)),
        "Leases ended, by how; withheld: by owners' terms, the node is still here.",
    ),
    _Shown("carpool_leases_active", (), lambda s: {(): s.leases_active}, "Leases that nodes hold."),
    _Shown(
        "carpool_leases_expired_total",
        ("profile",),
        lambda s: {profile: s.leases.get(("expired", profile), 0) for profile in _profiles(s)},
        "Leases that ran out without a report.",
    ),
    _Shown(
        "carpool_results_rejected_total",
        ("reason",),
        lambda s: s.results_rejected,
        "Results refused: their token is not live, or the item is known already.",
    ),
    _Shown(
        "carpool_accelerator_seconds_total",
        ("profile", "use"),
        lambda s: _from_zero(s.accelerator_s, sorted(_profiles(s)), _USES),
        "Accelerator time that nodes reported, by what it went into.",
    ),
    _Shown("carpool_nodes", ("state", "profile"), lambda s: s.nodes, "Nodes known since start, by state."),
    _Shown("carpool_lots_connected", (), lambda s: {(): s.lots_connected}, "Lots whose link is open."),
    _Shown(
        "carpool_node_departures_total",
        ("cause", "profile"),
        lambda s: _from_zero(s.departures, _CAUSES, _profiles(s)),
        "Nodes that stopped serving, by cause.",
    ),
    _Shown(
        "carpool_node_heartbeats_overdue",
        (),
        lambda s: {(): s.heartbeats_overdue},
        "Nodes here whose last heartbeat is older than two intervals.",
    ),
    _Shown(
        "carpool_forecast_outcomes_total",
        ("horizon", "probability", "outcome"),
        lambda s: _forecast_outcomes(s.forecast_outcomes),
        "What came of forecasts that a node stays, by horizon of its own clock and tenth of the chance said.",
    ),
    _Shown(
        "carpool_forecast_stay_probability_total",
        ("horizon", "probability"),
        lambda s: {
            (horizon, _TENTHS[tenth]): s.forecast_chances.get((horizon, tenth), 0.0)
            for horizon, tenth in product(HORIZONS, range(BINS))
        },
        "Sum of the chances said in these forecasts: over their number, it is to be the share that stayed.",
    ),
    _Shown(
        "carpool_idle_capacity_modelled_watts",
        ("profile",),
        lambda s: s.idle_capacity_modelled_w,
        "What the idle nodes would draw under load, by their profile: modelled, not measured.",
    ),
    _Shown(
        "carpool_compute_power_modelled_watts",
        ("profile",),
        lambda s: s.compute_power_modelled_w,
        "What the busy nodes draw, by their profile: modelled, not measured.",
    ),
    _Shown(
        "carpool_energy_modelled_joules_total",
        ("profile", "use"),
        lambda s: s.energy_modelled_j,
        "Busy seconds of the host times the profile's power, by use; awake: of the cars around. Modelled, not"
        " measured.",
    ),
    _Shown(
        "carpool_scheduler_decisions_total",
        ("result",),
        lambda s: s.decisions,
        "Decisions of the scheduler, by result.",
    ),
    _Shown(
        "carpool_boot_epoch",
        (),
        lambda s: {(): s.epoch},
        "Boot epoch of the coordinator: another one after each start.",
    ),
)


class Census:
    """A collector, in prometheus-client's sense, of the core's counts; `snapshot` is called once a scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._submitted = _BusiestTenants(TENANTS_NAMED)

    def collect(self) -> Iterator[Metric]:
        """Every family with its values now."""
        snapshot = self._snapshot()
        yield family(
            "carpool_jobs_submitted_total",
            "Jobs accepted, by the front they came through; tenants beyond the busiest 50 are other.",
            ("api", "model", "tenant"),
            self._submitted.fold(snapshot.jobs_submitted),
        )
        for shown in _SHOWN:
            yield family(shown.name, shown.documentation, shown.labels, shown.read(snapshot))
        yield _windows(snapshot.window_remaining_s)


def _profiles(snapshot: Snapshot) -> set[str]:
    return {profile for _, profile in snapshot.nodes}


def _from_zero(
    counts: Mapping[tuple[str, str], float], first: Iterable[str], second: Iterable[str]
) -> Mapping[tuple[str, str], float]:
    """These counts, and 0 for what has not happened yet: a rate does not see a series that begins at 1."""
    return {**dict.fromkeys(product(first, second), 0), **counts}


def _forecast_outcomes(counts: Mapping[tuple[str, int, bool], int]) -> Mapping[tuple[str, str, str], float]:
    return {
        (horizon, _TENTHS[tenth], outcome): counts.get((horizon, tenth, outcome == "stayed"), 0)
        for horizon, tenth, outcome in product(HORIZONS, range(BINS), ("stayed", "left"))
    }


def _windows(samples: Mapping[str, tuple[float, ...]]) -> Metric:
    """What remains of the windows, as a distribution of now: it falls as well as rises."""
    shown = GaugeHistogramMetricFamily(
        "carpool_window_remaining_seconds",
        "Windows of a sample of at most 256 nodes here now: no count since start, query it without rate().",
        labels=("profile",),
    )
    for profile, remaining_s in samples.items():
        buckets = Buckets(_WINDOW_S)
        for value in remaining_s:
            buckets.observe(value)
        shown.add_metric((profile,), buckets.cumulative(), buckets.total)
    return shown


@dataclass(frozen=True, slots=True)
class _BusiestTenants:
    """Counts by (api, model, tenant), of the busiest tenants under their name and of the rest under "other".

    Who is busiest changes, and a counter must not go back: what a tenant did since the last look is added to
    the name it has now, and stays there.
    """

    limit: int
    known: dict[tuple[str, str, str], int] = field(default_factory=dict)
    shown: dict[Labels, float] = field(default_factory=dict)

    def fold(self, counts: Mapping[tuple[str, str, str], int]) -> dict[Labels, float]:
        """The counts to show, given those since start."""
        totals: Counter[str] = Counter()
        for (_, _, tenant), count in counts.items():
            totals[tenant] += count
        named = {tenant for tenant, _ in totals.most_common(self.limit)} | {"other"}
        for key, count in counts.items():
            api, model, tenant = key
            label = (api, model, tenant if tenant in named else "other")
            self.shown[label] = self.shown.get(label, 0) + count - self.known.get(key, 0)
            self.known[key] = count
        return {label: count for label, count in self.shown.items() if label[2] in named}
