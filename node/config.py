"""What one lot is told when it starts: one frozen tree, made from flags and passed to its process."""

from dataclasses import dataclass
from pathlib import Path

from node.terms import Terms

WEIGHTS = ("held", "fetched")
"""By every car from the start; or each begins without them, and fetches them as its place allows."""


@dataclass(frozen=True, slots=True)
class LotConfig:
    """One lot: its vehicles, what they run, whom they call."""

    lot_id: str
    coordinator: str  # HOST:PORT
    profiles: tuple[str, ...]  # one for each vehicle, in order
    first_index: int  # of the first vehicle in the whole fleet
    models: tuple[str, ...] | None  # None: every model in the cache
    noop: bool  # whether it offers the echo model as well
    day: str  # of all, or a mix that names one for each vehicle in order
    speed: float  # simulated seconds in a real one
    device: str  # "auto", "cpu" or "cuda"
    dtype: str  # "auto", "fp32" or "bf16"
    threads: int  # of torch
    run_dir: Path | None  # folder of its cluster; None: its address is written nowhere
    api_key: str | None
    seed: int
    site: str = ""  # where its vehicles stand
    price_per_kwh: float = 0.0  # of electricity there, in the unit of the jobs' values; 0: not given
    carbon_g_per_kwh: float = 0.0  # CO2 of electricity there, grams; 0: not given
    pace: str = "host"  # or "profile": its cars, all of one profile, answer no sooner than that would
    starts_as: str = ""  # the day whose start is everybody's; empty: its first vehicle's
    storms: str = ""  # like update@2,holiday
    place: str = ""  # what kind of place that is; empty: a plain one
    place_cars: int = 0  # vehicles there, with those of other lots; 0: its own are all
    terms: tuple[Terms, ...] = ()  # of each vehicle's owner, in order; empty: none has opted in
    weights: str = WEIGHTS[0]
    memory_gb: float | None = None  # for its models, 10^9 bytes; None: the profile's with its pace, or what is free
    kv_positions: int | None = None  # of the keys and values of each chat model; None: as many as do good
    batch_delay_ms: float = 0.0  # for which requests may wait for others to share a micro-batch with
    facts: Path | None = None  # folder for what the lot did; None: it is written nowhere

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its vehicles, in order."""
        return named(self.first_index, len(self.profiles))


def named(first_index: int, count: int) -> tuple[str, ...]:
    """The names of so many vehicles from this one of the fleet on, as `terms.NAME` has them."""
    return tuple(f"car-{index:04d}" for index in range(first_index, first_index + count))
