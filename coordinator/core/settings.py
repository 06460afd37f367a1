"""What may be tuned in the core. Every figure is in seconds or items, and says why it is what it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulingSettings:
    """Limits and targets of the scheduler."""

    slice_target_s: float = 1.0
    """Work in one slice. A loss costs only the micro-batch in flight, so this balances tail against sorting."""
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
    """How long an interactive request without a deadline may take."""
    carbon_price_per_kg: float = 0.0
    """What a kilogram of CO2 costs, in the unit of the jobs' values."""
    weights: tuple[tuple[str, float], ...] = ()
    """Tenants with their share of the fleet's time against each other; one that is not named weighs 1."""
