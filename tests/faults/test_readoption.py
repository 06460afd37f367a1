"""A coordinator is killed while ten thousand cars hold leases: it comes back, and takes all of them over."""

import asyncio
import time
from pathlib import Path

from coordinator.client import Client
from node.client import parked
from tests.faults.durable import kill, metric, scrape, start_again, total
from tests.live import Cluster, cluster, until

LOTS, VEHICLES = 4, 2_500
WITHIN_S = 2.0
SLOW_LOT = "benchmarks.slow_lot"


def test_ten_thousand_cars_and_what_they_run_are_taken_over(tmp_path: Path) -> None:
    flags = ("--state", str(tmp_path / "state"))

    async def lend(live: Cluster) -> int:
        async with Client(live.coordinator.grpc) as client:
            await live.parked(client, LOTS * VEHICLES)
            await client.submit("noop", [b"%d" % number for number in range(3 * LOTS * VEHICLES)])

        async def held() -> int | None:
            cars = await asyncio.to_thread(parked, tmp_path)
            return None if any(car.leases < 2 for car in cars) else sum(car.leases for car in cars)

        return await until(held)

    async def take_over(live: Cluster) -> float:
        async def taken() -> float | None:
            now = await scrape(live)
            if total(now, "carpool_lots_connected") < LOTS:
                return None
            held = total(now, "carpool_leases_active") + total(now, "carpool_leases_total")
            return held - total(now, "carpool_scheduler_decisions_total", result="placed")

        return await until(taken)

    with cluster(*flags) as live:
        for number in range(LOTS):
            flag = ("--run-dir", str(tmp_path))
            live.add(f"lot-{number}", *flag, vehicles=VEHICLES, first_index=number * VEHICLES, module=SLOW_LOT)
        lent = asyncio.run(lend(live))
        kill(live)
        start_again(live, *flags)
        began_s = time.monotonic()
        adopted = asyncio.run(take_over(live))
        assert time.monotonic() - began_s < WITHIN_S
        assert adopted >= 0.98 * lent, "running work is taken over, not lent again; a few leases ended meanwhile"
        assert asyncio.run(metric(live, "carpool_results_rejected_total")) == 0
