"""How often an answer that another car goes on with is not the one that nobody interrupted, in fp32 and in bf16.

In one process: every request is answered alone first. Then all are answered together, and once more together, each
from a token on which is drawn, as after the loss of a car: what was said by then is read, like the prompt. Half of
the requests take the likeliest token each time, half draw, each by its own seed.
"""

import json
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, terminal
from benchmarks.machine import Machine
from node.models import ModelCache, ModelError
from node.workloads import Control, load
from node.workloads.device import use_threads
from node.workloads.engine import Prompt, Row
from node.workloads.generate import Generate

TIE = 1e-3
"""A choice that hangs on no more, in logits, is one within the rounding of fp32."""

GOAL = Goal(at_most=1.0)

_SUBJECTS = (
    "a bridge",
    "the tide",
    "rye bread",
    "an old town",
    "a night train",
    "a beehive",
    "snow",
    "a parked car",
)
_TASKS = (
    "Explain {} to a child.",
    "Write a short story about {}.",
    "List ten facts about {}.",
    "Praise {} in verse.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said."""

    tokens: list[int]
    gaps: list[float]  # how near the choice of each token was, see `node.workloads.sampling.gap`


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer first was another one."""

    number: int  # of the answer
    token: int
    gap: float  # how near the choice was there, in the answer that nobody interrupted

    def __str__(self) -> str:
        return f"answer {self.number}, token {self.token}: the choice hung on {self.gap:.2g}"


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("seams", str(__doc__).partition("\n")[0])
    options.add_argument("--model", default="smollm2", metavar="NAME", help="one that answers in words (smollm2)")
    options.add_argument("--answers", type=count, default=200, metavar="N", help="(200)")
    options.add_argument("--tokens", type=count, default=64, metavar="N", help="of one answer, at most (64)")
    options.add_argument("--threads", type=count, default=1, metavar="N", help="of torch (1)")
    options.add_argument("--dtype", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"], help="(both)")
    given = options.parse_args(arguments)
    machine, console = Machine.here(), terminal()
    figures: list[Figure] = []
    notes: list[str] = []
    use_threads(given.threads)
    with console.status("loading") as status:
        for dtype in given.dtype:
            try:
                workload = load(ModelCache.of_user(), given.model, "cpu", dtype)
            except ModelError as error:
                raise BenchmarkFailed(str(error)) from None
            if not isinstance(workload, Generate):
                raise BenchmarkFailed(f"{given.model} does not answer in words; name a model that chats")
            payloads = requests(given.answers, given.tokens)
            _compare(workload, dtype, payloads, figures, notes, status.update)
    settings = {name: getattr(given, name) for name in ("model", "answers", "tokens", "threads")}
    layout = f"one process, {given.threads} threads; the same requests alone, together, and gone on with"
    Report("seams", layout, settings, machine, figures, notes).publish(console, given.json)
    return 0


def requests(number: int, tokens: int) -> list[bytes]:
    """So many, of which every second one draws its tokens."""
    rng = random.Random(number)
    made = []
    for seed in range(number):
        content = (
            rng.choice(_TASKS).format(rng.choice(_SUBJECTS)) + f" Begin with the number {rng.randint(2, 999)}."
        )
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": tokens, "seed": seed}
        made.append(json.dumps(body | {"temperature": 0.8 * (seed % 2)}).encode())
    return made


def _compare(
    workload: Generate,
    dtype: str,
    payloads: Sequence[bytes],
    figures: list[Figure],
    notes: list[str],
    tell: Callable[[str], None],
) -> None:
    """One type of numbers."""
    prompts = [prompt for prompt in workload.prepare(payloads, Control()) if isinstance(prompt, Prompt)]
    if len(prompts) < len(payloads):
        raise BenchmarkFailed("the model refuses a request; give fewer --tokens")
    alone = []
    for number, prompt in enumerate(prompts):
        tell(f"{dtype}: alone, {number + 1} of {len(prompts)}")
        alone += answers(workload, [prompt], [[]])
    tell(f"{dtype}: together")
    together = answers(workload, prompts, [[]] * len(prompts))
    tell(f"{dtype}: gone on with")
    rng = random.Random(1)
    begun = [answer.tokens[: rng.randint(1, max(1, len(answer.tokens) - 1))] for answer in alone]
    resumed = answers(workload, prompts, begun)
    for name, others, goal in (
        ("not the same in company", together, None),
        ("not the same when gone on with", resumed, GOAL if dtype == "fp32" else None),
    ):
        places = differing(alone, others)
        figures.append(Figure(f"{dtype}: {name}", "%", [100.0 * len(places) / len(prompts)], goal))
        notes += [f"{dtype}, {name}: {place}" for place in places] if dtype == "fp32" else ()
        wrong = [place for place in places if dtype == "fp32" and place.gap > TIE]
        if wrong:
            raise BenchmarkFailed(f"{name}, and no tie within rounding: {wrong[0]}")


def answers(workload: Generate, prompts: Sequence[Prompt], begun: Sequence[Sequence[int]]) -> list[Answer]:
    """All of them, as many at a time as may step together; nobody uses what another has read."""
    waiting, rows = deque(range(len(prompts))), dict[int, Row]()
    ended: dict[int, Row] = {}
    while waiting or rows:
        while waiting and len(rows) < workload.most_rows:
            number = waiting[0]
            row = workload.engine.join(number, prompts[number], begun[number], watch=True)
            if row is None:
                break
            rows[waiting.popleft()] = row
        workload.engine.step([row for row in rows.values() if not row.ended], Control())
        for number, row in list(rows.items()):
            if row.ended:
                ended[number] = rows.pop(number)
                workload.engine.leave(row, keep=False)
    return [Answer(list(row.transcript.tokens), row.gaps or []) for _, row in sorted(ended.items())]


def differing(alone: Sequence[Answer], others: Sequence[Answer]) -> list[Place]:
    """Where answers first are others than those that were given alone."""
    places = []
    for number, (one, other) in enumerate(zip(alone, others, strict=True)):
        if one.tokens != other.tokens:
            pairs = enumerate(zip(one.tokens, other.tokens, strict=False))
            shorter = min(len(one.tokens), len(other.tokens))
            token = next((place for place, (ours, theirs) in pairs if ours != theirs), shorter)
            places.append(Place(number, token, one.gaps[token]))
    return places
