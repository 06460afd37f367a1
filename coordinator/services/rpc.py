"""The gRPC port: the services on it, their health, and reflection, by which callers find them.

Answers go out as they are. grpc.aio could compress them (`set_compression`), but it takes grpc-encoding and
grpc-accept-encoding out of the metadata before a handler sees them (1.81, tried): nobody here knows how a request
came compressed, nor what its caller can read.
"""

import os
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from coordinator.config import LimitSettings
from coordinator.items import MESSAGE_BYTES
from coordinator.keys import Keys
from coordinator.runtime import Runtime
from coordinator.services.edge import Edge, handlers
from coordinator.services.fleet import FleetService
from coordinator.services.jobs import JobService
from coordinator.services.link import LinkService
from coordinator.services.open_inference.public import SERVICE_NAME, PublicName, described
from coordinator.services.open_inference.service import OpenInferenceService
from coordinator.services.transfer import TransferService
from coordinator.services.weights import WeightsService
from coordinator.wire import Terms
from protos import fleet_pb2, jobs_pb2, link_pb2, weights_pb2

_GRACE_S = 1.0  # for calls that are open when the server stops

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server
    ("grpc.http2.lookahead_bytes", 1 << 20),  # on their way before they are asked for: one message of a submission
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
)
_OURS = (jobs_pb2.DESCRIPTOR, fleet_pb2.DESCRIPTOR, link_pb2.DESCRIPTOR, weights_pb2.DESCRIPTOR)
_SERVICES = [service for file in _OURS for service in file.services_by_name.values()]
_NAMES = (*(service.full_name for service in _SERVICES), SERVICE_NAME, health.SERVICE_NAME)


class RpcPort:
    """One server with all of them."""

    def __init__(
        self, runtime: Runtime, keys: Keys, limits: LimitSettings, terms: Terms, ready: Callable[[], bool]
    ) -> None:
        """`terms` are what lots are told when they join; calls that ask for it are told whether it is `ready`."""
        edge = Edge(keys, runtime.metrics)
        self._server = server = grpc.aio.server(options=_OPTIONS)
        services = (
            JobService(runtime, edge, limits),
            FleetService(runtime, edge),
            LinkService(runtime, edge, terms, limits.joins_per_s),
            TransferService(runtime, edge),
            WeightsService(edge, _cache()),
        )
        for of, service in zip(_SERVICES, services, strict=True):
            handler = grpc.method_handlers_generic_handler(of.full_name, handlers(of, service))
            server.add_generic_rpc_handlers((handler,))
        server.add_generic_rpc_handlers((PublicName(OpenInferenceService(runtime, edge, ready)),))
        self._status = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs miss it
        health_pb2_grpc.add_HealthServicer_to_server(self._status, server)
        pool = described([*_OURS, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR])
        reflection.enable_server_reflection([*_NAMES, reflection.SERVICE_NAME], server, pool)

    def listen(self, address: str) -> int:
        """Take an address, port 0 for any: the port. Raises RuntimeError when it is taken or not ours."""
        return self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Serve."""
        await self._server.start()
        for name in ("", *_NAMES):
            await self._status.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Serve nobody any more; calls that are open get one second."""
        await self._status.enter_graceful_shutdown()
        await self._server.stop(_GRACE_S)


def _cache() -> Path:
    """The model cache of this machine, as `carpool models` fills it."""
    return Path(os.environ.get("CARPOOL_CACHE") or Path.home() / ".cache" / "carpool")
