"""Protobuf to facts, orders to protobuf. Decides nothing; the one place where durations become instants."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, assert_never

import numpy as np
from numpy.typing import NDArray

from coordinator.core.bits import positions
from coordinator.core.effects import Acknowledge, Disconnect, Drain, Drop, Grant, Order, Revoke
from coordinator.core.events import (
    Beats,
    Cause,
    Event,
    Habits,
    HeldLease,
    JobId,
    LeaseEnd,
    LotId,
    LotJoined,
    ModelSpeed,
    NodesLeft,
    NodesOffered,
    Progressed,
    Report,
    Rows,
    SpeedsMeasured,
    Token,
)
from coordinator.core.forecast import WEEK_H
from coordinator.refusal import Refusal, Refused
from coordinator.streams import Partial
from protos import jobs_pb2, link_pb2

INLINE_BYTES = 64 << 10
"""Inputs and results up to this size travel in the stream; larger ones in calls of their own."""

UNKNOWN = "unknown"
"""The cohort of vehicles of which nothing is known, or whose cohort is not."""

JOULES_A_KWH = 3.6e6

_LEAST_PACE, _MOST_PACE = 1e-3, 1e6
"""Clocks that are slower or faster are taken to run so: a forecast of stays beyond that says nothing."""

_LONGEST_S = 1e7
"""What is told to have taken longer is no duration (assumed): no lease lasts so long, and sums of it are to fit
into the nanoseconds of statistics."""

_CAUSES = {
    link_pb2.DEPARTURE_CAUSE_UNPLUGGED: Cause.UNPLUGGED,
    link_pb2.DEPARTURE_CAUSE_DRAINED: Cause.DRAINED,
}
_ENDS = {
    link_pb2.END_CAUSE_FINISHED: LeaseEnd.FINISHED,
    link_pb2.END_CAUSE_UNPLUGGED: LeaseEnd.UNPLUGGED,
    link_pb2.END_CAUSE_REVOKED: LeaseEnd.REVOKED,
    link_pb2.END_CAUSE_REFUSED: LeaseEnd.REFUSED,
    link_pb2.END_CAUSE_YIELDED: LeaseEnd.YIELDED,
    link_pb2.END_CAUSE_WITHHELD: LeaseEnd.WITHHELD,
}
_REVOCATIONS = {
    "cancelled": link_pb2.REVOCATION_CAUSE_CANCELLED,
    "expired": link_pb2.REVOCATION_CAUSE_EXPIRED,
    "unknown": link_pb2.REVOCATION_CAUSE_UNKNOWN,
    "yield": link_pb2.REVOCATION_CAUSE_YIELD,
}


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """What tenants are told of a model that a lot offers."""

    name: str
    kind: str
    digest: str
    max_item_bytes: int
    input_shape: tuple[int, ...] = ()  # of one item as a tensor; empty: items are no tensors
    output_shape: tuple[int, ...] = ()  # of one result as a tensor; empty: it is none
    context_tokens: int = 0  # of a text that count, or of a prompt with its answer; 0: it reads no text


def job_name(job: JobId) -> str:
    """The name of a job outside of the core."""
    return f"job-{job:08d}"


def job_number(name: str) -> JobId:
    """The job of a name; refused when it is not one."""
    number = name.removeprefix("job-")
    if not number.isascii() or not number.isdigit() or number == name:
        raise Refused(Refusal.NOT_FOUND, f"no job is called {name!r}; `carpool jobs` lists them")
    return JobId(int(number))


def joined(hello: link_pb2.Hello, lot: LotId, rows: Rows) -> LotJoined:
    """A lot's hello, as the fact that it joined."""
    held = tuple(
        HeldLease(
            token(row.token),
            _row(rows, row.node),
            job_number(row.job_id),
            row.model,
            tuple((part.first, part.count) for part in row.ranges),
            int.from_bytes(row.done, "little"),
        )
        for row in hello.held
    )
    power_w = np.array([vehicle.power_w for vehicle in hello.vehicles], np.float64)
    bad = ~(np.isfinite(power_w) & (power_w >= 0.0))
    if bad.any():
        vehicle = hello.vehicles[int(bad.argmax())]
        raise Refused(
            Refusal.BAD_INPUT,
            f"vehicle {vehicle.name} draws power_w = {vehicle.power_w:g}; give a number of at least 0",
        )
    profiles = tuple(vehicle.profile or "unknown" for vehicle in hello.vehicles)
    site = tuple(vehicle.site for vehicle in hello.vehicles)
    return LotJoined(lot, hello.incarnation, rows, profiles, power_w, held, site)


