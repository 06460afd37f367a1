"""Bytes that are no request: every method of every service of ours says so, and nothing is left in the log."""

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from protos import fleet_pb2, jobs_pb2, link_pb2, open_inference_pb2, weights_pb2
from tests.live import cluster

FILES = (fleet_pb2, jobs_pb2, link_pb2, open_inference_pb2, weights_pb2)
METHODS = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "ModelStreamInfer"  # which tells it in the stream, and goes on
]
NO_REQUEST = b"\xff" * 12


def call(channel: grpc.Channel, method: MethodDescriptor) -> None:
    """Send such bytes, and take whatever comes."""
    public = method.containing_service.full_name.replace("carpool.open_inference.v2", "inference")
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    calling = getattr(channel, kind)(f"/{public}/{method.name}", bytes, bytes)
    answered = calling(iter([NO_REQUEST]) if method.client_streaming else NO_REQUEST, timeout=30.0)
    if method.server_streaming:
        list(answered)


def test_bytes_that_are_no_request_are_refused_in_a_sentence() -> None:
    assert len(METHODS) > 20
    with cluster() as live:
        with grpc.insecure_channel(live.coordinator.grpc) as channel:
            for method in METHODS:
                why = f"12 bytes that came are no {method.input_type.name}; mend the client"
                with pytest.raises(grpc.RpcError, match=why) as refused:
                    call(channel, method)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method.full_name
                told = {each.key: each.value for each in refused.value.trailing_metadata() or ()}
                assert str(told["refusal"]) == "bad_input", method.full_name
            car = link_pb2.Vehicle(name="car", profile="hw4")
            hello = link_pb2.Hello(lot_id="lot", incarnation=1, vehicles=[car])
            first = link_pb2.ConnectRequest(hello=hello).SerializeToString()
            connecting = channel.stream_stream("/carpool.v1.LinkService/Connect", bytes, bytes)
            with pytest.raises(grpc.RpcError, match="12 bytes that came are no ConnectRequest") as refused:
                list(connecting(iter([first, NO_REQUEST]), timeout=30.0))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "refusal" in {each.key for each in refused.value.trailing_metadata() or ()}
        assert not live.coordinator.errors()
