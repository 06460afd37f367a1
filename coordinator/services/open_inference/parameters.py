"""Parameters of a request: how urgent it is, how long it may take, how text is drawn. Knows no tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from coordinator.services.edge import refuse
from protos import open_inference_pb2 as pb2

_ORDINARY_PRIORITY = 8
"""What priority 0, which says nothing, stands for: seven go before it (assumed)."""

_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")

_TEXT = {
    "max_tokens": (int,),
    "temperature": (int, float),
    "top_p": (int, float),
    "seed": (int,),
    "stop": (str,),
    "ignore_eos": (bool,),
}
"""Of models of kind "generate": fields of the chat body under the same names, and what each is."""

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the parameters of a request say."""

    worth: float = 1.0  # of one item
    timeout_s: float | None = None
    empty_final: bool = False  # a stream's last response is to have no outputs
    text: Mapping[str, object] = field(default_factory=dict)  # fields of the chat body


def read_parameters(request: pb2.ModelInferRequest, kind: str, remaining_s: float | None) -> Parameters:
    """The parameters of a request for a model of this kind, under a call that may take `remaining_s` more."""
    worth, timeout_s, empty_final, text = 1.0, remaining_s, False, {}
    for name in request.parameters:
        value = _value(name, request.parameters[name])
        if name == "priority":
            level = _whole(name, value)
            worth = _ORDINARY_PRIORITY / level if level else 1.0
        elif name == "timeout":
            limit_s = _whole(name, value) / 1e6
            if limit_s:
                timeout_s = limit_s if timeout_s is None else min(timeout_s, limit_s)
        elif name == "triton_enable_empty_final_response":
            if not isinstance(value, bool):
                raise refuse(f"the parameter {name} is {value!r}; give true or false")
            empty_final = value
        elif name in _SEQUENCES:
            if value:
                raise refuse(
                    f"the parameter {name} is {value!r}; models here keep no state between requests: leave it out"
                )
        elif kind == "generate" and name in _TEXT:
            text[name] = _of_text(name, value)
        else:
            known = ["priority", "timeout", *(_TEXT if kind == "generate" else ())]
            raise refuse(f"the parameter {name!r} is not known here; known are {', '.join(known)}")
    return Parameters(worth, timeout_s, empty_final, text)


def _value(name: str, parameter: pb2.InferParameter) -> object:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise refuse(f"the parameter {name!r} came without a value; give it one, or leave it out")
    value: object = getattr(parameter, choice)
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise refuse(f"the parameter {name} is {value!r}; give a whole number of at least 0, 0 for none")
    return value


def _of_text(name: str, value: object) -> object:
    kinds = _TEXT[name]
    fits = isinstance(value, kinds) and isinstance(value, bool) is (kinds == (bool,))
    if not fits or (isinstance(value, float) and not isfinite(value)):
        raise refuse(f"the parameter {name} is {value!r}; give {_WORDS[kinds[-1]]}")
    return value
