"""What lots say, as facts: covariates of the forecast, costs, and one sentence for what cannot be."""

import numpy as np
import pytest

from coordinator import wire
from coordinator.core.events import LotId, LotJoined, NodesOffered
from coordinator.refusal import Refused
from coordinator.wire import Terms
from protos import link_pb2

TERMS = Terms(1, 5.0, 12.0, ("home", "unknown", "workplace"), carbon_price_per_kg=0.1)


def joined(*power_w: float) -> LotJoined:
    """A lot of so many cars."""
    vehicles = [
        link_pb2.Vehicle(name=f"car-{at}", profile="hw4", power_w=watts, site=f"street {at}")
        for at, watts in enumerate(power_w)
    ]
    rows = np.arange(10, 10 + len(power_w), dtype=np.int32)
    return wire.joined(link_pb2.Hello(lot_id="lot", incarnation=7, vehicles=vehicles), LotId(3), rows)


def offered(*offers: link_pb2.Offer, terms: Terms = TERMS) -> NodesOffered:
    """What the core is told of these offers of a lot of two cars of 200 W and 100 W."""
    (event,) = wire.facts(link_pb2.ConnectRequest(offers=offers), joined(200.0, 100.0), 1, 50.0, terms)
    assert isinstance(event, NodesOffered)
    return event


def offer(node: int = 0, **figures: object) -> link_pb2.Offer:
    """A whole offer."""
    whole = {"window_s": 60.0, "share": 0.5, "cohort": "workplace", "hour_of_week": 30.5, "plugged_in_s": 90.0}
    return link_pb2.Offer(node=node, **{**whole, "pace": 60.0, **figures})  # type: ignore[arg-type]


def test_what_is_known_of_a_stay_reaches_the_core() -> None:
    event = offered(offer(), offer(1, cohort="home", declared=True))
    habits = event.habits
    assert habits is not None
    assert event.node.tolist() == [10, 11]
    assert event.until_s.tolist() == [110.0, 110.0]
    assert [TERMS.cohorts[place] for place in habits.cohort] == ["workplace", "home"]
    assert habits.hour_of_week.tolist() == [30.5, 30.5]
    assert habits.age_s.tolist() == [90.0, 90.0]
    assert habits.pace.tolist() == [60.0, 60.0]
    assert habits.declared.tolist() == [False, True]


def test_an_offer_of_an_old_lot_is_of_the_unknown_cohort_and_costs_nothing() -> None:
    event = offered(link_pb2.Offer(node=1, window_s=60.0, share=1.0), offer(cohort="moon"))
    assert event.habits is not None
    assert [TERMS.cohorts[place] for place in event.habits.cohort] == ["unknown", "unknown"]
    assert event.habits.pace.tolist() == [1.0, 60.0]
    assert event.cost_per_h is not None
    assert event.cost_per_h.tolist() == [0.0, 0.0]


def test_without_a_forecast_nothing_is_said_of_habits() -> None:
    assert offered(offer(), terms=Terms(1, 5.0, 12.0)).habits is None


def test_an_hour_of_work_costs_its_electricity_and_its_carbon() -> None:
    event = offered(offer(price_per_kwh=0.3, carbon_g_per_kwh=500.0), offer(1, price_per_kwh=0.3))
    assert event.cost_per_h is not None
    assert event.cost_per_h == pytest.approx([0.2 * (0.3 + 0.5 * 0.1), 0.1 * 0.3])


def test_of_vehicles_alike_one_that_is_awake_costs_less_than_one_that_sleeps() -> None:
    event = offered(offer(price_per_kwh=0.3, wake_modelled_j=36_000.0), offer(1, price_per_kwh=0.3))
    assert event.cost_per_h is not None
    assert event.cost_per_h == pytest.approx([(0.2 + 0.01) * 0.3, 0.1 * 0.3])


def test_where_a_vehicle_stands_reaches_the_core() -> None:
    assert joined(160.0, 160.0).site == ("street 0", "street 1")


@pytest.mark.parametrize(
    "figure",
    [
        "window_s",
        "share",
        "hour_of_week",
        "plugged_in_s",
        "pace",
        "price_per_kwh",
        "carbon_g_per_kwh",
        "wake_modelled_j",
    ],
)
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_figure_that_cannot_be_is_refused_in_a_sentence(figure: str, value: float) -> None:
    with pytest.raises(Refused, match=rf"vehicle 1 is offered with {figure} = {value:g}; give a number of"):
        offered(offer(), offer(1, **{figure: value}))


def test_a_power_that_cannot_be_is_refused_in_a_sentence() -> None:
    with pytest.raises(Refused, match="vehicle car-1 draws power_w = nan; give a number of at least 0"):
        joined(160.0, float("nan"))
