"""What a coordinator has counted, read from its metrics as Prometheus reads them."""

import http.client
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client.core import Sample
from prometheus_client.parser import text_string_to_metric_families

_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Accounts:
    """Sums over the fleet since its coordinator started."""

    useful_s: float  # accelerator-seconds that led to results
    lost_s: float  # accelerator-seconds thrown away
    energy_modelled_j: float  # busy seconds times the profiles' watts
    leases: int  # that have ended, however
    leases_lost: int  # because their process was gone


def scraped(metrics: str) -> list[Sample]:
    """Every sample now, of the coordinator whose metrics are at "HOST:PORT"."""
    connection = http.client.HTTPConnection(metrics, timeout=_WITHIN_S)  # never through a proxy
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def accounts(metrics: str) -> Accounts:
    """The counts now, of the coordinator whose metrics are at "HOST:PORT"."""
    samples = scraped(metrics)

    def total(name: str, wanted: Callable[[dict[str, str]], bool] = lambda labels: True) -> float:
        return sum(sample.value for sample in samples if sample.name == name and wanted(sample.labels))

    return Accounts(
        useful_s=total("carpool_accelerator_seconds_total", lambda labels: labels["use"] == "useful"),
        lost_s=total("carpool_accelerator_seconds_total", lambda labels: labels["use"] == "lost"),
        energy_modelled_j=total("carpool_energy_modelled_joules_total"),
        leases=int(total("carpool_leases_total")),
        leases_lost=int(total("carpool_leases_total", lambda labels: labels["outcome"] in ("died", "silent"))),
    )
