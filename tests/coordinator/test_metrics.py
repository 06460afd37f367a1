"""What operators see: the names they build on, and that what is shown is true."""

import json
import re
import timeit
from collections.abc import Callable, Iterable
from importlib.resources import files
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from coordinator.census import TENANTS_NAMED
from coordinator.metrics import Metrics
from tests.coordinator.busy_metrics import busy_metrics, snapshot

FAMILIES = {
    "carpool_accelerator_seconds": ("counter", {"profile", "use"}),
    "carpool_auth_failures": ("counter", {"kind"}),
    "carpool_boot_epoch": ("gauge", set()),
    "carpool_compute_power_modelled_watts": ("gauge", {"profile"}),
    "carpool_energy_modelled_joules": ("counter", {"profile", "use"}),
    "carpool_event_loop_lag_seconds": ("histogram", set()),
    "carpool_idle_capacity_modelled_watts": ("gauge", {"profile"}),
    "carpool_invariant_violations": ("counter", {"invariant"}),
    "carpool_items_finished": ("counter", {"class", "model", "outcome"}),
    "carpool_items_open": ("gauge", {"class", "model"}),
    "carpool_job_duration_seconds": ("histogram", {"model", "outcome"}),
    "carpool_job_oldest_pending_age_seconds": ("gauge", {"class"}),
    "carpool_job_queue_duration_seconds": ("histogram", {"class"}),
    "carpool_jobs_deadline_at_risk": ("gauge", {"class"}),
    "carpool_jobs_deadline_missed": ("counter", {"class"}),
    "carpool_jobs_finished": ("counter", {"outcome", "model"}),
    "carpool_jobs_pending": ("gauge", {"class"}),
    "carpool_jobs_rejected": ("counter", {"reason"}),
    "carpool_jobs_submitted": ("counter", {"api", "model", "tenant"}),
    "carpool_leases": ("counter", {"outcome", "profile"}),
    "carpool_leases_active": ("gauge", set()),
    "carpool_leases_expired": ("counter", {"profile"}),
    "carpool_lots_connected": ("gauge", set()),
    "carpool_node_departures": ("counter", {"cause", "profile"}),
    "carpool_node_heartbeats_overdue": ("gauge", set()),
    "carpool_nodes": ("gauge", {"state", "profile"}),
    "carpool_recovery_duration_seconds": ("gauge", set()),
    "carpool_results_rejected": ("counter", {"reason"}),
    "carpool_rpc_duration_seconds": ("histogram", {"method", "code"}),
    "carpool_rpcs_in_flight": ("gauge", {"method"}),
    "carpool_forecast_outcomes": ("counter", {"horizon", "probability", "outcome"}),
    "carpool_forecast_stay_probability": ("counter", {"horizon", "probability"}),
    "carpool_scheduler_decisions": ("counter", {"result"}),
    "carpool_scheduler_handle_duration_seconds": ("histogram", set()),
    "carpool_store_commit_duration_seconds": ("histogram", set()),
    "carpool_store_commit_operations": ("histogram", set()),
    "carpool_store_disk_bytes": ("gauge", set()),
    "carpool_store_errors": ("counter", {"kind"}),
    "carpool_store_free_bytes": ("gauge", set()),
    "carpool_store_queue_operations": ("gauge", set()),
    "carpool_store_wal_bytes": ("gauge", set()),
    "carpool_hedges": ("counter", {"result"}),
    "carpool_partials_rejected": ("counter", {"reason"}),
    "carpool_prefix_tokens_reused": ("counter", {"model"}),
    "carpool_stream_handover_gap_seconds": ("histogram", set()),
    "carpool_tokens_generated": ("counter", {"model"}),
    "carpool_tokens_recomputed": ("counter", set()),
    "carpool_value_over_bound_ratio": ("gauge", set()),
    "carpool_window_remaining_seconds": ("gaugehistogram", {"profile"}),
    "gen_ai_server_time_per_output_token_seconds": ("histogram", {"gen_ai_request_model"}),
    "gen_ai_server_time_to_first_token_seconds": ("histogram", {"gen_ai_request_model"}),
}

