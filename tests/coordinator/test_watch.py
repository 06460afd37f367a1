"""The scheduler tells its forecast who comes and who leaves, many at once, and nothing twice."""

from time import process_time

import numpy as np

from coordinator import cohorts
from coordinator.core.events import Cause, Habits, LotId, LotJoined, LotLeft, NodesLeft, NodesOffered, Rows
from coordinator.core.forecast import HOUR_S, Floats, Forecast
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from tests.coordinator.fleet import Town

HOME = 1


class Heard(Forecast):
    """A forecast that remembers its calls."""

    def __init__(self) -> None:
        super().__init__(cohorts.load())
        self.came: list[list[int]] = []
        self.gone: list[tuple[list[int], bool]] = []

    def plugged_in(self, rows: Rows, cohort: object, hour_of_week: Floats, now_s: float, **more: object) -> None:
        self.came.append(rows.tolist())
        super().plugged_in(rows, cohort, hour_of_week, now_s, **more)  # type: ignore[arg-type]

    def left(self, rows: Rows, now_s: float, *, departed: bool = True) -> None:
        self.gone.append((rows.tolist(), departed))
        super().left(rows, now_s, departed=departed)


def town() -> tuple[Town, Heard]:
    """Ten cars that have joined, in two lots, and the forecast that is told of them."""
    heard = Heard()
    made = Town(scheduler=Scheduler(SchedulingSettings(), 1, heard))
    for lot in range(2):
        rows = np.arange(5 * lot, 5 * lot + 5, dtype=np.int32)
        made.step(LotJoined(LotId(lot), 1, rows, ("hw4",) * 5, np.full(5, 160.0)))
    return made, heard


def offer(now_s: float, rows: list[int], window_s: float = 3600.0, declared: bool = False) -> NodesOffered:
    """These cars at home offer themselves, plugged in an hour ago."""
    count = len(rows)
    habits = Habits(
        np.full(count, HOME),
        np.full(count, 20.0),
        np.full(count, HOUR_S),
        np.ones(count),
        np.full(count, declared, np.bool_),
    )
    return NodesOffered(np.array(rows, np.int32), np.full(count, now_s + window_s), np.ones(count), habits)


def leave(rows: list[int], cause: Cause = Cause.UNPLUGGED) -> NodesLeft:
    return NodesLeft(np.array(rows, np.int32), np.full(len(rows), cause, np.uint8))


def test_a_car_is_told_of_once_however_often_its_offer_changes() -> None:
    made, heard = town()
    made.step(offer(made.now_s, [0, 1, 2]))
    made.step(offer(made.now_s, [2, 3], 60.0))
    assert heard.came == [[0, 1, 2], [3]]
    assert (heard.stays(np.arange(4, dtype=np.int32), np.array([60.0]), made.now_s) > 0.5).all()


def test_cars_that_leave_together_are_told_of_together_and_by_whether_they_departed() -> None:
    made, heard = town()
    made.step(offer(made.now_s, [0, 1, 2, 5, 6]))
    made.step(leave([0, 2]), leave([1], Cause.DRAINED), leave([4]), LotLeft(LotId(1)))
    assert heard.gone == [([1, 5, 6], False), ([0, 2], True)]
    made.step(leave([0, 5]))
    assert len(heard.gone) == 2


def test_a_car_that_leaves_and_comes_back_at_once_begins_a_new_stay() -> None:
    made, heard = town()
    made.step(offer(made.now_s, [0]))
    made.step(leave([0]), offer(made.now_s, [0]))
    assert (heard.came, heard.gone) == ([[0], [0]], [([0], True)])


def test_another_declared_end_is_told_and_the_same_one_is_not() -> None:
    made, heard = town()
    made.step(offer(made.now_s, [0, 1], 3600.0, declared=True))
    made.step(offer(made.now_s + 10.5, [0], 3600.0 - 10.0, declared=True), after_s=10.0)
    assert heard.came == [[0, 1]]
    one = np.array([0], np.int32)
    (before,) = heard.stays(one, np.array([3000.0]), made.now_s)[0]
    made.step(offer(made.now_s, [0, 1], 600.0, declared=True))
    assert heard.came[1:] == [[0, 1]]
    assert heard.gone == [([0, 1], False)]
    assert heard.stays(one, np.array([3000.0]), made.now_s)[0, 0] < before
    made.step(offer(made.now_s, [0], 600.0))
    assert heard.came[2:] == [[0]]


def test_a_car_without_habits_is_left_out() -> None:
    made, heard = town()
    made.park(2, lot=2, first=10)
    made.unplug(10)
    assert (heard.came, heard.gone) == ([], [])


def test_a_city_that_offers_itself_at_once_is_told_in_a_fraction_of_a_second() -> None:
    cars = 1_000_000
    forecast = Forecast(cohorts.load())
    scheduler = Scheduler(SchedulingSettings(), 1, forecast)
    rows = np.arange(cars, dtype=np.int32)
    scheduler.handle([LotJoined(LotId(0), 1, rows, ("hw4",) * cars, np.full(cars, 160.0))], 0.0)
    event = offer(0.0, rows.tolist())
    bare = NodesOffered(event.node, event.until_s, event.share)
    begun_s = process_time()
    scheduler.handle([bare], 0.0)
    bare_s = process_time() - begun_s
    scheduler.handle([event], 0.0)
    assert process_time() - begun_s < 2 * bare_s + 0.5


def test_one_may_ask_whether_a_car_stays_by_its_own_clock() -> None:
    made, heard = town()
    made.step(offer(made.now_s, [0, 1]))
    chances = made.scheduler.chances(0, made.now_s)
    assert [hours for hours, _ in chances] == [0.25, 1.0, 4.0]
    stays = heard.stays(np.array([0], np.int32), np.array([900.0, 3600.0, 14400.0]), made.now_s)
    assert [chance for _, chance in chances] == stays[0].tolist()
    made.step(leave([0]))
    assert made.scheduler.chances(0, made.now_s) == made.scheduler.chances(7, made.now_s) == ()
