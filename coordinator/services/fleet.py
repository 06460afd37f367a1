"""FleetService: what operators call."""

from collections.abc import AsyncIterator

from coordinator.keys import Role
from coordinator.runtime import Runtime
from coordinator.services.edge import Context, Edge, refuse, streaming, unary
from protos import fleet_pb2, fleet_pb2_grpc

_PAGE = 1000

_STATES = {
    "idle": fleet_pb2.NODE_STATE_IDLE,
    "busy": fleet_pb2.NODE_STATE_BUSY,
    "cordoned": fleet_pb2.NODE_STATE_CORDONED,
    "withdrawn": fleet_pb2.NODE_STATE_WITHDRAWN,
    "away": fleet_pb2.NODE_STATE_AWAY,
}


class FleetService(fleet_pb2_grpc.FleetServiceServicer):
    """The vehicles, as operators see them."""

    def __init__(self, runtime: Runtime, edge: Edge) -> None:
        self._runtime = runtime
        self.edge = edge

    @streaming("FleetService/ListNodes")
    async def ListNodes(
        self, request: fleet_pb2.ListNodesRequest, context: Context
    ) -> AsyncIterator[fleet_pb2.ListNodesResponse]:
        self.edge.caller(context, Role.OPERATOR)
        nodes = [
            fleet_pb2.Node(
                name=name,
                profile=view.profile,
                lot_id=lot,
                state=_STATES[view.state],
                window_s=view.window_s,
                share=view.share,
                leases=view.leases,
                items_done=view.items_done,
                departures=view.departures,
                heartbeat_age_s=view.silent_s,
                models=view.models,
            )
            for name, lot, view in self._runtime.vehicles.views()
        ]
        for first in range(0, len(nodes), _PAGE):
            yield fleet_pb2.ListNodesResponse(nodes=nodes[first : first + _PAGE])

    @unary("FleetService/ExplainNode")
    async def ExplainNode(
        self, request: fleet_pb2.ExplainNodeRequest, context: Context
    ) -> fleet_pb2.ExplainNodeResponse:
        self.edge.caller(context, Role.OPERATOR)
        sentences = self._runtime.vehicles.explain(request.name)
        stays = [
            fleet_pb2.Chance(after_s=hours * 3600.0, stays=chance)
            for hours, chance in self._runtime.vehicles.chances(request.name)
        ]
        return fleet_pb2.ExplainNodeResponse(sentences=sentences, stays=stays)

    @unary("FleetService/CordonNodes")
    async def CordonNodes(
        self, request: fleet_pb2.CordonNodesRequest, context: Context
    ) -> fleet_pb2.CordonNodesResponse:
        self.edge.caller(context, Role.OPERATOR)
        self._runtime.vehicles.cordon(_some(list(request.names)), request.cordoned)
        return fleet_pb2.CordonNodesResponse()

    @unary("FleetService/DrainNodes")
    async def DrainNodes(
        self, request: fleet_pb2.DrainNodesRequest, context: Context
    ) -> fleet_pb2.DrainNodesResponse:
        self.edge.caller(context, Role.OPERATOR)
        self._runtime.vehicles.drain(_some(list(request.names)))
        return fleet_pb2.DrainNodesResponse()


def _some(names: list[str]) -> list[str]:
    if not names:
        raise refuse("no vehicle is named; name at least one")
    return names
