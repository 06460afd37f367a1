"""The runtime: the loop that drives the core live. It decides nothing.

Owns its turns, its timer and the payloads of reports until their turn is over; puts together those whom its orders
are for. Facts are handed to the core together once a turn of the event loop, so that nothing waits when it is idle
and much goes together when it is busy.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic, perf_counter

from coordinator.catalogue import Catalogue
from coordinator.config import LimitSettings
from coordinator.core.effects import JobRecord, Record, ResultsRecord
from coordinator.core.events import Event, JobId
from coordinator.core.scheduler import Scheduler
from coordinator.inputs import Inputs
from coordinator.jobs import Jobs
from coordinator.lots import Lots
from coordinator.metrics import Metrics
from coordinator.perform import perform
from coordinator.requests import Requests
from coordinator.roster import Roster
from coordinator.shelf import Shelf
from coordinator.staging import Staging
from coordinator.store import Operation, Store
from coordinator.submissions import Submissions
from coordinator.trouble import Trouble
from coordinator.vehicles import Vehicles

_LOG = logging.getLogger(__name__)

_FEW_REQUESTS, _TURN_S = 8, 0.002  # with more open, facts wait so long for company


class Runtime:
    """The live coordinator behind every front."""

    def __init__(
        self, scheduler: Scheduler, store: Store, metrics: Metrics, limits: LimitSettings, newest_job: JobId
    ) -> None:
        """`newest_job` is the last that was recorded before."""
        self._scheduler = scheduler
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._events: list[Event] = []
        self._turn_is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._serial = 1
        self._payloads: dict[int, Sequence[bytes]] = {}  # by serial, until the turn is over
        post = self.post
        self.metrics = metrics
        self.trouble = trouble = Trouble(metrics)
        self.roster = Roster()
        self.catalogue = Catalogue(metrics)
        self.requests = Requests(scheduler, self.catalogue, metrics, limits, post)
        self.jobs = Jobs(scheduler, store, metrics, trouble, post)
        self.submissions = Submissions(
            scheduler, store, self.catalogue, metrics, trouble, self.jobs, newest_job, post, self._post_at_once
        )
        self.vehicles = Vehicles(scheduler, self.roster, post)
        self.lots = Lots(scheduler, self.requests, metrics, post)
        self.inputs = Inputs(scheduler, store, self.requests, trouble, post)
        self.staging = Staging(scheduler.leases)
        self.shelf = Shelf(store.documents, trouble)
        self.send = self.lots.send  # `perform` asks for it

    def keep(self, results: Sequence[Sequence[bytes]]) -> int:
        """Keep the payloads of some reports until their facts are handled; gives the serial of the first."""
        first = self._serial
        self._payloads.update(enumerate(results, first))
        self._serial += len(results)
        return first

    def post(self, *events: Event) -> None:
        """Hand facts to the core: at once when little is going on, else together with those that come after."""
        self._events.extend(events)
        if self._turn_is_due:
            return
        self._turn_is_due = True
        if len(self.requests) <= 1:
            self._turn()
        elif len(self.requests) <= _FEW_REQUESTS:
            self._loop.call_soon(self._turn)
        else:
            self._loop.call_later(_TURN_S, self._turn)

    def _post_at_once(self, event: Event) -> None:
        self._events.append(event)
        self._turn()

    def _turn(self) -> None:
        events, self._events = self._events, []
        try:
            started_s = perf_counter()
            effects = self._scheduler.handle(events, monotonic())
            self.metrics.observe_handle(perf_counter() - started_s)
            self.jobs.ended.clear()  # the core was just told
            perform(effects, self._store, self)
        except Exception as error:
            self.trouble.stop(error)
            return
        self._payloads.clear()
        self._set_timer()
        self._turn_is_due = bool(self._events)  # what the answers gave rise to
        if self._turn_is_due:
            self._loop.call_soon(self._turn)

    def _set_timer(self) -> None:
        wakeup_s = self._scheduler.next_wakeup_s()
        if wakeup_s is None:
            return
        if self._timer is not None:
            if self._timer.when() <= wakeup_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(wakeup_s, self._wake)  # the loop's clock is monotonic(), too

    def _wake(self) -> None:
        self._timer = None
        self.post()

    # What `perform` asks for

    def operation(self, record: Record) -> Operation:
        """A record with the bytes that belong to it."""
        match record:
            case JobRecord(spec):
                return Operation(record, submission=self.submissions.waiting(spec.job))
            case ResultsRecord():
                return Operation(record, payloads=self._payloads[record.serial])
            case _:
                return Operation(record)

    def answer(self, record: Record) -> None:
        """Tell whoever waits."""
        if isinstance(record, JobRecord):
            self.submissions.recorded(record.spec)
        elif not self.requests.take(record, self._payloads):
            self.jobs.take(record)

    def fail(self, records: Sequence[Record], error: Exception) -> None:
        """The store failed: nobody was told anything, and nothing more is told to anybody."""
        _LOG.critical("the store failed on %d records: %s", len(records), error)
        self.trouble.stop(error)
