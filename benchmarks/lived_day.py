"""One cluster for one day of its cars: brought up, kept at work, meddled with by hands, taken down.

Tenants have jobs in hand and call in between; every item that comes back is counted and compared. Owners change
their terms and drivers take cars at set parts of the day.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accounts import Accounts, accounts, scraped
from benchmarks.figures import BenchmarkFailed
from benchmarks.owners import owners, terms_file
from benchmarks.process import Process
from benchmarks.reference import DISTANCE
from benchmarks.sentences import sentences
from coordinator.client import Client
from coordinator.errors import CarpoolError, Failure
from node.client import DriverError, parked, terms, unplug
from node.models import ModelCache
from node.workloads import load, run_alone
from node.workloads.vectors import read

DAY_S = 24 * 3600.0
TENANTS = ("acme", "umbra")
KEYS = {name: f"key-of-the-{name}-{name}" for name in (*TENANTS, "lots", "operator")}
SHARES = (("home", 0.4), ("workplace", 0.2), ("robotaxi", 0.2), ("van", 0.2))
PLACES = (("home", 0.25), ("garage", 0.15), ("depot", 0.6))  # the driveways are of home cars only
SENTENCES = 500  # distinct ones: each job has so many of them in turn
JOBS_IN_HAND = 3  # of each tenant
CALL_EVERY_S = 2.0  # of each tenant, after the answer to its last
CARELESS = 4  # cars of the lot that breaks a term
READY = r"carpool ready grpc=(\S+) http=(\S+) metrics=(\S+)"
START_S = 300.0  # what the actors, each with two models, may take on a busy machine
_POLL_S = 0.1  # between two looks at whether the careless cars are there
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
class Seen:
    """What came of the work, and of the hands that moved."""

    jobs: int = 0
    items: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    answers_s: list[float] = field(default_factory=list)
    changed: int = 0
    taken: int = 0
    stop_s: list[float] = field(default_factory=list)  # of hands, with work taken away
    at_work: int = 0  # the most cars that held leases at a look


class LivedDay:
    """One cluster for one day of its cars."""

    def __init__(self, given: argparse.Namespace, folder: Path, facts: Path, vectors: NDArray[np.float32]) -> None:
        self._given, self._folder, self._facts, self._vectors = given, folder, facts, vectors
        self._models = tuple(filter(None, (given.model, given.chat)))
        self._inputs = [text.encode() for text in sentences(SENTENCES)]
        self._speed = DAY_S / (given.minutes * 60.0)
        self.seen = Seen()
        self.careless = {f"car-{given.vehicles + car:04d}" for car in range(CARELESS if given.break_term else 0)}

    def live(self) -> Accounts:
        """Bring everything up, live the day, take it down; what the coordinator counted."""
        given, folder = self._given, self._folder
        tables = (("tenants", TENANTS), ("nodes", ("lots",)), ("operators", ("operator",)))
        keys = "".join(
            f"[{table}]\n" + "".join(f'{name} = "{KEYS[name]}"\n' for name in of) for table, of in tables
        )
        (folder / "keys.toml").write_text(keys)
        said = owners(given.vehicles, given.seed, TENANTS, self._models)
        (folder / "terms.toml").write_text(terms_file(said))
        flags = (
            *("--vehicles", given.vehicles, "--vehicles-per-actor", -(-given.vehicles // given.actors)),
            *(
                "--profile",
                mix(given.vehicles, (("hw4", 0.75), ("ai5", 0.25))),
                "--day",
                mix(given.vehicles, SHARES),
            ),
            *(
                "--place",
                given.place or mix(given.vehicles, PLACES),
                "--pace",
                given.pace,
                "--speed",
                self._speed,
                "--seed",
                given.seed,
            ),
            *("--models", ",".join(self._models), "--dtype", "fp32", "--device", "cpu"),
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
            try:
                if self.careless:
                    lot = exits.enter_context(self._careless_lot(ready[1]))
                    asyncio.run(self._joined(ready[1], lot))
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
        cars = ("--first-index", self._given.vehicles, "--speed", self._speed, "--models", self._models[0])
        kept = ("--terms", self._folder / "careless.toml", "--facts", self._facts, "--dtype", "fp32")
        return Process.python(
            *("careless", "benchmarks.careless_lot", *named, *cars, *kept),
            folder=self._folder,
            CARPOOL_API_KEY=KEYS["lots"],
        )

    async def _joined(self, target: str, lot: Process) -> None:
        """Returns when the careless cars are there: the day may be shorter than their process takes to start."""
        try:
            async with asyncio.timeout(START_S), Client(target, KEYS["operator"]) as client:
                while not self.careless <= {node.name for node in await client.nodes()}:
                    lot.check()
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BenchmarkFailed(f"after {START_S:g} s the lot that breaks a term has not joined") from None

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
            job, _ = await client.submit(self._models[0], self._inputs)
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
        actual = np.array([read(payload)[0] for payload in payloads])  # [K, D], unit vectors
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
            model, payload = self._models[0], self._inputs[(number + asked) % SENTENCES]
            if asked % 3 == 0 and len(self._models) > 1:
                model, payload = self._models[1], chat
            begun_s = time.monotonic()
            (answer,) = await client.run(model, [payload], PATIENCE_S)
            self.seen.answers_s.append(time.monotonic() - begun_s)
            if isinstance(answer, Failure):
                self.seen.wrong[f"a call failed: {answer.code}: {answer.message}"] += 1
            elif model == self._models[0]:
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


def vectors(cache: ModelCache, model: str) -> NDArray[np.float32]:
    """What the model says of every sentence when it is run here, without a fleet [S, D]."""
    rows = run_alone(load(cache, model), [text.encode() for text in sentences(SENTENCES)])
    return np.array([read(row)[0] for row in rows if isinstance(row, bytes)])


def mix(vehicles: int, shares: Sequence[tuple[str, float]]) -> str:
    """Like home:4,van:2, by these shares; the first gets what is left over."""
    counts = {name: max(1, int(share * vehicles)) for name, share in shares[1:]}
    first = vehicles - sum(counts.values())
    return ",".join(f"{name}:{of}" for name, of in {shares[0][0]: first, **counts}.items())