OPERATIONS = files("coordinator") / "operations"


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Values by sample name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_families_have_the_names_kinds_and_labels_that_operators_build_on() -> None:
    shown = {
        family.name: (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
        for family in busy_metrics().registry.collect()
    }
    assert shown == FAMILIES


def test_every_family_says_what_it_is_in_one_sentence() -> None:
    for family in busy_metrics().registry.collect():
        assert family.samples, f"{family.name} has no value although everything happened"
        assert family.documentation.endswith("."), family.name


def test_no_label_names_a_node_a_lot_a_job_a_key_or_a_prompt() -> None:
    labels = set().union(*(labels for _, labels in FAMILIES.values()))
    assert labels <= {
        *("api", "cause", "class", "code", "invariant", "kind", "method", "model", "outcome", "profile"),
        *("gen_ai_request_model", "horizon", "probability", "reason", "result", "state", "tenant", "use"),
    }


def test_power_and_energy_say_that_they_are_modelled_and_nothing_else_does() -> None:
    for name in FAMILIES:
        assert name.endswith(("_watts", "_joules")) == ("modelled" in name), name


@pytest.mark.parametrize(
    ("accept", "parse"),
    [("", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)],
)
def test_both_exposition_formats_are_read_back_with_all_values(
    accept: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    metrics = busy_metrics()
    body, content_type = metrics.exposition(accept)
    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain")
    read = {(s.name, frozenset(s.labels.items())): s.value for f in parse(body.decode()) for s in f.samples}
    assert read == samples(metrics)


def test_an_observation_falls_where_prometheus_puts_it() -> None:
    metrics = Metrics(snapshot)
    bounds = sorted(
        float(dict(labels)["le"])
        for name, labels in samples(metrics)
        if name == "carpool_scheduler_handle_duration_seconds_bucket"
    )
    registry = CollectorRegistry()
    reference = Histogram("carpool_scheduler_handle_duration_seconds", "x", registry=registry, buckets=bounds)
    for observed in (0.0, 1e-5, 1.0001e-5, 0.0003, 0.05, 0.7, 1.0, 30.0):
        metrics.observe_handle(observed)
        reference.observe(observed)
    shown = samples(metrics)
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                assert shown[sample.name, frozenset(sample.labels.items())] == sample.value


def test_series_without_labels_are_there_before_anything_happened() -> None:
    metrics = Metrics(snapshot)
    assert value(metrics, "carpool_store_queue_operations") == 0
    assert value(metrics, "carpool_store_commit_duration_seconds_count") == 0


def test_what_has_not_happened_yet_is_shown_as_zero() -> None:
    metrics = busy_metrics()
    assert value(metrics, "carpool_node_departures_total", cause="silent", profile="hw4") == 0
    assert value(metrics, "carpool_leases_total", outcome="refused", profile="ai5") == 0
    assert value(metrics, "carpool_jobs_finished_total", outcome="failed", model="smollm2") == 0


def test_calls_in_flight_return_to_nothing() -> None:
    metrics = Metrics(snapshot)
    metrics.begin_rpc("JobService/Run")
    metrics.begin_rpc("JobService/Run")
    metrics.end_rpc("JobService/Run", "OK", 0.1)
    assert value(metrics, "carpool_rpcs_in_flight", method="JobService/Run") == 1
    metrics.end_rpc("JobService/Run", "CANCELLED", 0.1)
    assert value(metrics, "carpool_rpcs_in_flight", method="JobService/Run") == 0
    assert value(metrics, "carpool_rpc_duration_seconds_count", method="JobService/Run", code="CANCELLED") == 1


def test_expired_leases_are_those_among_all_leases() -> None:
    metrics = busy_metrics()
    everyone = value(metrics, "carpool_leases_total", outcome="expired", profile="ai5")
    assert value(metrics, "carpool_leases_expired_total", profile="ai5") == everyone == 2


def test_windows_are_those_of_now_and_not_a_sum_of_scrapes() -> None:
    windows: dict[str, tuple[float, ...]] = {"hw4": (100.0, 5000.0)}
    metrics = Metrics(lambda: snapshot(window_remaining_s=windows))
    for _ in range(2):
        assert value(metrics, "carpool_window_remaining_seconds_gcount", profile="hw4") == 2
    windows["hw4"] = (50.0,)
    assert value(metrics, "carpool_window_remaining_seconds_gcount", profile="hw4") == 1
    assert value(metrics, "carpool_window_remaining_seconds_bucket", profile="hw4", le="300.0") == 1


def test_the_busiest_tenants_have_their_name_and_the_rest_share_one() -> None:
    submitted = {("grpc", "minilm", f"tenant-{n}"): n + 1 for n in range(TENANTS_NAMED + 30)}
    metrics = Metrics(lambda: snapshot(jobs_submitted=submitted))
    shown = {
        dict(labels)["tenant"]: count
        for (name, labels), count in samples(metrics).items()
        if name == "carpool_jobs_submitted_total"
    }
    assert len(shown) == TENANTS_NAMED + 1
    assert shown["other"] == sum(range(31))
    assert shown["tenant-79"] == 80
    assert sum(shown.values()) == sum(submitted.values())


def test_no_count_of_a_tenant_goes_back_when_another_overtakes_it() -> None:
    submitted = {("grpc", "minilm", f"tenant-{n}"): 10 + n for n in range(TENANTS_NAMED + 1)}
    metrics = Metrics(lambda: snapshot(jobs_submitted=submitted))
    scrapes = []
    for overtakes in ("tenant-0", "tenant-1", "tenant-2", "tenant-1"):
        scrapes.append({key: count for key, count in samples(metrics).items() if "jobs_submitted" in key[0]})
        submitted["grpc", "minilm", overtakes] += 1000
    assert len({frozenset(scrape) for scrape in scrapes}) > 1, "nobody overtook anybody"
    for before, after in pairwise(scrapes):
        assert len(after) <= TENANTS_NAMED + 1
        assert all(after[key] >= before[key] for key in before.keys() & after.keys())


def test_an_observation_costs_under_two_microseconds() -> None:
    metrics = Metrics(snapshot)
    calls = 20_000

    def call() -> None:
        metrics.begin_rpc("JobService/Run")
        metrics.end_rpc("JobService/Run", "OK", 0.003)

    for observe in (lambda: metrics.observe_handle(0.0003), lambda: metrics.observe_commit(0.004, 12), call):
        assert min(timeit.repeat(observe, number=calls, repeat=5)) / calls < 2e-6


@pytest.mark.parametrize("name", ["alerts.yml", "alerts_test.yml", "dashboard.json"])
def test_every_metric_in_a_query_exists(name: str) -> None:
    shown = {name for name, _ in samples(busy_metrics())}
    recorded = set(re.findall(r"record: (\S+)", (OPERATIONS / "alerts.yml").read_text()))
    used = set(re.findall(r"\bcarpool[_:][\w:]+", (OPERATIONS / name).read_text()))
    assert used
    assert used <= shown | recorded


def test_the_operators_readme_lists_every_metric_with_its_meaning() -> None:
    text = (OPERATIONS / "README.md").read_text()
    listed = re.findall(r"^\| `((?:carpool|gen_ai)_\w+?)(?:_total)?` \| \w+ \| [\w, ]*\| (.+) \|$", text, re.M)
    meanings = {family.name: family.documentation for family in busy_metrics().registry.collect()}
    assert dict(listed) == meanings


def test_the_dashboard_has_no_two_panels_in_one_place_and_shows_every_metric() -> None:
    text = (OPERATIONS / "dashboard.json").read_text()
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}) == len(panels)
    assert {
        family for family in FAMILIES if not re.search(rf"\b{family}(_total|_bucket|_sum|_count)?\b", text)
    } == set()
