"""The equipment of a lot: which models it offers, and the executor that runs them. Knows no loop."""

from collections.abc import Callable
from dataclasses import replace

from node import profile, site
from node.config import LotConfig
from node.executor import Executor
from node.models import NOOP, ModelCache, ModelError
from node.pacing import Pace
from node.roofline import Machine
from node.work import Listener


def equipment(config: LotConfig) -> Callable[[Listener], Executor]:
    """What makes a lot its executor. Raises ModelError when there is nothing to run."""
    cache = ModelCache.of_user()
    models = config.models
    if models is None:
        models = tuple(model.name for model in cache.models())
    if config.noop and NOOP not in models:
        models = (*models, NOOP)
    if not models:
        raise ModelError(f"no model in {cache.root}; add one with `carpool models add minilm`")

    def equip(listener: Listener) -> Executor:
        return Executor(
            listener,
            cache=cache,
            models=models,
            device=config.device,
            dtype=config.dtype,
            threads=config.threads,
            pace=_pace(config),
            memory_bytes=None if config.memory_gb is None else config.memory_gb * 1e9,
            positions=config.kv_positions,
            batch_delay_s=config.batch_delay_ms / 1000.0,
        )

    return equip


def _pace(config: LotConfig) -> Pace | None:
    """What its cars keep; raises ValueError when their profile cannot be timed."""
    if config.pace == "host":
        return None
    (name,) = set(config.profiles)
    machine = Machine.of(profile.load(name))
    if config.memory_gb is not None:
        machine = replace(machine, memory_bytes=config.memory_gb * 1e9)
    return Pace(machine, config.speed, site.load(config.place).link)
