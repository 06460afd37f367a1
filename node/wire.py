"""Protobuf to plain messages and back: the only place where the node's link meets generated code."""

from node.messages import (
    Answer,
    DrainAsked,
    Granted,
    HeldLease,
    Message,
    ModelOffer,
    Offers,
    Range,
    Report,
    RevocationCause,
    Revoked,
    Token,
    Welcome,
    bitmap_bytes,
)
from protos import jobs_pb2, link_pb2

PARKED = "parked"
"""Cohort of those that are lent off their chargers: no forecast knows it, so they count as unknown."""
_REVOCATIONS = {int(cause): cause for cause in RevocationCause}


class Garbled(ValueError):
    """A message that no coordinator of ours would send."""


def encode(message: Message) -> link_pb2.ConnectRequest:
    """Lot to coordinator."""
    request = link_pb2.ConnectRequest(sequence=message.sequence)
    if message.hello is not None:
        hello = request.hello
        hello.lot_id = message.hello.lot_id
        hello.incarnation = message.hello.incarnation
        for vehicle in message.hello.vehicles:
            hello.vehicles.add(
                name=vehicle.name, profile=vehicle.profile, power_w=vehicle.power_w, site=vehicle.site
            )
        hello.held.extend(_held(held) for held in message.hello.held)
    if message.models:
        request.models.extend(_model(model) for model in message.models)
    if message.offers is not None:
        _add_offers(request, message.offers)
    for report in message.reports:
        _add_report(request, report)
    for departure in message.departures:
        request.departures.add(node=departure.node, cause=link_pb2.DepartureCause.ValueType(departure.cause))
    if message.present is not None:
        request.heartbeat.present = message.present
    if message.goodbye:
        request.goodbye.SetInParent()
    for partial in message.partials:
        request.partials.add(
            token=token_message(partial.token),
            item=partial.item,
            first=partial.first,
            tokens=partial.tokens,
            start=partial.start,
            text=partial.text,
            reused=partial.reused,
            prompt_tokens=partial.prompt_tokens,
            likelihoods=partial.likelihoods,
            busy_s=partial.busy_s,
        )
    return request


def decode(response: link_pb2.ConnectResponse) -> Answer:
    """Coordinator to lot; raises Garbled."""
    welcome = None
    if response.HasField("welcome"):
        told = response.welcome
        if not told.heartbeat_s > 0:
            raise Garbled(f"the coordinator's heartbeat is {told.heartbeat_s} s; it must be over 0")
        dropped = tuple(_token(token) for token in told.dropped)
        welcome = Welcome(told.epoch, told.heartbeat_s, told.silent_after_s, dropped)
    events: list[Revoked | Granted | DrainAsked] = [
        Revoked(_token(row.token), _REVOCATIONS.get(row.cause, RevocationCause.CANCELLED))
        for row in response.revocations
    ]
    events.extend(_granted(grant) for grant in response.grants)
    if response.drain:
        events.append(DrainAsked(tuple(response.drain)))
    return Answer(welcome, response.acknowledged, events)


def token_message(token: Token) -> link_pb2.Token:
    """The token in the wire's form."""
    return link_pb2.Token(epoch=token.epoch, attempt=token.attempt)


def _token(token: link_pb2.Token) -> Token:
    return Token(token.epoch, token.attempt)


def _granted(grant: link_pb2.Grant) -> Granted:
    return Granted(
        token=_token(grant.token),
        node=grant.node,
        model=grant.model,
        job_id=grant.job_id,
        ranges=[Range(row.first, row.count) for row in grant.ranges],
        inputs=list(grant.inputs),
        deferred=tuple(grant.deferred),
        lease_s=grant.lease_s,
        interactive=grant.job_class == jobs_pb2.JOB_CLASS_INTERACTIVE,
        solo=grant.solo,
        tenant=grant.tenant,
        streamed=grant.streamed,
        begun={row.item: tuple(row.tokens) for row in grant.begun},
    )


def _held(held: HeldLease) -> link_pb2.HeldLease:
    return link_pb2.HeldLease(
        token=token_message(held.token),
        node=held.node,
        job_id=held.job_id,
        ranges=[link_pb2.Range(first=row.first, count=row.count) for row in held.ranges],
        done=bitmap_bytes(held.done, held.items),
        model=held.model,
    )


def _model(model: ModelOffer) -> link_pb2.ModelOffer:
    return link_pb2.ModelOffer(
        model=model.model,
        digest=model.digest,
        kind=model.kind,
        items_per_s=model.items_per_s,
        load_s=model.load_s,
        batch_items=model.batch_items,
        max_item_bytes=model.max_item_bytes,
        input_shape=model.input_shape,
        output_shape=model.output_shape,
        context_tokens=model.context_tokens,
    )


def _add_offers(request: link_pb2.ConnectRequest, offers: Offers) -> None:
    ways, stays = offers.ways, (offers.plugged_in_s, offers.declared)
    columns = (offers.node, offers.window_s, offers.share, *stays, offers.wake_j, offers.parked)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for node, window_s, share, plugged_in_s, declared, wake_j, parked in rows:
        request.offers.add(
            node=node,
            window_s=window_s,
            share=share,
            cohort=PARKED if parked else ways.cohorts[node] if ways.cohorts else ways.cohort,
            hour_of_week=offers.hour_of_week,
            plugged_in_s=plugged_in_s,
            pace=ways.pace,
            declared=declared,
            price_per_kwh=ways.price_per_kwh,
            carbon_g_per_kwh=ways.carbon_g_per_kwh,
            wake_modelled_j=wake_j,
        )


def _add_report(request: link_pb2.ConnectRequest, report: Report) -> None:
    row = request.reports.add(
        done=bitmap_bytes(report.done, report.items),
        results=report.results,
        running=bitmap_bytes(report.running, report.items),
        useful_s=report.useful_s,
        lost_s=report.lost_s,
        loading_s=report.loading_s,
        energy_modelled_j=report.energy_modelled_j,
        awake_modelled_j=report.awake_modelled_j,
    )
    row.token.epoch = report.token.epoch
    row.token.attempt = report.token.attempt
    for error in report.errors:
        row.errors.add(item=error.item, code=error.code, message=error.message)
    if report.ended is not None:
        row.ended = True
        row.cause = link_pb2.EndCause.ValueType(report.ended)
