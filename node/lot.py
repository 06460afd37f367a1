"""A lot: the vehicles of one process and the leases they hold. Events in, orders out.

Pure: no clock, no stream, no executor. `agent` tells it what happened (`handle`), carries out the `Effects`,
and writes what `take` yields. A lease lives here from its grant until the coordinator has acknowledged its
end; a vehicle's departure is told after the ends of its leases, and an offer after the departure before it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

import numpy as np

from node.events import (
    Announced,
    Effects,
    Event,
    InputsFetched,
    PluggedIn,
    Put,
    RefusalsSaid,
    ResidencyChanged,
    ResultPut,
    Said,
    ShutDown,
    Stopped,
    TransferRefused,
    Unplugged,
    Welcomed,
    WindowsEstimated,
    Worked,
)
from node.lease import Lease, size_bytes
from node.messages import (
    Departure,
    DepartureCause,
    DrainAsked,
    EndCause,
    Granted,
    Hello,
    Message,
    ModelOffer,
    Partial,
    Report,
    RevocationCause,
    Revoked,
    Token,
    Vehicle,
    Ways,
)
from node.speeds import Speeds
from node.vehicles import Looked, Nodes, Vehicles

STREAM_PAYLOAD_BYTES = 64 * 1024
"""Larger results go by PutResults, so that a big tensor never holds up a heartbeat."""
MESSAGE_BYTES = 1024 * 1024
"""Results in one message, about: well under gRPC's default cap of 4 MiB."""
PENDING_BYTES = 64 * 1024 * 1024
"""Results that may wait for a stream in an outage; beyond it the leases are given up (assumed)."""
REST_S = 5.0
"""A vehicle whose owner refuses a lease, or that lacks its model, is not offered for so long, lest it be lent the
same again and again."""

_NOTHING_KNOWN = Ways()


