"""A day in the life of a fleet: owners' terms and charges, kept while real models run, and judged from outside.

`carpool up` with days, profiles and places mixed, owners who all say something else, and connections that the cars
of a place share; the cars' clock runs so fast that a day passes in minutes. All the while two tenants have batch
work in hand and call in between, owners change their minds, and drivers take cars. Every vector is compared with
the model run directly. When the day is over `benchmarks/audit` reads the lots' facts. With --break-term a further
lot joins that overlooks a term on purpose, and the audit has to find it there and nowhere else.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.accounts import Accounts
from benchmarks.audit import Audit, audit
from benchmarks.chronicle import Chronicle, chronicle
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, seconds, terminal
from benchmarks.lived_day import CARELESS, SHARES, LivedDay, Seen, vectors
from benchmarks.machine import Machine
from node.models import ModelCache, ModelError
from node.pacing import PACES


def main(arguments: Sequence[str]) -> int:
    """Live a day and tell; the exit code."""
    options = parser("living", str(__doc__).partition("\n")[0])
    options.add_argument("--vehicles", type=count, default=200, metavar="N", help="in all (200)")
    options.add_argument("--minutes", type=seconds, default=10.0, metavar="M", help="that the day takes (10)")
    options.add_argument(
        "--actors", type=count, default=2, metavar="N", help="and one more for each further place (2)"
    )
    options.add_argument("--pace", default="host", choices=PACES, help="as of `carpool up`")
    options.add_argument("--place", default="", metavar="MIX", help="as of `carpool up` (homes, garage, depot)")
    options.add_argument("--model", default="minilm", metavar="NAME", help="that embeds (minilm)")
    options.add_argument("--chat", default="smollm2", metavar="NAME", help="of calls; empty: none (smollm2)")
    options.add_argument("--seed", type=int, default=1, metavar="N", help="of days, owners and hands (1)")
    options.add_argument("--break-term", action="store_true", help="have a lot overlook the least charge")
    options.add_argument("--facts", type=Path, metavar="DIR", help="keep the facts there")
    given = options.parse_args(arguments)
    if given.vehicles < len(SHARES):
        options.error(
            f"--vehicles {given.vehicles} is too few for {len(SHARES)} kinds of days; give at least as many"
        )
    cache = ModelCache.of_user()
    try:
        for model in filter(None, (given.model, given.chat)):
            cache.get(model)
    except ModelError as error:
        options.error(str(error))
    machine, console = Machine.here(), terminal()
    with TemporaryDirectory(prefix="carpool-") as name, console.status("computing what is to come out") as status:
        folder = Path(name)
        facts = given.facts or folder / "facts"
        day = LivedDay(given, folder, facts, vectors(cache, given.model))
        status.update(f"a day of {given.vehicles} vehicles in {given.minutes:g} minutes")
        spent = day.live()
        status.update("auditing")
        try:
            found, lived = audit(facts), chronicle(facts)
        except ValueError as error:
            raise BenchmarkFailed(str(error)) from None
    broken = {violation.term for violation in found.violations if violation.car in day.careless}
    elsewhere = [violation for violation in found.violations if violation.car not in day.careless]
    settings = {
        key: getattr(given, key) for key in ("vehicles", "minutes", "actors", "pace", "place", "seed", "break_term")
    }
    report = Report(
        "living",
        f"{given.vehicles} vehicles in Ray actors, a day of them in {given.minutes:g} min",
        settings,
        machine,
        _figures(day.seen, spent, lived, found, len(elsewhere)),
        _notes(given, day.seen, lived, found, broken),
    )
    report.publish(console, given.json)
    wrong = [f"{times} x {what}" for what, times in day.seen.wrong.items()]
    wrong += [f"{v.car}: {v.term} at hour {v.t_s / 3600 % 168:.2f} of the week: {v.told}" for v in elsewhere[:20]]
    if given.break_term and broken != {"least_charge"}:
        wrong.append(
            f"the term that a lot broke on purpose, least_charge: the audit found {sorted(broken) or 'nothing'}"
        )
    for complaint in wrong:
        console.print(f"[bold]wrong:[/] {complaint}", highlight=False)
    return 1 if wrong else 0


def _figures(seen: Seen, spent: Accounts, lived: Chronicle, found: Audit, violations: int) -> list[Figure]:
    kwh = 3.6e6
    return [
        Figure("terms that were broken, as the audit finds", "", [violations], Goal(at_most=0)),
        Figure("vehicles", "cars", [len(lived.cars)]),
        Figure("their clock ran", "h", [lived.lasted_s / 3600]),
        Figure("plug-ins", "", [lived.came]),
        Figure("departures", "", [len(lived.left_charge)]),
        Figure("  of which with a wanted charge", "", [found.departures]),
        Figure("on the charger, on average", "cars", [lived.plugged_s / lived.lasted_s]),
        Figure("parked off it, on average", "cars", [lived.parked_s / lived.lasted_s]),
        Figure("at work, on average", "cars", [lived.worked_s / lived.lasted_s]),
        Figure("  of which parked off the charger", "cars", [lived.worked_parked_s / lived.lasted_s]),
        Figure("batch jobs ended, each item once and right", "", [seen.jobs]),
        Figure("  items", "", [seen.items]),
        Figure("interactive calls answered", "s", seen.answers_s or [0.0]),
        Figure("leases", "", [lived.leases]),
        Figure("accelerator time, useful", "s", [spent.useful_s]),
        Figure("  thrown away", "s", [spent.lost_s]),
        Figure("energy of computers as reported, modelled", "kWh", [lived.compute_modelled_j / kwh]),
        Figure("  of the cars awake around them, modelled", "kWh", [lived.awake_modelled_j / kwh]),
        Figure("drawn by computers that held work, modelled", "kWh", [lived.drawn_modelled_j / kwh]),
        Figure("  by the cars awake around these, modelled", "kWh", [lived.drawn_awake_modelled_j / kwh]),
        Figure("state of charge at departure, modelled", "", lived.left_charge or [0.0]),
        Figure("  the lowest of a car there, modelled", "", [lived.lowest_charge]),
        Figure("  the lowest of a car at work, modelled", "", [lived.lowest_at_work]),
        Figure("owners' changes of terms", "cars", [seen.changed]),
        Figure("cars taken by their drivers' hands", "cars", [seen.taken]),
        Figure("  until no torch work of them, by lot", "s", seen.stop_s or [0.0]),
    ]


def _notes(given: argparse.Namespace, seen: Seen, lived: Chronicle, found: Audit, broken: set[str]) -> list[str]:
    most = sorted(lived.withheld_s.items(), key=lambda reason: -reason[1])
    reasons = ", ".join(f"{name} {of / 3600:,.0f}" for name, of in most)
    notes = [
        f"car-hours of those there that their owners kept from work, by reason: {reasons or 'none'}",
        f"`carpool audit`: {len(found.violations)} violations in {found.facts:,} facts of {found.cars} cars, and in"
        f" what their lots took of {found.places} connections",
    ]
    if given.break_term:
        told = f"it found {', '.join(sorted(broken))} broken there" if broken else "it found nothing there"
        notes.append(f"  {CARELESS} of them are of a lot that overlooks the least charge on purpose: {told}")
    seconds_of = "this machine's" if given.pace == "host" else "their profiles'"
    notes.append(
        f"energy, modelled: as reported, of {seconds_of} seconds at work; drawn, as packs paid it, of all the time"
        " on the cars' clock that they held work"
    )
    return notes
