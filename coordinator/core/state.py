"""The state of the core, in one place: the scheduler changes it, views and invariants read it."""

from coordinator.core.events import JobId, Token
from coordinator.core.fleet import Fleet
from coordinator.core.forecast import Survival
from coordinator.core.job import Job
from coordinator.core.lease import Lease
from coordinator.core.settings import SchedulingSettings
from coordinator.core.shares import Shares
from coordinator.core.tally import Tally


class State:
    """Nodes, jobs and leases, and what was counted."""

    __slots__ = (
        "at_work",
        "epoch",
        "fleet",
        "forecast",
        "held",
        "jobs",
        "leases",
        "recalled",
        "settings",
        "shares",
        "tally",
    )

    def __init__(self, settings: SchedulingSettings, epoch: int, forecast: Survival | None = None) -> None:
        self.settings = settings
        self.epoch = epoch  # of this run of the coordinator
        self.fleet = Fleet(settings)
        self.forecast = forecast
        self.jobs: dict[JobId, Job] = {}
        self.at_work: dict[JobId, Job] = {}  # batch jobs that hold leases
        self.leases: dict[Token, Lease] = {}
        self.recalled: set[Token] = set()  # leases whose nodes were asked to give them back; some may have ended
        self.held: dict[int, dict[Token, Lease]] = {}  # by node, those that hold any
        self.shares = Shares(settings.weights)
        self.tally = Tally()
