"""Tensors to payloads of items, and results to tensors, by the kind of the model: see protos/jobs.proto.

Knows no call and no parameter but those that become part of a payload.
"""

import json
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator import vectors
from coordinator.refusal import Refusal, Refused
from coordinator.services.edge import refuse
from coordinator.services.open_inference.signatures import BEST, IMAGE
from coordinator.services.open_inference.tensors import Tensor, of_strings
from coordinator.streams import Ending
from coordinator.wire import OfferedModel

MOST_ROWS = 64
"""Items of one request, as of JobService.Run."""


def payloads(kind: str, tensor: Tensor, text: Mapping[str, object]) -> list[bytes]:
    """The items that an input which fits the model's signature brings; `text` is for those of kind "generate"."""
    if kind == "echo":
        return [tensor.raw]
    rows = tensor.shape[0]
    if rows > MOST_ROWS:
        raise refuse(
            f"input {tensor.name!r} has {rows} rows; the limit is {MOST_ROWS} in one request: send several, or"
            " submit a batch job"
        )
    if kind == "embed":
        _texts(tensor)
        return tensor.strings()
    if kind == "generate":
        (said,) = _texts(tensor)
        return [json.dumps({"messages": [{"role": "user", "content": said}], **text}, ensure_ascii=False).encode()]
    if tensor.name == IMAGE:
        return [_array_file(row) for row in tensor.floats()]
    return [_array_file(np.frombuffer(encoded, np.uint8)) for encoded in tensor.strings()]


def _texts(tensor: Tensor) -> list[str]:
    texts = []
    for element, text in enumerate(tensor.strings()):
        try:
            texts.append(text.decode())
        except UnicodeDecodeError as error:
            raise refuse(
                f"element {element} of input {tensor.name!r} is not UTF-8 at byte {error.start}; encode it so"
            ) from None
    return texts


def _array_file(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def answers(
    model: OfferedModel, given: Tensor, results: Sequence[bytes], wanted: Sequence[str], best: Mapping[str, int]
) -> list[Tensor]:
    """The wanted outputs of results, one of each item; `best` says of how many classes an output is to tell.

    Refused when a car's results cannot be read.
    """
    if model.kind == "echo":
        return [Tensor("output", given.datatype, given.shape, results[0])]
    read = _embeddings if model.kind == "embed" else _classes
    try:
        return read(model, results, wanted, best)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Refused(Refusal.FAILED, f"the model's result cannot be read: {error!r}") from None


def _embeddings(
    model: OfferedModel, results: Sequence[bytes], wanted: Sequence[str], best: Mapping[str, int]
) -> list[Tensor]:
    read = [vector for vector, _ in map(vectors.read, results)]
    width = model.output_shape[0] if model.output_shape else len(read[0])
    if any(len(vector) != width for vector in read):
        raise ValueError(f"a vector has not {width} numbers")
    return [Tensor(name, "FP32", (len(read), width), np.stack(read).tobytes()) for name in wanted]


def _classes(
    model: OfferedModel, results: Sequence[bytes], wanted: Sequence[str], best: Mapping[str, int]
) -> list[Tensor]:
    read = [json.loads(result) for result in results]
    rows, count = len(read), len(read[0]["classes"])

    def column(name: str, datatype: str, kind: str) -> Tensor:
        values = np.array([[entry[name] for entry in row["classes"]] for row in read], kind)
        return Tensor(name, datatype, values.shape, values.tobytes())

    def logits() -> Tensor:
        told = np.stack([np.frombuffer(b64decode(row["logits"]), "<f4") for row in read])
        return Tensor("logits", "FP32", told.shape, told.tobytes())

    def labels() -> Tensor:
        return of_strings(
            "label", (rows, count), (entry["label"].encode() for row in read for entry in row["classes"])
        )

    def classification(name: str) -> Tensor:
        told = (
            f"{entry['logit']:f}:{entry['index']}:{entry['label']}".encode()
            for row in read
            for entry in row["classes"][: best[name]]
        )
        return of_strings(name, (rows, min(count, best[name])), told)

    columns: dict[str, Callable[[], Tensor]] = {
        "logits": logits,
        "label": labels,
        "index": lambda: column("index", "INT32", "<i4"),
        "probability": lambda: column("probability", "FP32", "<f4"),
    }
    return [classification(name) if name in best else columns[name]() for name in wanted]


def check_best(name: str, classes: object) -> int:
    """How many classes an output is to tell as text; refused when it cannot."""
    if name != "logits":
        raise refuse(f"output {name!r} has no classification; ask for that of 'logits'")
    if isinstance(classes, bool) or not isinstance(classes, int) or not 1 <= classes <= BEST:
        raise refuse(f"classification is {classes!r}; give 1 to {BEST}, or ask for the logits themselves")
    return classes


def spoken(text: str, end: Ending | None, wanted: Sequence[str]) -> list[Tensor]:
    """The wanted outputs of an answer, or of a piece of it, which has no `end`."""
    tensors = {"text_output": of_strings("text_output", (1,), [text.encode()])}
    if end is not None:
        tensors["finish_reason"] = of_strings("finish_reason", (1,), [end.finish_reason.encode()])
        for name, count in (("prompt_tokens", end.prompt_tokens), ("completion_tokens", end.completion_tokens)):
            tensors[name] = Tensor(name, "UINT32", (1,), count.to_bytes(4, "little"))
    return [tensors[name] for name in wanted if name in tensors]
