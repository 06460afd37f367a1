"""The suites, the mix of jobs and the seeds: constants. They were written down before any policy was tuned on them.

A car has one model in memory. What it held is gone when it comes back from a drive.
"""

from dataclasses import dataclass

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
WEEK_S = 7 * DAY_S
END_S = WEEK_S + DAY_S
"""Jobs come for a week, Monday 00:00 to Sunday 24:00; the cars stay a day more, in which the last deadlines end."""

SEEDS = (101, 202, 303, 404, 505, 606, 707, 808, 909, 1010)
FEW_SEEDS = SEEDS[:1]
"""Of what no goal needs."""

CARS = 400
FAST_SHARE, FAST_SPEED = 0.2, 8.0
"""AI5 at 8 times HW4, whose speed is 1: work is counted in seconds of an HW4."""

MODELS = ("detector", "embedder", "captioner", "planner")
FAST_MODEL = "planner"
"""Runs on an AI5 only."""
FAST_MODEL_SHARE = 0.15
CHAT = "chat"
"""Answers requests. It is small, and resident in every car beside the one that works (assumed)."""

WORK_MEDIAN_S, WORK_SIGMA = 4 * HOUR_S, 1.2
ITEM_MEDIAN_S, ITEM_SIGMA = 60.0, 1.2
ITEM_LEAST_S, ITEM_MOST_S = 5.0, 2 * HOUR_S
IDEAL_SHARE = 0.1
"""A job's ideal duration is its work at so much of the mean speed that is plugged in, and at least one item."""
SLACK_LEAST, SLACK_MOST = 1.2, 6.0
DEADLINE_LEAST_S, DEADLINE_MOST_S = 0.5 * HOUR_S, DAY_S
DENSITIES = (1.0, 2.0, 4.0)
"""Value of an HW4-second of work."""

REQUEST_S = 2.0
REQUEST_EVERY_S = 60.0
"""Mean distance of requests: the trace is tiled and thinned to it."""
ANSWER_WITHIN_S = 60.0

CHURN_ITEMS_S = (HOUR_S, 2 * HOUR_S)
CHURN_MOST_ITEMS = 40
WORKPLACE_SHARE = 0.3
"""Of the cars of a suite that has a workplace."""
UNSEEN_SHARE = 0.2
"""Of the users: their stays are no part of what the cohorts were fitted to."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A kind of world."""

    name: str
    cold_s: float  # seconds to load a model that is not resident
    loads: tuple[float, ...]  # offered work by the work that the week's cars could do
    fast: bool  # whether there are AI5s
    whole_items: bool  # items of 1 and 2 h, one model
    workplace: bool  # whether some cars stand at work
    least_items: float  # a deadline leaves room for so many items on an HW4
    by_item: bool = False  # an item on time counts, not only the whole job

    @property
    def models(self) -> tuple[str, ...]:
        """What its jobs run."""
        return MODELS[:1] if self.whole_items else MODELS


SUITES = {
    suite.name: suite
    for suite in (
        Suite("base", 60.0, (0.6, 0.9, 1.2), True, False, False, 1.2),
        Suite("weights", 600.0, (0.9, 1.2), True, False, False, 1.2, by_item=True),
        Suite("churn", 60.0, (0.6, 0.9), False, True, True, 1.5),
    )
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A suite at a load."""

    suite: Suite
    load: float

    @property
    def name(self) -> str:
        """As the command line names it."""
        return f"{self.suite.name}:{self.load:g}"


CELLS = {cell.name: cell for suite in SUITES.values() for cell in (Cell(suite, load) for load in suite.loads)}