class Lot:
    """The state of one lot."""

    def __init__(
        self,
        lot_id: str,
        incarnation: int,
        vehicles: Sequence[Vehicle],
        models: Sequence[ModelOffer],
        ways: Ways = _NOTHING_KNOWN,
        paced: Mapping[str, float] | None = None,  # items a second of one car by its profile, modelled, by model
    ) -> None:
        self._lot_id = lot_id
        self._incarnation = incarnation
        self._speeds = Speeds(models, paced)
        self._leases: dict[Token, Lease] = {}
        self._fresh: dict[Token, Lease] = {}  # those with something to report, in order
        self._fresh_bytes = 0
        self._spoken: dict[Token, Lease] = {}  # those of whose answers more was said
        self._departures: list[Departure] = []
        self._unended = 0
        self._beat = False
        self._shutting_down = False
        self._goodbye_taken = False
        self._pace = ways.pace
        self._booked_pace = ways.pace if paced else 1.0  # energy of paced cars is of their clock's seconds
        self._now_s = 0.0  # of the events that are being handled
        self._refusals: RefusalsSaid | None = None
        self._ended: list[Lease] = []  # by the events that are being handled
        self.vehicles = Vehicles(vehicles, ways)

    @property
    def pending(self) -> bool:
        """Whether `take` may have something to say."""
        news = self._fresh or self._spoken or self._departures or self._beat
        return bool(news or self.vehicles.stale or self._speeds.stale) or (
            self._shutting_down and not self._goodbye_taken
        )

    @property
    def unended(self) -> int:
        """Leases that have not ended, of which there will be more to say."""
        return self._unended

    @property
    def said_goodbye(self) -> bool:
        """Whether the last message was taken."""
        return self._goodbye_taken

    def handle(self, events: Sequence[Event], now_s: float) -> Effects:
        """Apply facts in order; the orders that follow from them."""
        effects = Effects()
        self._now_s = now_s
        for event in events:
            self._apply(event, now_s, effects)
        if self._ended:
            effects.ended.extend(self._ended)
            self._ended.clear()
        return effects

    def hello(self) -> Hello:
        """The first message of a stream."""
        return Hello(
            self._lot_id,
            self._incarnation,
            self.vehicles.rows,
            [lease.held() for lease in self._leases.values()],
        )

    def beat(self) -> None:
        """The next message carries a heartbeat."""
        self._beat = True

    def take(self, now_s: float) -> Iterator[Message]:
        """What is to be written now: what was said, reports, departures, the table, offers and the heartbeat."""
        while self._spoken or self._fresh or self._departures:
            if self._spoken:  # also what came while the last message was written: an answer's end is told last
                yield Message(partials=self._take_partials())
                continue
            reports = self._take_reports()
            departures: Sequence[Departure] = ()
            if not self._fresh:
                departures, self._departures = self._departures, []
            yield Message(reports=reports, departures=departures)
        self._speeds.shared_by(self.vehicles.sharing(now_s))
        models = self._speeds.table(now_s) if self._speeds.stale else ()
        offers = self.vehicles.offers(now_s) if self.vehicles.stale else None
        present, self._beat = (self.vehicles.present() if self._beat else None), False
        goodbye = self._shutting_down and not self.vehicles.serving.any() and not self._goodbye_taken
        if models or offers is not None or present is not None or goodbye:
            self._goodbye_taken = self._goodbye_taken or goodbye
            yield Message(models=models, offers=offers, present=present, goodbye=goodbye)

    def say_again(self, dropped: Sequence[Token]) -> Iterator[Message]:
        """What a new stream is told before all that is not acknowledged, perhaps the end of an answer: what was
        said of answers, since some of what was written last may not have arrived."""
        for lease in self._leases.values():
            if lease.token not in dropped and lease.say_again():
                self._spoken[lease.token] = lease
        while self._spoken:
            yield Message(partials=self._take_partials())

    def forget(self, token: Token) -> None:
        """The end of this lease is acknowledged."""
        self._leases.pop(token, None)

    def live(self, nodes: Nodes) -> int:
        """How many leases these vehicles hold that have not ended."""
        return int(self.vehicles.leases[nodes].sum())

    def solo(self, token: Token) -> bool:
        """Whether this lease is live and may kill the process: it waits until it is announced."""
        lease = self._leases.get(token)
        return lease is not None and lease.solo and lease.ended is None and lease.stopping is None

    def _apply(self, event: Event, now_s: float, effects: Effects) -> None:
        match event:
            case Worked():
                self._worked(event, effects)
            case Granted():
                self._granted(event, effects)
            case Announced(token, items):
                self._announced(token, items)
            case PluggedIn():
                self._plugged_in(event, now_s)
            case WindowsEstimated(nodes, window_s):
                self.vehicles.estimate(nodes, now_s + window_s)
            case Unplugged(nodes):
                self._leave(nodes, effects)
            case Looked():
                self._looked(event, effects)
            case RefusalsSaid():
                self._refuse(event, effects)
            case ShutDown():
                self._shutting_down = True
                self._leave(np.arange(len(self.vehicles)), effects)
            case Welcomed(dropped):
                self._welcomed(dropped, effects)
            case Revoked(token, cause):
                self._revoked(token, cause, effects)
            case DrainAsked(nodes):
                self._drain(np.asarray(nodes, np.intp))
            case InputsFetched(granted):
                lease = self._leases.get(granted.token)
                if lease is not None and lease.ended is None and lease.stopping is None:
                    lease.fetching = False
                    fetched = sum(len(granted.inputs[item]) for item in granted.deferred)
                    self.vehicles.moved_bytes[lease.node] += fetched
                    effects.start.append(granted)
            case TransferRefused(token):
                self._stop(self._leases.get(token), EndCause.REFUSED, effects)
            case Said(token, item):
                lease = self._leases.get(token)
                if lease is not None and lease.ended is None:
                    told = event.reused, event.prompt_tokens, event.likelihoods, event.busy_s
                    lease.say(item, event.first, event.tokens, event.start, event.text, *told)
                    self._spoken[token] = lease
            case ResultPut(token, item):
                self._result_put(token, item)
            case ResidencyChanged(load_s):
                self._speeds.reside(load_s)
            case Stopped(lost_s):
                for token, seconds in lost_s.items():
                    self._stopped(token, seconds)
            case _:
                assert_never(event)

    def _granted(self, granted: Granted, effects: Effects) -> None:
        if granted.token in self._leases:
            return
        lease = self._leases[granted.token] = Lease.of(granted)
        known = granted.node < len(self.vehicles)
        if not known or granted.model not in self._speeds:
            self._report_end(lease, EndCause.REFUSED)
            if known:
                self.vehicles.rest(granted.node, self._now_s + REST_S)
        elif not self.vehicles.works(granted.node):
            here = self.vehicles.serving[granted.node] and not self.vehicles.leaving[granted.node]
            self._report_end(lease, EndCause.WITHHELD if here else EndCause.UNPLUGGED)
        elif self._refused(granted.node, granted.model, granted.tenant):
            self._report_end(lease, EndCause.REFUSED)
            self.vehicles.rest(granted.node, self._now_s + REST_S)
        else:
            self.vehicles.lend(granted.node, 1, self._now_s)
            self.vehicles.moved_bytes[granted.node] += sum(map(len, granted.inputs))
            lease.awake_from_s = self.vehicles.awake_s(granted.node, self._now_s)
            lease.awake_modelled_j = float(self.vehicles.wake_j[granted.node])  # its first pays for waking it
            self.vehicles.wake_j[granted.node] = 0.0
            effects.began.append(lease)
            self._unended += 1
            lease.fetching = bool(granted.deferred)
            (effects.fetch if granted.deferred else effects.start).append(granted)

    def _announced(self, token: Token, items: Sequence[int]) -> None:
        lease = self._leases.get(token)
        if lease is not None and lease.ended is None:
            lease.announce(items)
            self._fresh[token] = lease

    def _worked(self, worked: Worked, effects: Effects) -> None:
        lease = self._leases.get(worked.token)
        if lease is None or lease.ended is not None:
            return
        self._book_awake(lease)
        self.vehicles.moved_bytes[lease.node] += sum(map(len, worked.results))
        lease.useful_s += worked.busy_s
        lease.loading_s += worked.loading_s
        computed_s = worked.paced_s * self._pace if worked.paced_s else worked.busy_s
        at_work_s = computed_s + worked.loading_s
        lease.energy_modelled_j += at_work_s * float(self.vehicles.power_w[lease.node])
        if not lease.interactive and worked.items:
            self._speeds.record(lease.model, len(worked.items), worked.busy_s, worked.paced_s)
        if worked.errors:
            lease.fail(worked.errors)
        items, results = worked.items, worked.results
        if not all(0 < len(result) <= STREAM_PAYLOAD_BYTES for result in results):
            rows = list(zip(items, results, strict=True))  # an empty one in a report stands for one that was put
            apart = [(item, result) for item, result in rows if not 0 < len(result) <= STREAM_PAYLOAD_BYTES]
            lease.putting += len(apart)
            effects.put.extend(Put(lease.token, item, result) for item, result in apart)
            rows = [(item, result) for item, result in rows if 0 < len(result) <= STREAM_PAYLOAD_BYTES]
            items, results = [item for item, _ in rows], [result for _, result in rows]
        self._finish(lease, items, results)
        if worked.last and not lease.putting and not lease.complete:
            self._stop(lease, EndCause.REFUSED, effects)  # the executor gave some of its items up
        if self._fresh_bytes > PENDING_BYTES:
            self._give_up(effects)

    def _finish(self, lease: Lease | None, items: Sequence[int], results: Sequence[bytes]) -> None:
        if lease is None or lease.ended is not None:
            return
        before = lease.fresh_bytes
        lease.finish(items, results)
        self._fresh_bytes += lease.fresh_bytes - before
        self._fresh[lease.token] = lease
        if lease.complete:
            self._end(lease, EndCause.FINISHED)

    def _result_put(self, token: Token, item: int) -> None:
        lease = self._leases.get(token)
        if lease is not None:
            lease.putting -= 1
        self._finish(lease, (item,), (b"",))
        if lease is not None and lease.ended is None and lease.stopped and not lease.putting:
            self._end(lease, EndCause.YIELDED)

    def _give_up(self, effects: Effects) -> None:
        """Too much waits for a stream: results that were not yet taken go, and their leases with them."""
        for lease in [lease for lease in self._fresh.values() if lease.fresh_bytes]:
            lease.discard()
            if lease.ended is not None:
                lease.ended = EndCause.REFUSED
            self._stop(lease, EndCause.REFUSED, effects)
        self._fresh_bytes = 0

    def _plugged_in(self, event: PluggedIn, now_s: float) -> None:
        if self._shutting_down:
            return
        age_s = np.zeros(len(event.nodes)) if event.age_s is None else event.age_s
        since_s, until_s = now_s - age_s / self._pace, now_s + event.window_s
        self.vehicles.arrive(event.nodes, since_s, until_s, event.declared, event.parked)

    def _leave(self, nodes: Nodes, effects: Effects) -> None:
        self.vehicles.returning[nodes] = False
        nodes = nodes[self.vehicles.serving[nodes] & ~self.vehicles.leaving[nodes]]
        self.vehicles.leave(nodes)
        busy = nodes[self.vehicles.leases[nodes] > 0]
        if busy.size:
            taken = frozenset(busy.tolist())
            for lease in self._leases.values():
                if lease.node in taken:
                    self._stop(lease, EndCause.UNPLUGGED, effects)
        self._depart(nodes[self.vehicles.leases[nodes] == 0])

    def _looked(self, looked: Looked, effects: Effects) -> None:
        """Owners' terms end work as an owner does who leaves, but for the car, which is still here."""
        self.vehicles.look(looked)
        if bool((self.vehicles.withheld & (self.vehicles.leases > 0)).any()):
            for lease in self._leases.values():
                if lease.node < len(self.vehicles) and self.vehicles.withheld[lease.node]:
                    self._stop(lease, EndCause.WITHHELD, effects)

    def _refuse(self, refusals: RefusalsSaid, effects: Effects) -> None:
        self._refusals = refusals
        self._speeds.withhold(frozenset.intersection(*refusals.models))
        for lease in self._leases.values():
            if lease.node < len(self.vehicles) and self._refused(lease.node, lease.model, lease.tenant):
                self._stop(lease, EndCause.REFUSED, effects)

    def _refused(self, node: int, model: str, tenant: str) -> bool:
        """Whether this vehicle's owner refuses such work."""
        refusals = self._refusals
        return refusals is not None and (model in refusals.models[node] or tenant in refusals.tenants[node])

    def _book_awake(self, lease: Lease) -> None:
        """What the car around the computer drew for this lease since that was last booked."""
        awake_s = self.vehicles.awake_s(lease.node, self._now_s)
        drawn_s = (awake_s - lease.awake_from_s) * self._booked_pace
        lease.awake_modelled_j += drawn_s * self.vehicles.rows[lease.node].awake_w
        lease.awake_from_s = awake_s

    def _drain(self, nodes: Nodes) -> None:
        """Each departs, and one that is away departs again: who asked took it to be here, and waits for that."""
        nodes = nodes[nodes < len(self.vehicles)]
        self.vehicles.drain(nodes)
        idle = ~self.vehicles.leaving[nodes] & (self.vehicles.leases[nodes] == 0)
        self._depart(nodes[idle])

    def _depart(self, nodes: Nodes) -> None:
        driven = self.vehicles.leaving[nodes] & (not self._shutting_down)
        for node, unplugged in zip(nodes.tolist(), driven.tolist(), strict=True):
            cause = DepartureCause.UNPLUGGED if unplugged else DepartureCause.DRAINED
            self._departures.append(Departure(node, cause))
        self.vehicles.depart(nodes)

    def _welcomed(self, dropped: Sequence[Token], effects: Effects) -> None:
        for token in dropped:
            self._drop(token, effects)
        self.vehicles.retell()
        self._speeds.retell()
        for lease in self._leases.values():
            if lease.announced and lease.ended is None:
                self._fresh[lease.token] = lease  # a restarted coordinator does not know the suspects

    def _revoked(self, token: Token, cause: RevocationCause, effects: Effects) -> None:
        if cause is RevocationCause.UNKNOWN:
            self._drop(token, effects)
        elif cause is RevocationCause.YIELD:
            self._wind_down(self._leases.get(token), effects)
        else:
            self._stop(self._leases.get(token), EndCause.REVOKED, effects)

    def _drop(self, token: Token, effects: Effects) -> None:
        """Not ours any more: stop it and say nothing."""
        lease = self._leases.pop(token, None)
        if lease is None:
            return
        if self._fresh.pop(token, None) is not None:
            self._fresh_bytes -= lease.fresh_bytes
        self._spoken.pop(token, None)
        if lease.ended is None:
            effects.stop.append(token)
            self._release(lease)

    def _stop(self, lease: Lease | None, cause: EndCause, effects: Effects) -> None:
        if lease is not None and lease.ended is None and lease.stopping in (None, EndCause.YIELDED):
            lease.stopping = cause
            effects.stop.append(lease.token)

    def _wind_down(self, lease: Lease | None, effects: Effects) -> None:
        """What runs of it is finished and reported first, unless something else stops it meanwhile."""
        if lease is not None and lease.ended is None and lease.stopping is None:
            lease.stopping = EndCause.YIELDED
            (effects.stop if lease.fetching else effects.wind_down).append(lease.token)

    def _stopped(self, token: Token, lost_s: float) -> None:
        lease = self._leases.get(token)
        if lease is None or lease.ended is not None:
            return
        lease.lost_s += lost_s
        lease.energy_modelled_j += lost_s * float(self.vehicles.power_w[lease.node])
        lease.stopped = True
        if lease.stopping is not EndCause.YIELDED or not lease.putting:
            self._end(lease, lease.stopping or EndCause.REFUSED)

    def _end(self, lease: Lease, cause: EndCause) -> None:
        self._release(lease)
        self._report_end(lease, cause)

    def _report_end(self, lease: Lease, cause: EndCause) -> None:
        lease.ended = cause
        lease.announced = 0
        self._fresh[lease.token] = lease

    def _release(self, lease: Lease) -> None:
        node = lease.node
        self._book_awake(lease)
        self._ended.append(lease)
        self.vehicles.lend(node, -1, self._now_s)
        self._unended -= 1
        due = self.vehicles.leaving[node] or self.vehicles.draining[node]
        if due and self.vehicles.leases[node] == 0:
            self._depart(np.array([node]))

    def _take_partials(self) -> list[Partial]:
        partials: list[Partial] = []
        room = MESSAGE_BYTES
        for token in list(self._spoken):
            if room <= 0:
                break
            said, whole = self._spoken[token].take_said(room)
            partials += said
            room -= sum(map(size_bytes, said))
            if whole:
                del self._spoken[token]
        return partials

    def _take_reports(self) -> list[Report]:
        reports: list[Report] = []
        room = MESSAGE_BYTES
        for token in list(self._fresh):
            if room <= 0:
                break
            lease = self._fresh[token]
            before = lease.fresh_bytes
            report, whole = lease.take(room)
            taken = before - lease.fresh_bytes
            self._fresh_bytes -= taken
            room -= taken + 64  # a report's own fields, about
            reports.append(report)
            if whole:
                del self._fresh[token]
        return reports
