"""How far the core's policy is from the optimum: weeks of real stays, other policies and a clairvoyant bound."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import count, parser, terminal
from benchmarks.policy.mix import CELLS, SEEDS
from benchmarks.policy.runs import BOUND, POLICIES, Files, Run, run_all

_FOLDER = Path(".benchmarks/policy")


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("policy", str(__doc__).partition("\n")[0])
    options.add_argument("--sessions", type=Path, metavar="FILE", help="of cars at home, CSV")
    options.add_argument("--workplace", type=Path, metavar="FILE", help="of cars at work, CSV, times in UTC")
    options.add_argument("--requests", type=Path, metavar="FILE", help="a trace of requests, CSV")
    options.add_argument("--cells", type=_among("cell", CELLS), default=tuple(CELLS), metavar="SUITE:LOAD,...")
    options.add_argument("--policies", type=_among("policy", POLICIES), default=tuple(POLICIES), metavar="NAME,...")
    options.add_argument("--seeds", type=count, default=len(SEEDS), metavar="N", help=f"the first N ({len(SEEDS)})")
    options.add_argument("--processes", type=count, default=2, metavar="N", help="at once (2)")
    given = options.parse_args(arguments)
    files = Files(given.sessions, given.workplace, given.requests)
    seeds = SEEDS[: given.seeds]
    runs = [
        Run(cell, policy, seed) for seed in seeds for cell in given.cells for policy in (BOUND, *given.policies)
    ]
    console = terminal()
    found: dict[Run, dict[str, Any]] = {}
    with console.status("running") as status:
        for run, result in run_all(runs, files, _FOLDER, given.processes):
            found[run] = result
            status.update(f"{len(found)} of {len(runs)}")
    for cell in given.cells:
        for policy in given.policies:
            for seed in seeds:
                one, best = found[Run(cell, policy, seed)], found[Run(cell, BOUND, seed)]
                account = one["account"]
                spent_s = sum(account.values())
                console.print(
                    f"{cell} {policy} {seed}: value {one['value'] / best['value']:.4f}"
                    f" items {one['item_value'] / best['value']:.4f} (bound {best['value'] / one['offered']:.3f}"
                    f" of offered, {best['processor_s']:.0f} s); on time {one['on_time']}/{one['jobs']};"
                    f" lost {account['lost_s'] / spent_s:.3%} loading {account['loading_s'] / spent_s:.3%}"
                    f" repeated {account['repeated_s'] / spent_s:.3%} late {one['late_s'] / spent_s:.2%};"
                    f" spent {spent_s / 3600:.0f} HW4-h, {one['slices']} slices, {one['yields']} yields;"
                    f" requests {one['answered'] / max(1, one['requests']):.4f} p99 {one['wait_p99_s']:.1f} s;"
                    f" {one['processor_s']:.1f} s, {1e6 * one['policy_s'] / max(1, one['facts']):.0f} us a fact",
                    highlight=False,
                    soft_wrap=True,
                )
    return 0


def _among(what: str, known: Sequence[str] | dict[str, Any]) -> Any:
    """Names with commas between them, for argparse."""

    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        for name in chosen:
            if name not in known:
                raise ArgumentTypeError(f"there is no {what} {name!r}; choose of {', '.join(known)}")
        return chosen

    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
