"""A lot of one car that says on the wire just what a test has it say, and knows nothing of the real one."""

import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import grpc

from protos import link_pb2, link_pb2_grpc

OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
ITEMS_PER_S = 100_000.0
"""So fast that one lease holds all items of a job, up to 4,096."""


class HandLot:
    """One stream of a process that is new with it. It offers `noop`, sends no heartbeats and repeats nothing."""

    def __init__(
        self,
        target: str,
        name: str,
        held: Sequence[link_pb2.HeldLease] = (),
        *,
        model: str = "noop",
        kind: str = "echo",
        incarnation: int = 0,
    ) -> None:
        """Lot and car are both called `name`; `held` are the leases that its hello names. With the `incarnation` of
        another it is the same process again."""
        self.incarnation = incarnation or random.getrandbits(64)
        self._name = name
        self._model, self._kind = model, kind
        self._hello = link_pb2.Hello(
            lot_id=name,
            incarnation=self.incarnation,
            vehicles=[link_pb2.Vehicle(name=name, profile="hw4")],
            held=held,
        )
        self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        self._sequence = 0
        self._grants: list[link_pb2.Grant] = []
        self._revoked: list[link_pb2.Revocation] = []
        self.welcome = link_pb2.Welcome()

    async def __aenter__(self) -> Self:
        stub: link_pb2_grpc.LinkServiceAsyncStub = link_pb2_grpc.LinkServiceStub(self._channel)
        self._stream = stub.Connect(None)
        await self._stream.write(link_pb2.ConnectRequest(hello=self._hello))
        self.welcome = (await self._hear()).welcome
        offered = link_pb2.ModelOffer(
            model=self._model,
            kind=self._kind,
            digest="by hand",
            items_per_s=ITEMS_PER_S,
            batch_items=1,
            max_item_bytes=1 << 20,
        )
        offer = link_pb2.Offer(node=0, window_s=3600.0, share=1.0)
        await self._stream.write(link_pb2.ConnectRequest(models=[offered], offers=[offer]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.cancel()  # closing a channel spares a call in which nobody waits
        await self._channel.close(None)

    async def granted(self) -> link_pb2.Grant:
        """The next grant."""
        while not self._grants:
            await self._hear()
        return self._grants.pop(0)

    async def revoked(self, token: link_pb2.Token) -> link_pb2.RevocationCause.ValueType:
        """Why the coordinator takes this lease back, once it does."""
        while True:
            for revocation in self._revoked:
                if revocation.token == token:
                    return revocation.cause
            self._revoked.extend((await self._hear()).revocations)

    async def report(
        self,
        token: link_pb2.Token,
        results: Mapping[int, bytes],
        *,
        sequence: int = 0,
        ended: bool = False,
        cause: link_pb2.EndCause.ValueType = link_pb2.END_CAUSE_UNSPECIFIED,
        useful_s: float = 0.0,
        lost_s: float = 0.0,
        departs: bool = False,
    ) -> list[link_pb2.Revocation]:
        """Say that these items of a lease are done, by their offsets in it; returns once that is acknowledged, with
        what was revoked meanwhile. Under a `sequence` of before it is an old message sent again; with `departs` its
        driver takes the car."""
        if not sequence:
            sequence = self._sequence = self._sequence + 1
        done = sum(1 << offset for offset in results)
        row = link_pb2.LeaseReport(
            token=token,
            done=done.to_bytes(done.bit_length() // 8 + 1, "little"),
            results=[results[offset] for offset in sorted(results)],
            ended=ended,
            cause=cause,
            useful_s=useful_s,
            lost_s=lost_s,
        )
        left = [link_pb2.Departure(node=0, cause=link_pb2.DEPARTURE_CAUSE_UNPLUGGED)] if departs else []
        await self._stream.write(link_pb2.ConnectRequest(sequence=sequence, reports=[row], departures=left))
        revocations: list[link_pb2.Revocation] = []
        while True:
            response = await self._hear()
            revocations.extend(response.revocations)
            if response.acknowledged == sequence:
                return revocations

    async def say(
        self,
        token: link_pb2.Token,
        first: int,
        tokens: Sequence[int],
        start: int,
        text: str,
        reused: int = 0,
        likelihoods: Sequence[bytes] = (),
        busy_s: float = 0.0,
    ) -> None:
        """Say a part of the answer to the first item, of whose prompt seven tokens were read."""
        partial = link_pb2.Partial(
            token=token,
            first=first,
            tokens=tokens,
            start=start,
            text=text,
            reused=reused,
            prompt_tokens=7,
            likelihoods=likelihoods,
            busy_s=busy_s,
        )
        await self._stream.write(link_pb2.ConnectRequest(partials=[partial]))

    async def _hear(self) -> link_pb2.ConnectResponse:
        response = await self._stream.read()
        assert isinstance(response, link_pb2.ConnectResponse), "the coordinator ended the stream"
        self._grants.extend(response.grants)
        return response
