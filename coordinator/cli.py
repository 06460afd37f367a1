"""The `carpool` command: what a terminal says to the coordinator, and how it is answered.

Owns flags, tables and exit codes: 0, 1 when the outcome has failed, 2 for what the user can mend, 130 after
Ctrl-C. Further commands come from the entry-point group `carpool.commands`, functions that take the app; so the
packages need not know each other.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from coordinator import rundir
from coordinator.chat import Manner, converse
from coordinator.client import Client, Job, Node
from coordinator.errors import CarpoolError
from coordinator.run import Order, run, summary
from coordinator.store import commands as store_commands
from coordinator.tables import Table, show
from coordinator.units import duration, seconds
from coordinator.up import Plan, models_to_offer, up

app = typer.Typer(
    name="carpool",
    help="A compute pool made of parked cars: models run on vehicles that may leave at any moment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(store_commands.app)

Grpc = Annotated[
    str,
    typer.Option("--grpc", envvar="CARPOOL_GRPC", metavar="HOST:PORT", help="Default: the last `carpool up`."),
]
ApiKey = Annotated[
    str,
    typer.Option(envvar="CARPOOL_API_KEY", metavar="KEY", show_envvar=True, help="Where keys are asked for."),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")]
Result = TypeVar("Result")


@app.command("up")
def up_command(
    vehicles: Annotated[
        int | None, typer.Option(min=1, help="How many cars. Default: what --profile says, else 6.")
    ] = None,
    profile: Annotated[str, typer.Option(metavar="NAME:N,...", help="Their computers: hw4:6,ai5:2.")] = "",
    vehicles_per_actor: Annotated[
        int | None, typer.Option(min=1, help="Cars in one Ray actor. Default: as many actors as cores.")
    ] = None,
    speed: Annotated[float | None, typer.Option(help="Of the cars' clock; 60: an hour is a minute.")] = None,
    pace: Annotated[
        str, typer.Option(metavar="host|profile", help="profile: cars answer no sooner than theirs would.")
    ] = "",
    day: Annotated[
        str,
        typer.Option(metavar="NAME:N,...", help="When they are plugged in: home:4,rack:2. Default: parked."),
    ] = "",
    storm: Annotated[
        str, typer.Option(metavar="NAME[@HOUR],...", help="What befalls them all: update@2, power-cut, holiday.")
    ] = "",
    models: Annotated[str, typer.Option(metavar="A,B", help="Default: every model in the cache.")] = "",
    noop: Annotated[bool, typer.Option("--noop", help="Offer noop too, a model that echoes.")] = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What torch runs on.")] = "",
    dtype: Annotated[str, typer.Option(metavar="auto|fp32|bf16", help="What torch computes in.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads of an actor. Default: 1.")] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="For the models of an actor: others are loaded when wanted. Default: its profile's with --pace"
            " profile, else what is free.",
        ),
    ] = None,
    kv_positions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens that a chat model keeps, over all its answers.")
    ] = None,
    batch_delay_ms: Annotated[
        float | None, typer.Option(min=0.0, metavar="X", help="How long requests wait for others to batch with.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything drawn at random.")] = None,
    ray_address: Annotated[str, typer.Option(metavar="ADDRESS", help="An existing Ray cluster.")] = "",
    site: Annotated[
        str, typer.Option(metavar="NAME", help="The site they stand at; those of one may leave together.")
    ] = "",
    place: Annotated[
        str, typer.Option(metavar="NAME:N,...", help="What is there: home:4,garage:2, or one for all.")
    ] = "",
    weights: Annotated[
        str,
        typer.Option(metavar="held|fetched", help="fetched: cars fetch their models over the place's links first."),
    ] = "",
    terms: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML of the owners' terms. Default: all take part and ask for nothing."),
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what the cars did there, for `carpool audit`.")
    ] = None,
    host: Annotated[str, typer.Option(help="Any but the loopback address needs --api-keys.")] = "127.0.0.1",
    grpc_port: Port = 0,
    http_port: Port = 0,
    metrics_port: Port = 0,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps jobs over restarts; else they go with the cluster.")
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML: [tenants], [nodes], [operators], NAME = KEY.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML, see the README.")] = None,
    stop_at_eof: Annotated[bool, typer.Option("--stop-at-eof", hidden=True)] = False,
) -> None:
    """Bring up a coordinator and a fleet of cars on this machine; Ctrl-C takes them down."""
    plan = Plan(
        vehicles=vehicles or _named(profile) or _named(day) or 6,
        profile=profile,
        vehicles_per_actor=vehicles_per_actor,
        speed=speed,
        pace=pace,
        day=day,
        storm=storm,
        models=models_to_offer(models, noop),
        device=device,
        dtype=dtype,
        threads=threads,
        memory_gb=memory_gb,
        kv_positions=kv_positions,
        batch_delay_ms=batch_delay_ms,
        seed=seed,
        ray_address=ray_address,
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        state=state,
        api_keys=api_keys,
        config=config,
        site=site,
        place=place,
        weights=weights,
        terms=terms,
        facts=facts,
    )
    if asyncio.run(up(plan, _stderr(), _announce, stop_at_eof)) is signal.SIGINT:
        raise typer.Exit(130)


@app.command("run")
def run_command(
    model: Annotated[str, typer.Argument(help="One that some car offers.")],
    input_path: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="JSONL in OpenAI batch form, a text file of one item a line, or a folder of pictures.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.jsonl", help="JSONL in OpenAI batch output form.")
    ],
    grpc: Grpc = "",
    idempotency_key: Annotated[
        str, typer.Option(metavar="KEY", help="The same key and input resume the same job.")
    ] = "",
    deadline: Annotated[str, typer.Option(metavar="DURATION", help="By when it should be done: 90s, 2h.")] = "",
    value: Annotated[
        float, typer.Option(min=0.0, help="What it is worth in all, among your jobs. Default: 1 an item.")
    ] = 0.0,
    on_time: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Refuse it if its chance to make the deadline is less: 0.9."),
    ] = 0.0,
    api_key: ApiKey = "",
) -> None:
    """Run a model over every item of INPUT and write the results to OUT, in the order of INPUT."""
    console = _stderr()
    try:
        deadline_s = seconds(deadline) if deadline else 0.0
    except ValueError as error:
        raise CarpoolError(f"--deadline {error}") from None
    order = Order(_target(grpc), api_key, model, input_path, output, idempotency_key, deadline_s, value, on_time)
    outcome = _finish(run(order, console))
    console.print(summary(outcome, output), markup=False, highlight=False, soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(1)


@app.command("chat")
def chat_command(
    model: Annotated[str, typer.Argument(help="One that answers in words.", show_default="the only one")] = "",
    system: Annotated[str, typer.Option(metavar="TEXT", help="What it is told before the first question.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer, at most.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0: always the likeliest word.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")] = None,
    grpc: Grpc = "",
    api_key: ApiKey = "",
) -> None:
    """Talk with a model; shows which car speaks, and when another goes on. A piped line is a question."""
    fields = {"max_tokens": max_tokens, "temperature": temperature} | ({} if seed is None else {"seed": seed})
    converse(_target(grpc), api_key, model, Manner(fields, system), Console(), _stderr())


@app.command("jobs")
def jobs_command(grpc: Grpc = "", api_key: ApiKey = "") -> None:
    """List your latest jobs, newest first."""

    async def listed() -> list[Job]:
        async with Client(_target(grpc), api_key) as client:
            return await client.jobs()

    show(
        Table(
            ("job", "model", "class", "state", "items", "done", "failed", "cars", "age", "key"),
            [
                (
                    job.job_id,
                    job.model,
                    job.job_class,
                    job.state,
                    job.items,
                    job.items_done,
                    job.items_failed,
                    job.nodes_at_work,
                    duration(job.age_s),
                    job.idempotency_key,
                )
                for job in _finish(listed())
            ],
        )
    )


@app.command("nodes")
def nodes_command(
    node: Annotated[str, typer.Argument(help="All that is known of this one.", show_default="a list of all")] = "",
    grpc: Grpc = "",
    api_key: ApiKey = "",
) -> None:
    """List every vehicle that the coordinator knows, or tell of one."""
    if node:
        _tell_of(node, grpc, api_key)
        return

    async def listed() -> list[Node]:
        async with Client(_target(grpc), api_key) as client:
            return await client.nodes()

    show(
        Table(
            ("node", "profile", "state", "stays", "leases", "items", "departures", "seen", "models"),
            [
                (
                    node.name,
                    node.profile,
                    node.state,
                    "" if node.state == "away" else duration(node.window_s),
                    node.leases,
                    node.items_done,
                    node.departures,
                    f"{duration(node.heartbeat_age_s)} ago",
                    ",".join(node.models),
                )
                for node in sorted(_finish(listed()), key=lambda node: node.name)
            ],
        )
    )


def _tell_of(name: str, grpc: str, api_key: str) -> None:
    """What the coordinator knows of a vehicle and, of one on this machine, what its own lot does."""

    async def told() -> tuple[Node | None, list[tuple[float, float]], list[str]]:
        async with Client(_target(grpc), api_key) as client:
            why, chances = await client.explain_node(name), await client.forecast(name)
            return next((node for node in await client.nodes() if node.name == name), None), chances, why

    found, chances, why = _finish(told())
    if found is not None:
        window = "" if found.state == "away" else f", stays {duration(found.window_s)}"
        print(f"{name}: profile {found.profile}, {found.state}{window}; models {', '.join(found.models) or 'none'}")
    if chances:
        said = ", ".join(f"{chance:.0%} in {duration(after_s)}" for after_s, chance in chances)
        print(f"forecast: still here {said}, by its own clock")
    entries = () if grpc else entry_points(group="carpool.commands")  # who names a coordinator may mean another's
    for entry in entries:
        of_node = getattr(import_module(entry.module), "of_node", None)
        for line in of_node(name) if of_node is not None else ():
            print(line)
    print(*why, sep="\n")


explain_app = typer.Typer(help="Say why a job waits, or why a vehicle idles.", no_args_is_help=True)
app.add_typer(explain_app, name="explain")


@explain_app.command("job")
def explain_job_command(
    job: Annotated[str, typer.Argument(metavar="JOB", help="As `carpool jobs` lists it.")],
    grpc: Grpc = "",
    api_key: ApiKey = "",
) -> None:
    """Say why what waits of a job waits."""

    async def explained() -> list[str]:
        async with Client(_target(grpc), api_key) as client:
            return await client.explain_job(job)

    print(*_finish(explained()), sep="\n")


@explain_app.command("node")
def explain_node_command(
    node: Annotated[str, typer.Argument(metavar="NODE", help="As `carpool nodes` lists it.")],
    grpc: Grpc = "",
    api_key: ApiKey = "",
) -> None:
    """Say why a vehicle has the work that it has, or none."""

    async def explained() -> list[str]:
        async with Client(_target(grpc), api_key) as client:
            return await client.explain_node(node)

    print(*_finish(explained()), sep="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process with its exit code."""
    for entry in sorted(entry_points(group="carpool.commands"), key=lambda entry: entry.name):
        entry.load()(app)
    try:
        code = app(arguments, standalone_mode=False)
    except CarpoolError as error:
        code = _complain(str(error), error.exit_code)
    except typer.TyperException as error:
        message = error.format_message()  # none after the help of a command without arguments
        code = _complain(message, error.exit_code) if message else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, code: int) -> int:
    print(f"carpool: {message}", file=sys.stderr)
    return code


def _named(mix: str) -> int:
    """How many vehicles a mix like hw4:6,ai5:2 names."""
    return sum(map(int, re.findall(r":([0-9]+)", mix)))


def _stderr() -> Console:
    return Console(stderr=True)


def _target(grpc: str) -> str:
    return grpc or rundir.last_cluster().grpc


def _announce(cluster: rundir.Cluster) -> None:
    with suppress(BrokenPipeError):
        print(f"carpool ready grpc={cluster.grpc} http={cluster.http} metrics={cluster.metrics}", flush=True)
        if sys.stdout.isatty():
            print(f"Clients of OpenAI: http://{cluster.http}/v1   Clients of Triton: {cluster.grpc}", flush=True)


def _finish(work: Coroutine[Any, Any, Result]) -> Result:
    """Its result; SIGTERM cancels it as Ctrl-C does, so that it leaves nothing half done."""

    async def cancellable() -> Result:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise typer.Exit(128 + signal.SIGTERM) from None


if __name__ == "__main__":
    main()
