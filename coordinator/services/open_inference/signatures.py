"""Signatures: which tensors a model takes and gives, by its kind and by what its lot says of its shapes.

Knows no request but for its names, datatypes and shapes. A size that no lot told is -1, as one that may be any is.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from coordinator.refusal import Refusal, Refused
from coordinator.services.edge import refuse
from coordinator.services.open_inference.tensors import BYTES, SIZES, Tensor
from coordinator.wire import OfferedModel
from protos import open_inference_pb2 as pb2

ANY = -1
VERSION = "1"
BEST = 5
"""Classes that a car tells by name."""

TEXT, IMAGE, PICTURE, ECHOED = "text_input", "image", "picture", "input"

_HALVES = frozenset({"FP16", "BF16"})


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one tensor; `also` names datatypes that are taken in place of its own."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    also: Collection[str] = ()

    def check(self, tensor: Tensor) -> None:
        """Refuse a tensor that does not fit."""
        if tensor.datatype != self.datatype and tensor.datatype not in self.also:
            raise refuse(f"input {self.name!r} is {tensor.datatype}; give it as {self.datatype}")
        sizes = zip(self.shape, tensor.shape, strict=False)
        if len(self.shape) != len(tensor.shape) or any(own not in (ANY, given) for own, given in sizes):
            shape = "[" + ", ".join("any" if own == ANY else str(own) for own in self.shape) + "]"
            raise refuse(f"input {self.name!r} is of shape {list(tensor.shape)}; give it the shape {shape}")


@dataclass(frozen=True, slots=True)
class Signature:
    """The slots of one model. Of several inputs just one is given."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    decoupled: bool = False  # a stream answers a request in pieces

    def one(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The input of a request; refused when it is not just one of those that there are, or does not fit."""
        slots = {slot.name: slot for slot in self.inputs}
        names = " or ".join(slots)
        for name in tensors:
            if name not in slots:
                raise refuse(f"the model has no input {name!r}; it takes {names}")
        if len(tensors) != 1:
            raise refuse(f"{len(tensors)} inputs came; give one: {names}")
        ((name, tensor),) = tensors.items()
        if self.inputs[0].name != ECHOED:  # which takes any
            slots[name].check(tensor)
        return tensor

    def wanted(self, asked: Collection[pb2.ModelInferRequest.InferRequestedOutputTensor]) -> list[str]:
        """Names of the outputs that a request asks for, all if it names none; refused when one is not known."""
        known = [slot.name for slot in self.outputs]
        wanted = [output.name for output in asked]
        for name in wanted:
            if name not in known:
                raise refuse(f"the model has no output {name!r}; it gives {', '.join(known)}")
            if wanted.count(name) > 1:
                raise refuse(f"output {name!r} is asked for twice; ask once")
        return wanted or known


@lru_cache(1024)
def signature(model: OfferedModel) -> Signature:
    """What this model takes and gives."""
    match model.kind:
        case "embed":
            width = model.output_shape[0] if model.output_shape else ANY
            return Signature((Slot(TEXT, BYTES, (ANY,)),), (Slot("embedding", "FP32", (ANY, width)),))
        case "generate":
            outputs = (
                Slot("text_output", BYTES, (1,)),
                Slot("finish_reason", BYTES, (1,)),
                Slot("prompt_tokens", "UINT32", (1,)),
                Slot("completion_tokens", "UINT32", (1,)),
            )
            return Signature((Slot(TEXT, BYTES, (1,)),), outputs, decoupled=True)
        case "classify":
            image = model.input_shape if len(model.input_shape) == 3 else (3, ANY, ANY)
            classes = model.output_shape[0] if model.output_shape else ANY
            best = min(BEST, classes) if classes != ANY else ANY
            inputs = (Slot(IMAGE, "FP32", (ANY, *image), _HALVES), Slot(PICTURE, BYTES, (ANY,)))
            outputs = (
                Slot("logits", "FP32", (ANY, classes)),
                Slot("label", BYTES, (ANY, best)),
                Slot("index", "INT32", (ANY, best)),
                Slot("probability", "FP32", (ANY, best)),
            )
            return Signature(inputs, outputs)
        case "echo":
            return Signature((Slot(ECHOED, BYTES, (ANY,), SIZES),), (Slot("output", BYTES, (ANY,)),))
        case _:
            raise Refused(
                Refusal.UNAVAILABLE, f"model {model.name!r} is of kind {model.kind!r}, which has no tensors here"
            )


def check_version(model: str, version: str) -> None:
    """Refuse versions that there are not."""
    if version not in ("", VERSION):
        raise Refused(Refusal.NOT_FOUND, f"model {model!r} has no version {version!r}; ask for {VERSION!r} or none")


def metadata(model: OfferedModel) -> pb2.ModelMetadataResponse:
    """What clients are told of a model's tensors."""
    told = signature(model)
    response = pb2.ModelMetadataResponse(name=model.name, versions=[VERSION], platform=_platform(model))
    for slots, tensors in ((told.inputs, response.inputs), (told.outputs, response.outputs)):
        for slot in slots:
            tensors.add(name=slot.name, datatype=slot.datatype, shape=slot.shape)
    return response


def config(model: OfferedModel) -> pb2.ModelConfig:
    """The same as a model configuration: its shapes say all, so there is no batch beside them."""
    told = signature(model)
    response = pb2.ModelConfig(name=model.name, platform=_platform(model), backend=_platform(model))
    response.model_transaction_policy.decoupled = told.decoupled
    for slot in told.inputs:
        response.input.add(
            name=slot.name, data_type=_data_type(slot), dims=slot.shape, optional=len(told.inputs) > 1
        )
    for slot in told.outputs:
        response.output.add(name=slot.name, data_type=_data_type(slot), dims=slot.shape)
    return response


def _data_type(slot: Slot) -> pb2.DataType.ValueType:
    return pb2.TYPE_STRING if slot.datatype == BYTES else pb2.DataType.Value(f"TYPE_{slot.datatype}")


def _platform(model: OfferedModel) -> str:
    return "carpool" if model.kind == "echo" else "pytorch"
