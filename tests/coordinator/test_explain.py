"""Why a job waits and why a car idles: each reason that placement knows, told as it is."""

import numpy as np

from coordinator.core.events import (
    JobId,
    JobsCancelled,
    LeaseEnd,
    LotId,
    ModelSpeed,
    NodesCordoned,
    NodesOffered,
    SpeedsMeasured,
)
from coordinator.core.explain import Obstacle
from coordinator.words import of_job, of_node
from tests.coordinator.fleet import MODEL, Town


def obstacles(town: Town, job: JobId) -> dict[Obstacle, int]:
    """What keeps the cars of a town from a job."""
    why = town.scheduler.explain_job(job, town.now_s)
    assert why is not None
    return dict(why.obstacles)


def job_words(town: Town, job: JobId) -> str:
    why = town.scheduler.explain_job(job, town.now_s)
    assert why is not None
    return "\n".join(of_job(f"job-{job}", why, town.scheduler.settings, town.now_s))


def node_words(town: Town, row: int) -> str:
    why = town.scheduler.explain_node(row, town.now_s)
    assert why is not None
    return "\n".join(of_node(f"car-{row}", why, town.scheduler.settings))


def test_every_car_is_counted_under_what_keeps_it() -> None:
    town = Town()
    town.park(2, lot=0)
    town.park(1, lot=1, first=2, models=("other",))
    town.park(1, lot=2, first=3, window_s=5.0, items_per_s=0.1)
    town.park(2, lot=3, first=4)
    town.step(NodesCordoned(np.array([4], np.int32), True))
    town.unplug(5)
    job = town.submit(10_000)
    assert obstacles(town, job) == {
        Obstacle.HANDS_FULL: 2,
        Obstacle.OTHER_MODELS: 1,
        Obstacle.WINDOW_TOO_SHORT: 1,
        Obstacle.CORDONED: 1,
        Obstacle.AWAY: 1,
    }
    told = job_words(town, job)
    assert "10,000 items: 0 done, 0 failed, 400 at work on 2 nodes, 9,600 waiting." in told
    assert "Of 6 nodes 0 are free and fit." in told
    assert "2 hold as many leases as they may, 2" in told
    assert "1 leaves too soon for one item" in told
    assert f"All nodes that run {MODEL} do 200.1 items/s: 50 s for what is left." in told
    assert "leaves too soon for one item: 90% of 5 s, for 0 s of loading and 0.10 items/s" in node_words(town, 3)
    assert f"1 job waits for {MODEL}, job-00000001 first: this node does not offer {MODEL}." in node_words(town, 2)
    assert node_words(town, 5).startswith("car-5 is away.")
    assert "It holds 100 items of job-00000001; the lease runs out in 35 s." in node_words(town, 0)


def test_what_goes_first_is_told() -> None:
    town = Town()
    first = town.submit(100)
    urgent = town.submit(50, deadline_s=town.now_s + 600)
    last = town.submit(30, deadline_s=town.now_s + 3600)
    assert f"1 job with 50 waiting items for {MODEL} goes first" in job_words(town, last)
    assert f"2 jobs with 80 waiting items for {MODEL} go first" in job_words(town, first)
    assert "go first" not in job_words(town, urgent)
    assert "No node has joined." in job_words(town, urgent)
    assert "Nobody can say when it is done; its deadline is in 10 min 0 s, 0 % sure." in job_words(town, urgent)


def test_an_item_that_went_wrong_waits_for_another_lot_and_says_so() -> None:
    town = Town()
    town.park(1, lot=0)
    job = town.submit(1)
    (grant,) = town.grants()
    other = town.park(1, lot=1, first=1)
    assert not other
    town.step(NodesOffered(np.array([1], np.int32), np.array([town.now_s + 1.0]), np.ones(1) * 1e-6))
    town.report(grant.token, errors=((0, "model", "it raised"),), ended=LeaseEnd.FINISHED)
    assert obstacles(town, job)[Obstacle.FAILED_THERE] == 1
    told = job_words(town, job)
    assert "1 item went wrong and will be tried again: it raised" in told
    assert "1 is of a lot where what waits went wrong" in told


def test_an_idle_car_says_that_nothing_waits() -> None:
    town = Town()
    town.park(1)
    assert town.scheduler.explain_node(1, town.now_s) is None
    assert node_words(town, 0) == "car-0 takes work for 10 h 0 min more, by its own word.\nNo job waits."
    job = town.submit(10)
    assert "Nothing of it waits: all that is left is at work." in job_words(town, job)


