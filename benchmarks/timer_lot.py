"""`python -m benchmarks.timer_lot`: a node process whose `noop` is of kind "embed" and waits 1 ms for each request.

The wait is a timer on the lot's event loop, as `asyncio.sleep` is in a replica of Ray Serve: requests of a car wait
side by side, and nothing is computed. Such a car shows what the way there and back costs: messages, the loop of the
lot, the books of leases. It says nothing of work for the executor's thread, whose hand-over costs more, and whose
turns are one by one. `--in-turn` has the thread wait instead: a lot then answers one request a millisecond at most.
"""

import asyncio
import sys
from collections.abc import Sequence
from time import perf_counter, sleep

import node.equipment
import node.loading
from benchmarks.timer import TIMER_S, result
from node.__main__ import main
from node.executor import Executor
from node.roofline import Cost
from node.work import Work
from node.workloads import Control
from node.workloads.echo import Echo

IN_TURN = "--in-turn"


class Timer(Echo):
    """Answers with how long the request before it waited: the executor sets that."""

    kind = "embed"
    batch_items = 1
    output_shape = (8,)
    took_s = 0.0

    def plan(self, prepared: Sequence[bytes]) -> list[list[int]]:
        """Micro-batches of one: batching is off."""
        return [[item] for item in range(len(prepared))]

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The answer to each."""
        return [result(self.took_s)] * len(prepared)

    def items_per_s(self) -> float:
        """As it is, of requests one after the other."""
        return 1 / TIMER_S

    def ordinary_cost(self) -> Cost:
        """Nothing."""
        return Cost(0.0, 0.0, 1, {}, {})


class TimerInTurn(Timer):
    """Keeps the executor's thread to itself for its millisecond."""

    computes = True

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The answer, after a while."""
        began_s = perf_counter()
        sleep(TIMER_S)
        return [result(perf_counter() - began_s)] * len(prepared)


class TimerExecutor(Executor):
    """Takes a work when its time is over: what computes nothing is then answered on the spot."""

    def submit(self, work: Work) -> None:
        """On the lot's loop, as the agent calls it."""
        asyncio.get_running_loop().call_later(TIMER_S, self._take, work, perf_counter())

    def _take(self, work: Work, began_s: float) -> None:
        workload = self._workloads[work.model]
        assert isinstance(workload, Timer), "no other is offered"
        workload.took_s = perf_counter() - began_s
        super().submit(work)


if __name__ == "__main__":
    if IN_TURN in sys.argv:
        sys.argv.remove(IN_TURN)
        node.loading.Echo = TimerInTurn  # type: ignore[attr-defined]
    else:
        node.loading.Echo = Timer  # type: ignore[attr-defined]
        node.equipment.Executor = TimerExecutor  # type: ignore[attr-defined]
    sys.exit(main())
