"""What the core found out, in words for people."""

import math

from coordinator.core.events import JobSpec
from coordinator.core.explain import JobExplanation, NodeExplanation, Obstacle, RequestExplanation
from coordinator.core.job import Band, Job
from coordinator.core.plan import Quote
from coordinator.core.settings import SchedulingSettings
from coordinator.units import duration, percent
from coordinator.wire import job_name


def of_refusal(spec: JobSpec, quote: Quote, now_s: float) -> str:
    """Why a job that may be late too often is not taken, in a sentence."""
    when = "nobody can say when it would be done"
    if math.isfinite(quote.finish_s):
        when = f"it is expected to be done in {duration(quote.finish_s - now_s)}"
    return (
        f"the job is {percent(quote.on_time)} sure to be done by its deadline in"
        f" {duration(spec.deadline_s - now_s)}, and at least {percent(spec.least_on_time)} is asked for; {when}:"
        " give it more time, or ask for less"
    )


def of_job(name: str, why: JobExplanation, settings: SchedulingSettings, now_s: float) -> list[str]:
    """Why a job waits, a sentence a line."""
    job, spec = why.job, why.job.spec
    left = spec.items - job.settled
    told = [
        f"{name} ({spec.label}, {spec.model}) has {spec.items:,} items: {job.done:,} done, {job.failed:,} failed, "
        f"{job.lent:,} at work on {_count(why.nodes, 'node')}, {left - job.lent:,} waiting."
    ]
    if not job.ready:
        told.append("It is being recorded; nothing is lent before.")
    elif not job.placeable:
        told.append("Nothing of it waits: all that is left is at work.")
    if job.waiting:
        last = next(reversed(job.waiting.values()))
        told.append(f"{_count(len(job.waiting), 'item')} went wrong and will be tried again: {last.message}")
    if why.ahead_jobs and job.placeable:
        ahead = f"{_count(why.ahead_jobs, 'job')} with {_count(why.ahead_items, 'waiting item')} for {spec.model}"
        first = "goes first" if why.ahead_jobs == 1 else "go first"
        told.append(f"{ahead} {first}: of a tenant that was lent less, or of an earlier deadline or submission.")
    nodes = why.fit + why.obstacles.total()
    if not nodes:
        told.append("No node has joined.")
    elif job.placeable:
        told.append(f"Of {_count(nodes, 'node')} {why.fit:,} {'is' if why.fit == 1 else 'are'} free and fit.")
        held = settings.interactive_in_hand if spec.interactive else settings.slices_in_hand
        for obstacle, count in why.obstacles.most_common():
            told.append(f"  {count:,} {_OBSTACLES[obstacle][count != 1].format(model=spec.model, held=held)}")
    if left and why.items_per_s > 0:
        took = duration(left / why.items_per_s)
        told.append(f"All nodes that run {spec.model} do {why.items_per_s:,.1f} items/s: {took} for what is left.")
    elif left:
        told.append(f"No node that takes work now runs {spec.model}.")
    if why.outlook is not None:
        told += _prospects(job, why.outlook, now_s)
    elif math.isfinite(spec.deadline_s):
        told.append(f"Its deadline is in {duration(max(0.0, spec.deadline_s - now_s))}.")
    return told


def _prospects(job: Job, outlook: Quote, now_s: float) -> list[str]:
    """What the plan makes of a batch job, in a sentence, if it makes anything of it."""
    until_s = job.spec.deadline_s - now_s
    if job.band is Band.LATE or until_s < 0:
        return [f"Its deadline passed {duration(-until_s)} ago; it goes after all others of its tenant."]
    done = "Nobody can say when it is done"
    if math.isfinite(outlook.finish_s):
        done = f"The plan has it done in {duration(outlook.finish_s - now_s)}"
    elif job.band is Band.OPEN:
        return []
    if job.band is Band.OPEN:
        return [f"{done}; it has no deadline: work of its tenant that will make one goes first."]
    deadline = f"its deadline is in {duration(until_s)}, {percent(outlook.on_time)} sure."
    if job.band is Band.PLANNED:
        return [f"{done}; {deadline}"]
    return [
        "The plan has no room for it beside work of more value that is due or expected;"
        f" it gets what is left over, and {deadline}"
    ]


