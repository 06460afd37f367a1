"""A day in the life of a fleet: owners' terms and charges, kept while real models run, and judged from outside.

`carpool up` with days, profiles and places mixed, owners who all say something else, and connections that the cars
of a place share; the cars' clock runs so fast that a day passes in minutes. All the while two tenants have batch
work in hand and call in between, owners change their minds, and drivers take cars. Every vector is compared with
the model run directly. When the day is over `benchmarks/audit` reads the lots' facts. With --break-term a further
lot joins that overlooks a term on purpose, and the audit has to find it there and nowhere else.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accounts import Accounts, accounts, scraped
from benchmarks.audit import Audit, audit
from benchmarks.chronicle import Chronicle, chronicle
from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, seconds, terminal
from benchmarks.machine import Machine
from benchmarks.owners import owners, terms_file
from benchmarks.process import Process
from benchmarks.reference import DISTANCE
from benchmarks.sentences import sentences
from coordinator.client import Client
from coordinator.errors import CarpoolError, Failure
from node.client import DriverError, parked, terms, unplug
from node.models import ModelCache, ModelError
from node.pacing import PACES
from node.workloads import load, run_alone

MODEL, CHAT = "minilm", "smollm2"
DAY_S = 24 * 3600.0
TENANTS = ("acme", "umbra")
KEYS = {name: f"key-of-the-{name}-{name}" for name in (*TENANTS, "lots", "operator")}
SHARES = (("home", 0.4), ("workplace", 0.2), ("robotaxi", 0.2), ("van", 0.2))
PLACES = (("home", 0.25), ("garage", 0.15), ("depot", 0.6))  # the driveways are of home cars only
SENTENCES = 1_000  # distinct ones: each job has so many of them in turn
JOBS_IN_HAND = 3  # of each tenant
CALL_EVERY_S = 2.0  # of each tenant, after the answer to its last
CARELESS = 4  # cars of the lot that breaks a term
READY = r"carpool ready grpc=(\S+) http=(\S+) metrics=(\S+)"
START_S = 300.0  # what the actors, each with two models, may take on a busy machine
PATIENCE_S = 180.0  # what the last jobs may take when the day is over
CHANGES: Sequence[tuple[float, dict[str, Any]]] = (
    (0.2, {"least_charge": 0.95}),  # never above it on a daily limit of 80 %: they stop
    (0.3, {"opted_in": False}),
    (0.4, {"hours": ["00:00-00:30"]}),
    (0.5, {"refused_tenants": ["acme"]}),
    (0.7, {"opted_in": True, "least_charge": 0.1, "hours": []}),
)
"""What owners of some cars at work say, at which part of the day."""
TAKEN_AT = (0.25, 0.45, 0.65)
"""When drivers take cars that are at work."""


@dataclass(slots=True)
class _Seen:
    """What came of the work, and of the hands that moved."""

    jobs: int = 0
    items: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    answers_s: list[float] = field(default_factory=list)
    changed: int = 0
    taken: int = 0
    stop_s: list[float] = field(default_factory=list)  # of hands, with work taken away
    at_work: int = 0  # the most cars that held leases at a look


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
        for model in (MODEL, CHAT):
            cache.get(model)
    except ModelError as error:
        options.error(str(error))
    machine, console = Machine.here(), terminal()
    with TemporaryDirectory(prefix="carpool-") as name, console.status("computing what is to come out") as status:
        folder = Path(name)
        facts = given.facts or folder / "facts"
        day = _Day(given, folder, facts, _vectors(cache))
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


class _Day:
    """One cluster for one day of its cars."""

    def __init__(self, given: argparse.Namespace, folder: Path, facts: Path, vectors: NDArray[np.float32]) -> None:
        self._given, self._folder, self._facts, self._vectors = given, folder, facts, vectors
        self._inputs = [text.encode() for text in sentences(SENTENCES)]
        self._speed = DAY_S / (given.minutes * 60.0)
        self.seen = _Seen()
        self.careless = {f"car-{given.vehicles + car:04d}" for car in range(CARELESS if given.break_term else 0)}

    def live(self) -> Accounts:
        """Bring everything up, live the day, take it down; what the coordinator counted."""
        given, folder = self._given, self._folder
        tables = (("tenants", TENANTS), ("nodes", ("lots",)), ("operators", ("operator",)))
        keys = "".join(
            f"[{table}]\n" + "".join(f'{name} = "{KEYS[name]}"\n' for name in of) for table, of in tables
        )
        (folder / "keys.toml").write_text(keys)
        said = owners(given.vehicles, given.seed, TENANTS, (MODEL, CHAT))
        (folder / "terms.toml").write_text(terms_file(said))
        flags = (
            *("--vehicles", given.vehicles, "--vehicles-per-actor", -(-given.vehicles // given.actors)),
            *(
                "--profile",
                _mix(given.vehicles, (("hw4", 0.75), ("ai5", 0.25))),
                "--day",
                _mix(given.vehicles, SHARES),
            ),
            *(
                "--place",
                given.place or _mix(given.vehicles, PLACES),
                "--pace",
                given.pace,
                "--speed",
                self._speed,
                "--seed",
                given.seed,
            ),
            *("--models", f"{MODEL},{CHAT}", "--dtype", "fp32", "--device", "cpu"),
            *("--terms", folder / "terms.toml", "--facts", self._facts, "--api-keys", folder / "keys.toml"),
        )
        with ExitStack() as exits:
            run_dir = str(folder / "run")
            up = exits.enter_context(
                Process.python(
                    *("carpool", "coordinator.cli", "up", "--stop-at-eof", *flags),
                    folder=folder,
                    CARPOOL_RUN_DIR=run_dir,
                )
            )
            ready = up.expect(READY, START_S)
            (cluster,) = (folder / "run").glob("cluster-*")
            if self.careless:
                exits.enter_context(self._careless_lot(ready[1]))
            try:
                asyncio.run(self._live(ready[1], cluster))
                up.check()
                spent = accounts(ready[3])
                self._balance(ready[3])
            except (CarpoolError, DriverError) as error:
                raise BenchmarkFailed(str(error)) from None
        return spent

    def _careless_lot(self, target: str) -> Process:
        """Cars whose owners want more charge than they can have, in a lot that does not mind."""
        (self._folder / "careless.toml").write_text("[terms]\nopted_in = true\nleast_charge = 0.95\n")
        named = ("--coordinator", target, "--lot-id", "careless", "--vehicles", CARELESS, "--stop-at-eof")
        cars = ("--first-index", self._given.vehicles, "--speed", self._speed, "--models", MODEL)
        kept = ("--terms", self._folder / "careless.toml", "--facts", self._facts, "--dtype", "fp32")
        return Process.python(
            *("careless", "benchmarks.careless_lot", *named, *cars, *kept),
            folder=self._folder,
            CARPOOL_API_KEY=KEYS["lots"],
        )

    async def _live(self, target: str, cluster: Path) -> None:
        until_s = time.monotonic() + self._given.minutes * 60.0
        clients = [Client(target, KEYS[name]) for name in TENANTS]
        async with clients[0], clients[1]:
            try:
                async with asyncio.timeout(self._given.minutes * 60.0 + PATIENCE_S), asyncio.TaskGroup() as group:
                    for number, client in enumerate(clients):
                        for slot in range(JOBS_IN_HAND):
                            group.create_task(self._feed(client, number * JOBS_IN_HAND + slot, until_s))
                        group.create_task(self._call(client, number, until_s))
                    group.create_task(self._meddle(cluster, until_s))
            except TimeoutError:
                self.seen.wrong[f"a job or a call had not ended {PATIENCE_S:g} s after the day"] += 1
            except BaseExceptionGroup as troubles:
                trouble: BaseException = troubles
                while isinstance(trouble, BaseExceptionGroup):
                    trouble = trouble.exceptions[0]
                raise trouble from None

    async def _feed(self, client: Client, first: int, until_s: float) -> None:
        """One job after the other, every item compared."""
        while time.monotonic() < until_s:
            job, _ = await client.submit(MODEL, self._inputs)
            at = 0
            async for results in client.results(job.job_id):
                for failure in results.failures.values():
                    self.seen.wrong[f"an item failed: {failure.code}: {failure.message}"] += 1
                self._compare(results.first_item, results.payloads)
                at += len(results.payloads)
            if at != len(self._inputs):
                self.seen.wrong[f"a job of {len(self._inputs)} items gave {at} results"] += 1
            self.seen.jobs += 1
            self.seen.items += at

    def _compare(self, first: int, payloads: Sequence[bytes]) -> None:
        """Vectors of these items with those that the model gives when it is run directly."""
        if not payloads or not all(payloads):
            return
        actual = np.array([np.frombuffer(payload, "<f4") for payload in payloads])  # [K, D], unit vectors
        distance = 1.0 - (actual * self._vectors[first : first + len(payloads)]).sum(1)
        far = int(np.count_nonzero(~(distance <= DISTANCE)))
        if far:
            self.seen.wrong["a vector is not the model's"] += far

    async def _call(self, client: Client, number: int, until_s: float) -> None:
        """A person who asks, waits, and asks again: a sentence, and every third time the chat."""
        asked = 0
        chat = json.dumps({"messages": [{"role": "user", "content": "Name a tree."}], "max_tokens": 4}).encode()
        while time.monotonic() < until_s:
            asked += 1
            model, payload = (CHAT, chat) if asked % 3 == 0 else (MODEL, self._inputs[(number + asked) % SENTENCES])
            begun_s = time.monotonic()
            (answer,) = await client.run(model, [payload], PATIENCE_S)
            self.seen.answers_s.append(time.monotonic() - begun_s)
            if isinstance(answer, Failure):
                self.seen.wrong[f"a call failed: {answer.code}: {answer.message}"] += 1
            elif model == MODEL:
                self._compare((number + asked) % SENTENCES, [answer])
            await asyncio.sleep(CALL_EVERY_S)

    async def _meddle(self, cluster: Path, until_s: float) -> None:
        """Owners who say something else, and drivers who take their cars, at their parts of the day."""
        draw = Random(self._given.seed)
        lasts_s = self._given.minutes * 60.0
        moves: list[tuple[float, dict[str, Any] | None]] = [*CHANGES, *((at, None) for at in TAKEN_AT)]
        changed: set[str] = set()
        for at, change in sorted(moves, key=lambda move: move[0]):
            await asyncio.sleep(max(0.0, until_s - (1.0 - at) * lasts_s - time.monotonic()))
            cars = await asyncio.to_thread(parked, cluster)
            busy = [car.name for car in cars if car.leases]
            self.seen.at_work = max(self.seen.at_work, len(busy))
            back = change is not None and "opted_in" in change and change["opted_in"]
            some = sorted(changed) if back else draw.sample(busy, min(len(busy), max(1, len(cars) // 20)))
            if not some:
                continue
            if change is None:
                done = await asyncio.to_thread(unplug, cluster, some)
                self.seen.taken += len(some)
                self.seen.stop_s += [one.stop_s for one in done if one.leases]
            else:
                _, stop_s = await asyncio.to_thread(terms, cluster, some, change)
                self.seen.changed += len(some)
                self.seen.stop_s.append(stop_s)
                changed.update(some)

    def _balance(self, metrics: str) -> None:
        """What the coordinator counts as done are the items that came back, each once."""
        done = sum(
            sample.value
            for sample in scraped(metrics)
            if sample.name == "carpool_items_finished_total"
            and (sample.labels["class"], sample.labels["outcome"]) == ("batch", "done")
        )
        if int(done) != self.seen.items:
            self.seen.wrong[f"{self.seen.items} items came back, and the coordinator counts {int(done)}"] += 1


def _vectors(cache: ModelCache) -> NDArray[np.float32]:
    """What the model says of every sentence when it is run here, without a fleet [S, D]."""
    rows = run_alone(load(cache, MODEL), [text.encode() for text in sentences(SENTENCES)])
    return np.array([np.frombuffer(row, "<f4") for row in rows if isinstance(row, bytes)])


def _mix(vehicles: int, shares: Sequence[tuple[str, float]]) -> str:
    """Like home:4,van:2, by these shares; the first gets what is left over."""
    counts = {name: max(1, int(share * vehicles)) for name, share in shares[1:]}
    first = vehicles - sum(counts.values())
    return ",".join(f"{name}:{of}" for name, of in {shares[0][0]: first, **counts}.items())


def _figures(seen: _Seen, spent: Accounts, lived: Chronicle, found: Audit, violations: int) -> list[Figure]:
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
        Figure("energy of computers, modelled", "kWh", [lived.compute_modelled_j / kwh]),
        Figure("  of the cars awake around them, modelled", "kWh", [lived.awake_modelled_j / kwh]),
        Figure("state of charge at departure, modelled", "", lived.left_charge or [0.0]),
        Figure("  the lowest of a car there, modelled", "", [lived.lowest_charge]),
        Figure("  the lowest of a car at work, modelled", "", [lived.lowest_at_work]),
        Figure("owners' changes of terms", "cars", [seen.changed]),
        Figure("cars taken by their drivers' hands", "cars", [seen.taken]),
        Figure("  until no torch work of them, by lot", "s", seen.stop_s or [0.0]),
    ]


def _notes(given: argparse.Namespace, seen: _Seen, lived: Chronicle, found: Audit, broken: set[str]) -> list[str]:
    most = sorted(lived.withheld_s.items(), key=lambda reason: -reason[1])
    reasons = ", ".join(f"{name} {of / 3600:,.0f}" for name, of in most)
    notes = [
        f"car-hours of those there that their owners kept from work, by reason: {reasons or 'none'}",
        f"`carpool audit`: {len(found.violations)} violations in {found.facts:,} facts of {found.cars} cars",
    ]
    if given.break_term:
        told = f"it found {', '.join(sorted(broken))} broken there" if broken else "it found nothing there"
        notes.append(f"  {CARELESS} of them are of a lot that overlooks the least charge on purpose: {told}")
    return notes
