"""The protocol under its public name: where its calls arrive, and what reflection tells of it.

Its messages are of a package of our own, see protos/open_inference.proto; on the wire nobody can tell.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from coordinator.services.edge import Context, handlers
from coordinator.services.open_inference.service import OpenInferenceService
from protos import open_inference_pb2 as pb2

PACKAGE = "inference"

_SERVICE = pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

SERVICE_NAME = f"{PACKAGE}.{_SERVICE.name}"

if TYPE_CHECKING:
    from coordinator.services.edge import Handler


_BARE = ("ModelInfer", "ModelStreamInfer")
"""Calls that carry tensors: what comes and goes is left as it is on the wire, see `envelope`."""


class PublicName(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Calls of the public service: ours, and for any other one sentence."""

    def __init__(self, service: OpenInferenceService) -> None:
        self._handlers = handlers(_SERVICE, service, _BARE)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """The handler of a call; None: it is of another service."""
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        if service != SERVICE_NAME:
            return None
        return self._handlers.get(method) or grpc.unary_unary_rpc_method_handler(_not_offered(method))


def _not_offered(method: str) -> Any:
    async def tell_so(_: bytes, context: Context) -> None:
        offered = ", ".join(known.name for known in _SERVICE.methods)
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered here; of {SERVICE_NAME} these are: {offered}"
        )

    return tell_so


def described(files: Sequence[FileDescriptor]) -> DescriptorPool:
    """A pool of its own with these files, what they import, and the protocol in its public package."""
    pool, known = DescriptorPool(), set[str]()

    def add(file: FileDescriptor) -> None:
        if file.name in known:
            return
        known.add(file.name)
        for imported in file.dependencies:
            add(imported)
        copy = FileDescriptorProto()
        file.CopyToProto(copy)  # type: ignore[no-untyped-call]
        pool.Add(copy)  # type: ignore[no-untyped-call]

    for file in files:
        add(file)
    public = FileDescriptorProto()
    pb2.DESCRIPTOR.CopyToProto(public)  # type: ignore[no-untyped-call]
    _rename(public)
    pool.Add(public)  # type: ignore[no-untyped-call]
    return pool


def _rename(file: FileDescriptorProto) -> None:
    """Put a file, and all that it says of its own types, into the public package."""
    own, public = f".{file.package}.", f".{PACKAGE}."

    def rename(message: DescriptorProto) -> None:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(own, public, 1)
        for nested in message.nested_type:
            rename(nested)

    for message in file.message_type:
        rename(message)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(own, public, 1)
            method.output_type = method.output_type.replace(own, public, 1)
    file.package = PACKAGE
