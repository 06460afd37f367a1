"""Results that no tensor can be made of are refused in a sentence: a vehicle's word is taken for nothing."""

import json
from typing import Any

import numpy as np
import pytest

from coordinator.refusal import Refusal, Refused
from coordinator.services.open_inference.payloads import answers
from coordinator.services.open_inference.tensors import Tensor
from coordinator.wire import OfferedModel

GIVEN = Tensor("text_input", "BYTES", (1,), bytes(5))


def vector(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes() + bytes(4)


def classes(**fields: Any) -> bytes:
    """Of one class; `logits` stand beside it."""
    row = {"label": "car", "index": 1, "logit": 0.5, "probability": 0.5} | fields
    return json.dumps({"classes": [row], "logits": fields.get("logits", "AAAAAA==")}).encode()


@pytest.mark.parametrize(
    ("kind", "results"),
    [
        ("embed", [vector(1.0)]),
        ("embed", [vector(1.0, 2.0, 3.0)]),
        ("embed", [vector(1.0, float("nan"))]),
        ("embed", [vector(1.0, 2.0), b"torn"]),
        ("embed", [vector(1.0, 2.0)[:-1]]),
        ("classify", [b"{}"]),
        ("classify", [b"[" * 100_000]),
        ("classify", [classes(label=None)]),
        ("classify", [classes(index=1 << 40)]),
        ("classify", [classes(logits="AAA=")]),
        ("classify", [classes(), classes(logits="AAAAAAAAAAA=")]),
        ("classify", [classes(), b'{"classes": [], "logits": ""}']),
    ],
)
def test_a_result_that_is_none_is_refused(kind: str, results: list[bytes]) -> None:
    model = OfferedModel("model", kind, "digest", 1 << 20, output_shape=(2,) if kind == "embed" else (1,))
    wanted = ["embedding"] if kind == "embed" else ["logits", "label", "index", "probability"]
    with pytest.raises(Refused, match="the model's result cannot be read") as refused:
        answers(model, GIVEN, results, wanted, {})
    assert refused.value.refusal is Refusal.FAILED


def test_vectors_of_a_width_that_no_lot_told_are_rows() -> None:
    model = OfferedModel("model", "embed", "digest", 1 << 20)
    (told,) = answers(model, GIVEN, [vector(1.0, 2.0), vector(3.0, 4.0)], ["embedding"], {})
    assert (told.datatype, told.shape, told.floats().tolist()) == ("FP32", (2, 2), [[1.0, 2.0], [3.0, 4.0]])