def test_a_job_with_a_deadline_says_what_the_plan_makes_of_it() -> None:
    town = Town()
    town.park(1)  # 100 items a second
    planned = town.submit(60_000, deadline_s=town.now_s + 900)
    spare = town.submit(60_000, deadline_s=town.now_s + 1000)
    open_ = town.submit(100)
    told = job_words(town, planned)
    assert "The plan has it done in 10 min 0 s" in told
    assert "; its deadline is in 15 min 0 s, 97.4 % sure." in told
    told = job_words(town, spare)
    assert "The plan has no room for it beside work of more value that is due or expected;" in told
    assert "it gets what is left over, and its deadline is in 16 min 40 s, 2.4 % sure." in told
    told = job_words(town, open_)
    assert "The plan has it done in 10 min 1 s" in told
    assert "; it has no deadline: work of its tenant that will make one goes first." in told
    town.step(after_s=1080.0)
    told = job_words(town, planned)
    assert "Its deadline passed 3 min 0 s ago; it goes after all others of its tenant." in told


def test_what_is_expected_of_a_job_is_what_it_was_quoted() -> None:
    town = Town()
    town.park(2)
    town.submit(30_000, deadline_s=town.now_s + 1000)
    job = town.submit(50_000, deadline_s=town.now_s + 500)
    quote = town.scheduler.quote(town.scheduler.jobs[job].spec, town.now_s)
    why = town.scheduler.explain_job(job, town.now_s)
    assert why is not None
    assert why.outlook is not None
    assert why.outlook.finish_s < quote.finish_s, "quoted anew, it would come after itself"
    town.step(JobsCancelled((job,)))
    quote = town.scheduler.quote(town.scheduler.jobs[job].spec, town.now_s)
    assert abs(why.outlook.finish_s - quote.finish_s) < 5.0


def test_an_interactive_request_is_in_no_plan() -> None:
    town = Town()
    job = town.submit(1, interactive=True, deadline_s=town.now_s + 30)
    told = job_words(town, job)
    assert "Its deadline is in 30 s." in told
    assert "plan" not in told


def test_a_car_that_does_not_load_what_waits_says_why() -> None:
    town = Town()
    speeds = {
        0: {MODEL: ModelSpeed(100.0, 0.0, 8), "big": ModelSpeed(1.0, 60.0, 1)},
        1: {MODEL: ModelSpeed(100.0, 60.0, 8), "big": ModelSpeed(1.0, 0.0, 1)},
    }
    for lot in speeds:
        town.park(1, lot=lot, first=lot)
        town.step(SpeedsMeasured(LotId(lot), speeds[lot]))
    job = town.submit(100, model="big")
    town.step(after_s=town.scheduler.settings.plan_every_s)
    assert obstacles(town, job) == {Obstacle.HANDS_FULL: 1, Obstacle.NOT_WORTH_LOADING: 1}
    assert (
        "1 job waits for big, job-00000001 first: this node does not have big loaded, and loading takes 1 min 0 s:"
        " the nodes that have it are expected to take what waits sooner, or what is loaded here is wanted as much."
    ) in node_words(town, 0)
    assert "1 does not have big loaded" in job_words(town, job)


def test_a_car_that_is_kept_free_for_a_model_it_is_to_load_says_so() -> None:
    town = Town()
    speeds = {MODEL: ModelSpeed(100.0, 0.0, 8), "big": ModelSpeed(1.0, 60.0, 1)}
    for lot, window_s in enumerate((36_000.0, 50.0)):  # the second leaves before it has loaded
        town.park(1, lot=lot, first=lot, window_s=window_s)
        town.step(SpeedsMeasured(LotId(lot), speeds))
    urgent = town.submit(5000, model="big", deadline_s=town.now_s + 4000)
    town.step(after_s=town.scheduler.settings.plan_every_s)
    other = town.submit(1000)
    assert obstacles(town, urgent) == {Obstacle.HANDS_FULL: 1, Obstacle.WINDOW_TOO_SHORT: 1}
    assert obstacles(town, other) == {Obstacle.HANDS_FULL: 1, Obstacle.KEPT_FREE: 1}
    assert "this node is kept free for another model that it is to load, lest deadlines pass." in node_words(
        town, 1
    )
