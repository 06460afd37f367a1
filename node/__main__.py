"""`python -m node`: serves lots of vehicles until SIGTERM, SIGINT, or the end of its standard input.

One lot in this process; with --ray one Ray actor for each lot. Nothing on standard output; on standard error
one line for each lot that is ready.
"""

import argparse
import asyncio
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from node import plan, profile, site, storm, terms
from node.config import WEIGHTS, LotConfig, named
from node.pacing import PACES
from node.roofline import Machine


def main() -> int:
    """The exit code: 0 after a stop, 2 for bad input, 1 for a failure."""
    # Read when grpc is first imported, also by Ray's workers; `coordinator.__main__` says what it is good for.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_poller_for_python")
    options = parser().parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        lots = configs(options)
        asyncio.run(_serve(lots, options))
    except _failures() as error:
        print(f"carpool node: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of a folder that a flag names
        if error.filename is None:
            raise
        print(f"carpool node: {error.filename} cannot be used: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _failures() -> tuple[type[Exception], ...]:
    """What whoever starts a lot can mend."""
    from node.cluster import ClusterUnusable
    from node.models import ModelError
    from node.uplink import CoordinatorRefused

    return (ValueError, ModelError, CoordinatorRefused, ClusterUnusable)


async def _serve(lots: list[LotConfig], options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.stop_at_eof:
        threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
    if options.ray:
        from node import actor

        await actor.serve(lots, options.ray_address, stop, _ready)
        return
    from node.agent import Agent

    for config in lots:
        await Agent.equipped(config).run(stop, partial(_ready, config))


def _ready(config: LotConfig, where: str = "") -> None:
    print(f"lot {config.lot_id} ready vehicles={len(config.profiles)}{where}", file=sys.stderr, flush=True)


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)


def configs(options: argparse.Namespace) -> list[LotConfig]:
    """One lot for each actor, or a single one; raises ValueError for flags that do not fit."""
    vehicles = options.vehicles
    if vehicles is None and ":" not in options.profile:
        vehicles = plan.vehicles_of(options.day)
    profiles = profile.assign(options.profile, vehicles)
    if not profiles:
        raise ValueError("--vehicles 0 leaves nothing to serve; give at least 1")
    if not (math.isfinite(options.speed) and options.speed > 0):
        raise ValueError(f"--speed {options.speed} cannot be; give a number over 0")
    if options.memory_gb is not None and not (math.isfinite(options.memory_gb) and options.memory_gb > 0):
        raise ValueError(f"--memory-gb {options.memory_gb} cannot be; give a number over 0")
    for flag, figure in (
        ("--price-per-kwh", options.price_per_kwh),
        ("--carbon-g-per-kwh", options.carbon_g_per_kwh),
        ("--batch-delay-ms", options.batch_delay_ms),
    ):
        if not (math.isfinite(figure) and figure >= 0):
            raise ValueError(f"{flag} {figure} cannot be; give a number of at least 0")
    days = plan.assign(options.day, len(profiles))
    plan.require_vehicles(days, profiles)
    storm.parse(options.storm)
    places = site.assign(options.place, len(profiles))
    if options.weights == "fetched" and not options.place:
        kinds = ", ".join(site.names())
        raise ValueError(
            f"--weights fetched: without a place there are no links to fetch over; give --place {kinds}"
        )
    owners = _owners(options, named(options.first_index, len(profiles)))
    lots, count = 1, len(profiles)
    if options.ray and options.vehicles_per_actor:
        lots = math.ceil(count / options.vehicles_per_actor)
    elif options.ray:
        lots = min(os.cpu_count() or 1, count)
    firsts = [count * lot // lots for lot in range(lots + 1)]
    firsts = _parted(firsts, "--place: the cars of a lot share a connection, and the mix", places, options.ray)
    if options.pace == "profile":
        for name in dict.fromkeys(profiles):
            Machine.of(profile.load(name))
        firsts = _parted(
            firsts, "--pace profile: the cars of a lot share one pace, and --profile", profiles, options.ray
        )
    models = None if options.models is None else tuple(filter(None, options.models.split(",")))
    return [
        LotConfig(
            lot_id=f"{options.lot_id}-{options.first_index + start:04d}" if options.ray else options.lot_id,
            coordinator=options.coordinator,
            profiles=tuple(profiles[start:end]),
            first_index=options.first_index + start,
            models=models,
            noop=options.noop,
            day=plan.mix(days[start:end]),
            speed=options.speed,
            device=options.device,
            dtype=options.dtype,
            threads=options.threads,
            run_dir=options.run_dir,
            api_key=options.api_key,
            seed=options.seed,
            site=options.site,
            price_per_kwh=options.price_per_kwh,
            carbon_g_per_kwh=options.carbon_g_per_kwh,
            pace=options.pace,
            starts_as=days[0],
            storms=options.storm,
            place=places[start],
            place_cars=places.count(places[start]),
            terms=tuple(owners[start:end]),
            weights=options.weights,
            memory_gb=options.memory_gb,
            kv_positions=options.kv_positions,
            batch_delay_ms=options.batch_delay_ms,
            facts=options.facts,
        )
        for start, end in pairwise(firsts)
    ]


def _parted(firsts: list[int], why: str, kinds: Sequence[str], ray: bool) -> list[int]:
    """Where lots begin when all cars of each are to be of one kind; raises ValueError when that cannot be."""
    changes = [car for car, pair in enumerate(pairwise(kinds), 1) if pair[0] != pair[1]]
    if changes and not ray:
        told = ", ".join(dict.fromkeys(kinds))
        raise ValueError(f"{why} names {told}; start a lot for each of them, or give --ray")
    return sorted({*firsts, *changes})


def _owners(options: argparse.Namespace, names: Sequence[str]) -> list[terms.Terms]:
    """What the owner of each vehicle says; raises ValueError."""
    if options.terms is None:
        return [terms.WILLING if options.opt_in else terms.Terms()] * len(names)
    if options.opt_in:
        raise ValueError("--opt-in and --terms cannot be together; say opted_in = true in the file")
    try:
        common, others = terms.read(options.terms.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the terms {options.terms}: {error}") from None
    except ValueError as error:
        raise ValueError(f"the terms {options.terms}: {error}") from None
    return [others.get(name, common) for name in names]


def parser() -> argparse.ArgumentParser:
    """The flags of `python -m node`."""
    flags = argparse.ArgumentParser(prog="python -m node", description=__doc__, allow_abbrev=False)
    add = flags.add_argument
    add("--coordinator", required=True, metavar="HOST:PORT")
    add("--lot-id", default="lot", metavar="ID", help="unique in the fleet; with --ray a prefix")
    add("--vehicles", type=_count, metavar="N", help="default: what --profile says, else 1")
    add("--profile", default="hw4", metavar="MIX", help=f"like hw4:6,ai5:2, of {', '.join(profile.names())}")
    add("--first-index", type=int, default=0, metavar="K", help="of the first vehicle in the fleet")
    add("--models", metavar="A,B", help="default: every model in the cache; empty: none of them")
    add("--noop", action="store_true", help="offer the echo model as well")
    add("--day", default="parked", metavar="MIX", help=f"like home:4,workplace:2, of {', '.join(plan.names())}")
    text = f"befall the cars: like update@2,holiday@12, hours after the start, of {', '.join(storm.names())}"
    add("--storm", default="", metavar="NAME[@HOUR],...", help=text)
    add("--site", default="", metavar="NAME", help="where the vehicles stand; those of one may leave together")
    add(
        "--place",
        default="",
        metavar="MIX",
        help=f"what is there: like home:4,garage:2, of {', '.join(site.names())}",
    )
    add("--terms", type=Path, metavar="FILE", help="TOML of the owners' terms; without, none has opted in")
    add("--opt-in", action="store_true", help="every owner takes part and asks for nothing: a simulated fleet")
    add("--facts", type=Path, metavar="DIR", help="write what the lots did there, for `carpool audit`")
    add("--price-per-kwh", type=float, default=0.0, metavar="X", help="electricity, in the unit of jobs' values")
    add("--carbon-g-per-kwh", type=float, default=0.0, metavar="X", help="CO2 of electricity, grams")
    add("--speed", type=float, default=1.0, metavar="X", help="simulated seconds in a real one")
    add("--pace", default="host", choices=PACES, help="profile: answer no sooner than the profile would")
    add(
        "--weights", default="held", choices=WEIGHTS, help="fetched: cars begin without, and fetch over their links"
    )
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--dtype", default="auto", choices=("auto", "fp32", "bf16"))
    add("--threads", type=_count, default=1, metavar="N", help="of torch, for each lot")
    add(
        "--memory-gb",
        type=float,
        metavar="X",
        help="for the models of each lot; what does not fit is loaded when it is wanted. Default: the profile's"
        " with --pace profile, else what is free",
    )
    text = "of the keys and values that each chat model holds; default: at most 16384 on a CPU, 131072 on a GPU"
    add("--kv-positions", type=_count, metavar="N", help=text)
    text = "for which requests at most wait for others to share a micro-batch with; one that is alone never waits"
    add("--batch-delay-ms", type=float, default=0.0, metavar="X", help=text)
    add("--run-dir", type=Path, metavar="DIR", help="folder of the cluster; lots write their addresses there")
    add("--api-key", default=os.environ.get("CARPOOL_API_KEY"), metavar="KEY", help="or CARPOOL_API_KEY")
    add("--seed", type=int, default=0, metavar="N")
    add("--stop-at-eof", action="store_true", help="stop at the end of standard input")
    add("--ray", action="store_true", help="one Ray actor for each lot")
    add("--ray-address", default=None, metavar="ADDR", help="of an existing Ray cluster")
    add("--vehicles-per-actor", type=_count, metavar="K", help="default: as many actors as cores")
    return flags


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number over 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