def of_request(model: str, why: RequestExplanation, settings: SchedulingSettings) -> str:
    """Why a request found no node in time, in the rest of a sentence."""
    if why.fit:
        return f"{_count(why.fit, 'vehicle')} could take work for {model} by now: ask again, and allow more time"
    if not why.obstacles:
        return "no vehicle has joined: plug one in"
    held = settings.interactive_in_hand
    kept = [
        f"{count:,} {_OBSTACLES[obstacle][count != 1].format(model=model, held=held)}"
        for obstacle, count in why.obstacles.most_common()
    ]
    when = "nobody can say when one comes: plug one in"
    if math.isfinite(why.back_s):
        when = f"by the forecast one that offers {model} is here within {duration(why.back_s)}, as likely as not"
    if why.obstacles[Obstacle.HANDS_FULL]:
        when = "one is free when an answer ends: allow more time"
    return f"of {_count(why.obstacles.total(), 'vehicle')} {', '.join(kept)}; {when}"


def of_node(name: str, why: NodeExplanation, settings: SchedulingSettings) -> list[str]:
    """Why a node has the work that it has, a sentence a line."""
    held = settings.slices_in_hand
    if why.obstacle is not None:
        told = [f"{name} {_OBSTACLES[why.obstacle][0].format(model='', held=held)}."]
    else:
        told = [f"{name} takes work for {duration(max(0.0, why.window_s))} more, by its own word."]
    for job, items, left_s in why.leases:
        told.append(
            f"It holds {_count(items, 'item')} of {job_name(job)}; the lease runs out in {duration(left_s)}."
        )
    if not why.wanted:
        told.append("No job waits.")
    for wanted in why.wanted:
        model, first = wanted.job.spec.model, job_name(wanted.job.spec.job)
        waits = f"{_count(wanted.jobs, 'job')} {'waits' if wanted.jobs == 1 else 'wait'} for {model}, {first} first"
        if wanted.obstacle is None:
            told.append(f"{waits}: nothing keeps this node from it.")
            continue
        keeps = _OBSTACLES[wanted.obstacle][0].format(model=model, held=held)
        if wanted.obstacle is Obstacle.WINDOW_TOO_SHORT and wanted.speed is not None:
            speed = wanted.speed
            room = f"{settings.window_margin:.0%} of {duration(max(0.0, why.window_s))}"
            keeps += f": {room}, for {duration(speed.load_s)} of loading and {speed.items_per_s:,.2f} items/s"
        if wanted.obstacle is Obstacle.NOT_WORTH_LOADING and wanted.speed is not None:
            keeps += (
                f", and loading takes {duration(wanted.speed.load_s)}: the nodes that have it are expected to take"
                " what waits sooner, or what is loaded here is wanted as much"
            )
        told.append(f"{waits}: this node {keeps}.")
    return told


_OBSTACLES = {  # of one node, of several
    Obstacle.AWAY: ("is away", "are away"),
    Obstacle.LINK_BROKEN: ("has a broken link", "have a broken link"),
    Obstacle.OTHER_MODELS: ("does not offer {model}", "do not offer {model}"),
    Obstacle.WITHDRAWN: ("is here and offers nothing now", "are here and offer nothing now"),
    Obstacle.CORDONED: ("is cordoned", "are cordoned"),
    Obstacle.DRAINING: ("is draining", "are draining"),
    Obstacle.HANDS_FULL: ("holds as many leases as it may, {held}", "hold as many leases as they may, {held}"),
    Obstacle.WINDOW_TOO_SHORT: ("leaves too soon for one item", "leave too soon for one item"),
    Obstacle.NOT_WORTH_LOADING: (
        "does not have {model} loaded",
        "do not have {model} loaded, and it is not worth the time that loading takes",
    ),
    Obstacle.KEPT_FREE: (
        "is kept free for another model that it is to load, lest deadlines pass",
        "are kept free for another model that they are to load, lest deadlines pass",
    ),
    Obstacle.LEAVES_SOON: (
        "will hardly stay until one item is done, against others that may",
        "will hardly stay until one item is done, against others that may",
    ),
    Obstacle.FAILED_THERE: ("is of a lot where what waits went wrong", "are of a lot where what waits went wrong"),
}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
