"""The demo's summary: what happened, what it cost, and whether the results are right. Knows no process."""

import json
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.departures import Departure
from benchmarks.story import Comparison, Done, Story

_BAR = 24  # characters of the longest bar
_SHOWN = 3  # answers and photographs shown


def told(departure: Departure) -> str:
    """One car's leaving, in one sentence."""
    leases = f"{departure.leases} live lease{'' if departure.leases == 1 else 's'}"
    if departure.killed:
        return f"{departure.car}: kill -9 of its process, with {leases}"
    stop = f"its work stopped in {departure.stop_s * 1000:.0f} ms"
    return f"{departure.car}: unplugged by its driver, with {leases}; {stop}"


def show(
    story: Story, photographs: Sequence[str], comparisons: Sequence[Comparison], direct_s: float, console: Console
) -> None:
    """Print it."""
    console.print()
    console.print(_jobs(story.done))
    _samples(story.done, photographs, console)
    console.print(_cars(story))
    console.print(_departures(story))
    counts = story.accounts
    share = counts.lost_s / max(counts.useful_s + counts.lost_s, 1e-9)
    console.print(
        f"  Accelerator time: {counts.useful_s:.1f} s useful, {counts.lost_s:.2f} s thrown away and redone "
        f"({share:.1%}). Energy, modelled at the profiles' watts: {counts.energy_modelled_j / 3600:.1f} Wh.\n",
        highlight=False,
    )
    console.print(_compared(comparisons, direct_s))
    for comparison in comparisons:
        for place in comparison.ties:
            console.print(f"  [yellow]hung by a thread:[/] {comparison.model}, {place}", highlight=False)


def _jobs(done: Sequence[Done]) -> Table:
    table = _table("The work", ("model", "items", "", "as", "seconds", "items/s"))
    for job in done:
        items = len(job.results)
        rate = f"{items / job.elapsed_s:,.1f}"
        job_class = "one by one" if job.work.interactive else "one batch"
        table.add_row(job.work.model, f"{items:,}", job.work.name, job_class, f"{job.elapsed_s:.1f}", rate)
    return table


def _samples(done: Sequence[Done], photographs: Sequence[str], console: Console) -> None:
    """A few results for people to look at."""
    _, pictures, prompts = done
    for payload, result in list(zip(prompts.work.inputs, prompts.results, strict=True))[:_SHOWN]:
        prompt = json.loads(payload)["messages"][-1]["content"]
        text = " ".join(json.loads(result)["text"].split())
        console.print(f"  [bold]{prompt}[/] {text} …", highlight=False)
    best = sorted(
        (
            (json.loads(result)["classes"][0], name)
            for result, name in zip(pictures.results, photographs, strict=True)
        ),
        key=lambda pair: -pair[0]["probability"],
    )
    seen = [f"[bold]{name}[/] {row['label']} ({row['probability']:.0%})" for row, name in best[:_SHOWN]]
    console.print(f"  {', '.join(seen)}\n", highlight=False)


def _cars(story: Story) -> Table:
    table = _table("The cars", ("car", "computer", "items", "", "state at the end"))
    most = max(node.items_done for node in story.nodes)
    left = {departure.car: departure for departure in story.departures}
    for node in sorted(story.nodes, key=lambda node: node.name):
        bar = "█" * round(_BAR * node.items_done / max(most, 1))
        departure = left.get(node.name)
        state = "parked" if departure is None else "unplugged" if not departure.killed else "killed"
        if departure is not None and node.state != "away":
            state += ", and back"
        table.add_row(node.name, node.profile, f"{node.items_done:,}", f"[green]{bar}[/]", state)
    return table


def _departures(story: Story) -> Table:
    table = _table("The departures", ("car", "how", "live leases", "work stopped in", "thrown away"))
    for departure in story.departures:
        how, stop = (
            ("kill -9", "at once") if departure.killed else ("unplugged", f"{departure.stop_s * 1000:.0f} ms")
        )
        table.add_row(departure.car, how, str(departure.leases), stop, f"{departure.lost_s:.2f} s")
    return table


def _compared(comparisons: Sequence[Comparison], direct_s: float) -> Table:
    table = _table(
        f"Beside the same models run directly in one process, in fp32 ({direct_s:.0f} s)", ("model", "results")
    )
    for comparison in comparisons:
        mark = "[red]✗[/]" if comparison.wrong else "[green]✓[/]"
        table.add_row(comparison.model, f"{mark} {comparison.verdict}")
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, header_style="dim")
    numbers = ("items", "seconds", "items/s", "live leases", "work stopped in", "thrown away")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left")
    return table
