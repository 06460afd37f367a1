"""The driver's hand, served: plug in and unplug vehicles of this lot, on loopback only."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc

from protos import driver_pb2, driver_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class ParkedVehicle:
    """One vehicle as its driver sees it."""

    name: str
    profile: str
    plugged_in: bool
    window_s: float  # what remains, real seconds
    state_of_charge: float  # 0 to 1, modelled
    leases: int


@dataclass(frozen=True, slots=True)
class Stop:
    """What an unplugging did."""

    stop_s: float  # until the last torch work of these vehicles had ended
    leases: int  # taken away


class Hand(Protocol):
    """What a driver may do with a lot."""

    def parked(self) -> Sequence[ParkedVehicle]: ...

    def index(self, name: str) -> int | None:
        """Which vehicle this is, or None when it is not of this lot."""

    def plug(self, nodes: Sequence[int], window_s: float | None) -> None: ...

    async def unplug(self, nodes: Sequence[int]) -> Stop: ...


class DriverService(driver_pb2_grpc.DriverServiceServicer):
    """DriverService of one lot."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand

    async def ListVehicles(
        self, request: driver_pb2.ListVehiclesRequest, context: Context
    ) -> driver_pb2.ListVehiclesResponse:
        rows = (
            driver_pb2.ParkedVehicle(
                name=vehicle.name,
                profile=vehicle.profile,
                plugged_in=vehicle.plugged_in,
                window_s=vehicle.window_s,
                state_of_charge=vehicle.state_of_charge,
                leases=vehicle.leases,
                process_id=os.getpid(),
            )
            for vehicle in self._hand.parked()
        )
        return driver_pb2.ListVehiclesResponse(vehicles=rows)

    async def PlugIn(self, request: driver_pb2.PlugInRequest, context: Context) -> driver_pb2.PlugInResponse:
        nodes = await self._nodes(request.names, context)
        if not (math.isfinite(request.window_s) and request.window_s >= 0):
            message = f"a window of {request.window_s} s cannot be; give seconds, or 0 for until unplugged"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        self._hand.plug(nodes, request.window_s or None)
        return driver_pb2.PlugInResponse()

    async def Unplug(self, request: driver_pb2.UnplugRequest, context: Context) -> driver_pb2.UnplugResponse:
        stop = await self._hand.unplug(await self._nodes(request.names, context))
        return driver_pb2.UnplugResponse(stop_s=stop.stop_s, leases=stop.leases)

    async def _nodes(self, names: Sequence[str], context: Context) -> list[int]:
        if not names:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "name at least one vehicle")
        nodes = []
        for name in names:
            node = self._hand.index(name)
            if node is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"no vehicle of this lot is called {name!r}")
            else:
                nodes.append(node)
        return nodes


async def serve(hand: Hand) -> tuple[grpc.aio.Server, str]:
    """A running server on a free loopback port, and its address."""
    server = grpc.aio.server(options=(("grpc.enable_http_proxy", 0), ("grpc.so_reuseport", 0)))
    driver_pb2_grpc.add_DriverServiceServicer_to_server(DriverService(hand), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"
