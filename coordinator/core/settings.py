"""What may be tuned in the core. Every figure is in seconds or items, and says why it is what it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulingSettings:
    """Limits and targets of the scheduler."""

    slice_target_s: float = 1.0
    """Work in one slice. A loss costs only the micro-batch in flight, so this balances tail against sorting."""
    slices_per_s: float = 2000.0
    """Slices of a model that the whole fleet may end in a second: in a large fleet they are longer."""
    slice_of_deadline: float = 0.1
    """Part of the time to its deadline that a slice of a job may take."""
    slice_least_s: float = 0.05
    """Slices shrink towards a job's end, but not below this: a report costs about 1 ms."""
    slice_bytes: int = 2 << 20
    """Inputs of one slice together, so that one grant never holds up a heartbeat."""
    slices_in_hand: int = 2
    """Batch leases a vehicle holds at once: the next is there before the last one ends."""
    interactive_in_hand: int = 64
    """Interactive leases a vehicle holds at once."""
    window_margin: float = 0.9
    """Part of a remaining window that a slice may fill: forecasts and speeds are estimates."""
    lease_least_s: float = 30.0
    """A lease without a report runs out after this and `lease_factor` times its expected work."""
    lease_factor: float = 5.0
    heartbeat_s: float = 5.0
    silent_after_s: float = 12.0
    """Two beats and some delay: a loss is noticed within 15 s."""
    reconnect_grace_s: float = 0.5
    """How long a lot whose stream broke keeps its leases: it retries within 50 ms."""
    item_attempts: int = 3
    """Errors reported for one item before it fails."""
    item_deaths: int = 2
    """Processes that may die while running one item alone before it fails."""
    interactive_timeout_s: float = 60.0
    """How long an interactive request without a deadline goes on while nothing comes of it."""
    carbon_price_per_kg: float = 0.0
    """What a kilogram of CO2 costs, in the unit of the jobs' values."""
    plan_every_s: float = 5.0
    """How often the plan is made anew, while there is work. A job is asked about when it comes, too."""
    foresee_every_s: float = 30.0
    """How often the forecast is asked what the fleet will be able to do."""
    plan_margin: float = 0.72
    """Part of the forecast capacity that the plan gives away: nodes are not free at once, forecasts err.
    Chosen on the first seed of `python -m benchmarks policy`, of 0.6 to 0.9. A quote takes all of it."""
    plan_tail: float = 0.05
    """Part of the time to a deadline that the plan leaves for the last slices to end."""
    reserve: float = 0.5
    """Part of the work expected of higher value that the plan keeps room for."""
    load_matters_s: float = 10.0
    """A model that loads faster is loaded wherever there is room; others where they are needed most (assumed)."""
    by_value: bool = True
    """Whether the plan lets in by value for the work that is left; otherwise by submission."""
    completion_bonus: bool = True
    """Whether what is done of a job adds to the value of the rest: its whole value is at stake."""
    long_item_s: float = 600.0
    """From so much work until the first item of a slice is done on, loading included, the forecast is asked whether
    the node stays: that takes some 100 us (assumed)."""
    long_answer_s: float = 1.0
    """From so much work in an interactive item on, the forecast is asked which of the nodes that are as free stays
    (assumed): a chat is asked about, for some 200 us, and nothing that takes milliseconds."""
    yields: bool = True
    """Whether a job that would miss its deadline takes nodes from less urgent ones, at the boundary of an item."""
    weights: tuple[tuple[str, float], ...] = ()
    """Tenants with their share of the fleet's time against each other; one that is not named weighs 1."""
