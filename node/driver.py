"""The driver's hand, served: plug in and unplug vehicles of this lot, on loopback only."""

import json
import math
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc

from node.hand import Hand, ParkedVehicle
from protos import driver_pb2, driver_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DriverService(driver_pb2_grpc.DriverServiceServicer):
    """DriverService of one lot."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand

    async def ListVehicles(
        self, request: driver_pb2.ListVehiclesRequest, context: Context
    ) -> driver_pb2.ListVehiclesResponse:
        return driver_pb2.ListVehiclesResponse(vehicles=map(_message, self._hand.parked()))

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

    async def SetTerms(self, request: driver_pb2.SetTermsRequest, context: Context) -> driver_pb2.SetTermsResponse:
        nodes = await self._nodes(request.names, context)
        stop_s = 0.0
        try:
            change = json.loads(request.change) if request.change else {}
            if not isinstance(change, dict):
                raise ValueError(f"a change of terms is {change!r}; it must be a JSON object")
            if change:
                stop_s = await self._hand.set_terms(nodes, change)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        parked = self._hand.parked()
        return driver_pb2.SetTermsResponse(vehicles=[_message(parked[node]) for node in nodes], stop_s=stop_s)

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


def _message(vehicle: ParkedVehicle) -> driver_pb2.ParkedVehicle:
    return driver_pb2.ParkedVehicle(
        name=vehicle.name,
        profile=vehicle.profile,
        plugged_in=vehicle.plugged_in,
        window_s=vehicle.window_s,
        state_of_charge=vehicle.state_of_charge,
        leases=vehicle.leases,
        process_id=os.getpid(),
        terms=json.dumps(vehicle.terms.said()),
        withheld=vehicle.withheld,
        site=vehicle.site,
        day=vehicle.day,
        parked=vehicle.parked,
    )


async def serve(hand: Hand) -> tuple[grpc.aio.Server, str]:
    """A running server on a free loopback port, and its address."""
    server = grpc.aio.server(options=(("grpc.enable_http_proxy", 0), ("grpc.so_reuseport", 0)))
    driver_pb2_grpc.add_DriverServiceServicer_to_server(DriverService(hand), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"