def offered_models(request: link_pb2.ConnectRequest) -> Iterator[OfferedModel]:
    """The models that a message offers."""
    for model in request.models:
        yield OfferedModel(
            model.model,
            model.kind,
            model.digest,
            model.max_item_bytes,
            tuple(model.input_shape),
            tuple(model.output_shape),
            model.context_tokens,
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """What every lot is told when it is welcomed, and what its offers are read by."""

    epoch: int
    heartbeat_s: float
    silent_after_s: float
    cohorts: tuple[str, ...] = ()  # of the forecast, in its order, UNKNOWN among them; empty: there is no forecast
    carbon_price_per_kg: float = 0.0  # of CO2, in the unit of the jobs' values


def payloads(
    request: link_pb2.ConnectRequest, staged: Callable[[Token, int], bytes | None]
) -> list[Sequence[bytes]]:
    """The results of each report of a message, with those that were put ahead of it in their places.

    One that is not here any more (its coordinator or its lease ended since) is struck: its item runs again.
    """
    return [row.results if all(row.results) else _put_before(row, staged) for row in request.reports]


def facts(
    request: link_pb2.ConnectRequest, of: LotJoined, first_serial: int, now_s: float, terms: Terms
) -> Iterator[Event]:
    """What a message of a lot that joined says happened, in order; its reports get serials from `first_serial`
    on."""
    lot, rows = of.lot, of.node
    if request.models:
        yield SpeedsMeasured(lot, {model.model: _speed(model) for model in request.models})
    if request.offers:
        yield _offered(request.offers, of, now_s, terms)
    if request.reports or request.sequence or request.departures:
        reports = tuple(_report(row, first_serial + at) for at, row in enumerate(request.reports))
        yield Progressed(lot, request.sequence, reports, _left(request, rows) if request.departures else None)
    if request.HasField("heartbeat"):
        yield Beats(rows[_present(request.heartbeat.present, len(rows))])


def partials(request: link_pb2.ConnectRequest) -> list[Partial]:
    """What a message says of answers in the making."""
    return [
        Partial(
            token(row.token),
            row.item,
            row.first,
            row.tokens,
            row.start,
            row.text,
            row.reused,
            row.prompt_tokens,
            row.likelihoods,
            _seconds(row.busy_s),
        )
        for row in request.partials
    ]


class Outgoing(NamedTuple):
    """An order with what it takes along."""

    order: Order | Acknowledge
    inputs: Sequence[bytes] = ()  # of a grant
    said: Sequence[int] | None = None  # of the answer to a grant's one item; None: it is not told as it is made


def response(orders: Sequence[Outgoing], index: Sequence[int], terms: Terms) -> link_pb2.ConnectResponse:
    """Orders for one lot as a message; `index` is each row's index in its lot."""
    message = link_pb2.ConnectResponse()
    for order, inputs, said in orders:
        match order:
            case Grant():
                message.grants.append(_grant(order, index[order.node], inputs, said))
            case Acknowledge(_, sequence):
                message.acknowledged = sequence
            case Revoke(_, token, cause):
                message.revocations.add(token=_token_message(token), cause=_REVOCATIONS[cause])
            case Drain(_, nodes):
                message.drain.extend(index[node] for node in nodes)
            case Drop(_, tokens):
                message.welcome.epoch = terms.epoch
                message.welcome.heartbeat_s = terms.heartbeat_s
                message.welcome.silent_after_s = terms.silent_after_s
                message.welcome.dropped.extend(_token_message(token) for token in tokens)
            case Disconnect():
                raise AssertionError("a stream is broken, not told so")
            case _:
                assert_never(order)
    return message


def token(message: link_pb2.Token) -> Token:
    """A token from the wire."""
    return Token(message.epoch, message.attempt)


def _token_message(token: Token) -> link_pb2.Token:
    return link_pb2.Token(epoch=token.epoch, attempt=token.attempt)


def _grant(order: Grant, node: int, inputs: Sequence[bytes], said: Sequence[int] | None) -> link_pb2.Grant:
    deferred = [at for at, payload in enumerate(inputs) if len(payload) > INLINE_BYTES]
    if deferred:
        inputs = [payload if len(payload) <= INLINE_BYTES else b"" for payload in inputs]
    return link_pb2.Grant(
        token=_token_message(order.token),
        node=node,
        model=order.model,
        job_id=job_name(order.job),
        ranges=[link_pb2.Range(first=first, count=count) for first, count in order.ranges],
        inputs=inputs,
        deferred=deferred,
        lease_s=order.lease_s,
        job_class=jobs_pb2.JOB_CLASS_INTERACTIVE if order.interactive else jobs_pb2.JOB_CLASS_BATCH,
        solo=order.solo,
        tenant=order.tenant,
        streamed=said is not None,
        begun=[link_pb2.Begun(item=0, tokens=said)] if said else (),
    )


def _offered(offers: Sequence[link_pb2.Offer], of: LotJoined, now_s: float, terms: Terms) -> NodesOffered:
    indices = [offer.node for offer in offers]
    per_kwh = _column(offers, "price_per_kwh")
    per_kwh += _column(offers, "carbon_g_per_kwh") / 1000.0 * terms.carbon_price_per_kg
    return NodesOffered(
        _rows(of.node, indices),
        _column(offers, "window_s") + now_s,
        _column(offers, "share").clip(0.0, 1.0),
        _habits(offers, terms.cohorts) if terms.cohorts else None,
        # Of the first hour: who is asleep costs the waking, too.
        (of.power_w[indices] / 1000.0 + _column(offers, "wake_modelled_j") / JOULES_A_KWH) * per_kwh,
    )


def _habits(offers: Sequence[link_pb2.Offer], cohorts: Sequence[str]) -> Habits:
    place = {name: at for at, name in enumerate(cohorts)}
    unknown, pace = place[UNKNOWN], _column(offers, "pace")
    return Habits(
        np.array([place.get(offer.cohort, unknown) for offer in offers], np.intp),
        _column(offers, "hour_of_week") % WEEK_H,
        _column(offers, "plugged_in_s"),
        np.where(pace == 0.0, 1.0, pace.clip(_LEAST_PACE, _MOST_PACE)),
        np.array([offer.declared for offer in offers], np.bool_),
    )


def _column(offers: Sequence[link_pb2.Offer], name: str) -> NDArray[np.float64]:
    """A figure of every offer; refused unless all are numbers of at least 0."""
    column = np.array([getattr(offer, name) for offer in offers], np.float64)
    bad = ~(np.isfinite(column) & (column >= 0.0))
    if bad.any():
        at = int(bad.argmax())
        raise Refused(
            Refusal.BAD_INPUT,
            f"vehicle {offers[at].node} is offered with {name} = {column[at]:g}; give a number of at least 0",
        )
    return column


def _report(row: link_pb2.LeaseReport, serial: int) -> Report:
    done = int.from_bytes(row.done, "little")
    if done.bit_count() != len(row.results):
        raise Refused(
            Refusal.BAD_INPUT,
            f"a report names {done.bit_count()} items and brings {len(row.results)} results",
        )
    return Report(
        token(row.token),
        serial,
        done,
        tuple((error.item, error.code, error.message) for error in row.errors) if row.errors else (),
        int.from_bytes(row.running, "little") if row.running else (0 if done else None),
        _ENDS.get(row.cause, LeaseEnd.FINISHED) if row.ended else None,
        _seconds(row.useful_s),
        _seconds(row.lost_s),
        _seconds(row.loading_s),
        row.energy_modelled_j,
        row.awake_modelled_j,
    )


def _seconds(told: float) -> float:
    """What a lot says that something took; 0 for what can be no duration."""
    return told if 0.0 < told < _LONGEST_S else 0.0


def _left(request: link_pb2.ConnectRequest, rows: Rows) -> NodesLeft:
    nodes = _rows(rows, [departure.node for departure in request.departures])
    causes = [_CAUSES.get(departure.cause, Cause.UNPLUGGED) for departure in request.departures]
    return NodesLeft(nodes, np.array(causes, np.uint8))


def _put_before(row: link_pb2.LeaseReport, staged: Callable[[Token, int], bytes | None]) -> Sequence[bytes]:
    done, of = int.from_bytes(row.done, "little"), token(row.token)
    if done.bit_count() != len(row.results):
        return row.results  # `facts` refuses it
    kept: dict[int, bytes] = {}
    for item, result in zip(positions(done), row.results, strict=True):
        payload = result or staged(of, item)
        if payload is not None:
            kept[item] = payload
    if len(kept) < len(row.results):
        row.done = sum(1 << item for item in kept).to_bytes(len(row.done), "little")
        del row.results[len(kept) :]
    return list(kept.values())


def _speed(model: link_pb2.ModelOffer) -> ModelSpeed:
    if not 0 < model.items_per_s < inf:
        raise Refused(
            Refusal.BAD_INPUT, f"model {model.model} is offered at {model.items_per_s} items/s; it must be over 0"
        )
    if not 0 <= model.load_s < inf:
        raise Refused(
            Refusal.BAD_INPUT, f"model {model.model} is offered with load_s = {model.load_s}; it must be at least 0"
        )
    return ModelSpeed(model.items_per_s, model.load_s, max(model.batch_items, 1))


def _rows(rows: Rows, nodes: Sequence[int]) -> Rows:
    indices = np.array(nodes, np.int64)
    if indices.max(initial=0) >= len(rows):
        raise Refused(
            Refusal.BAD_INPUT, f"a row names vehicle {indices.max()}; this lot has said hello with {len(rows)}"
        )
    return rows[indices]


def _row(rows: Rows, node: int) -> int:
    return int(_rows(rows, [node])[0])


def _present(bitmap: bytes, vehicles: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=vehicles, bitorder="little")
    return bits.astype(np.bool_)
