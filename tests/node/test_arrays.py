"""Arrays as payloads: what the models read in them is what a text or a picture would have given, and what no model
can read is refused in a sentence."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.models import ModelCache
from node.workloads import BadInput, Control, load, run_alone, vectors
from node.workloads.arrays import array_of
from node.workloads.classify import Classify
from node.workloads.embed import Embed
from tests.node.small_models import picture


@pytest.fixture(scope="module")
def embed(small_cache: ModelCache) -> Embed:
    workload = load(small_cache, "bert")
    assert isinstance(workload, Embed)
    return workload


@pytest.fixture(scope="module")
def classify(small_cache: ModelCache) -> Classify:
    workload = load(small_cache, "efficientnet")
    assert isinstance(workload, Classify)
    return workload


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    """The array in NumPy's file form."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version, allow_pickle=True)
    return file.getvalue()


def headed(header: str, rest: bytes = b"") -> bytes:
    """A file of that form whose header says this."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin1") + rest


def shaped(shape: str, numbers: str = "<f4", rest: bytes = b"") -> bytes:
    return headed(f"{{'descr': '{numbers}', 'fortran_order': False, 'shape': {shape}}}", rest)


def read(result: bytes | BadInput) -> dict[str, Any]:
    assert isinstance(result, bytes), result
    answer: dict[str, Any] = json.loads(result)
    return answer


def logits_of(result: bytes | BadInput) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(read(result)["logits"]), "<f4")


def refusal_of(result: bytes | BadInput) -> str:
    assert isinstance(result, BadInput)
    return str(result)


@pytest.mark.parametrize("numbers", ["<i4", ">i8", "|u1", "<u8"])
def test_the_tokens_of_a_text_give_its_vector(embed: Embed, numbers: str) -> None:
    texts = [b"a car is parked", b"until its owner comes back and then leaves at once", b"car " * 90]
    ids = [item for item in embed.prepare(texts, Control()) if isinstance(item, list)]
    for text, tokens in zip(texts, ids, strict=True):
        by_text, by_tokens = (run_alone(embed, [item])[0] for item in (text, npy(np.array(tokens, numbers))))
        assert by_text == by_tokens
        assert isinstance(by_text, bytes)
        vector, count = vectors.read(by_text)
        assert vector.shape == embed.output_shape
        assert np.linalg.norm(vector) == pytest.approx(1.0)
        assert count == len(tokens)
    assert len(ids[2]) == embed.context_tokens == 64


def test_tokens_are_read_as_they_are_and_as_many_as_count(embed: Embed) -> None:
    ids = [5, 6, 7] * 40
    long, cut, bare = run_alone(embed, [npy(ids), npy(ids[:64]), npy(ids[:3])])
    assert long == cut
    assert isinstance(bare, bytes)
    assert vectors.read(bare)[1] == 3, "no marks are put around them"


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (npy(np.ones(3, np.float32)), "the array is float32 [3]; token numbers are integers [T]"),
        (npy(np.ones((1, 3), int)), "the array is int64 [1, 3]; token numbers are integers [T]"),
        (npy(7), "the array is int64 []; token numbers are integers [T]"),
        (npy([True]), "the array is of bool, not of whole or real numbers"),
        (npy(np.zeros(0, int)), "the array is [0]; it needs 1 to 8 extents, each at least 1"),
        (npy([5, 18]), "the model has no token 18, only 0 to 17; use numbers of its own vocabulary"),
        (npy([5, -1]), "the model has no token -1, only 0 to 17"),
        (npy(np.array([5, 1 << 63], np.uint64)), "the model has no token 9223372036854775808, only 0 to 17"),
    ],
)
def test_arrays_that_are_no_tokens_are_refused(embed: Embed, payload: bytes, why: str) -> None:
    good, bad = run_alone(embed, [b"a car", payload])
    assert isinstance(good, bytes)
    assert refusal_of(bad).startswith(why)


def test_a_tensor_gives_what_the_picture_that_it_is_of_gives(classify: Classify) -> None:
    encoded = [picture(300, 200, "JPEG"), picture(500, 500, "WEBP", seed=2)]
    pixels = [np.asarray(item) for item in classify.decode(encoded, Control())]
    tensors = [((item.astype(np.float32) - 127) / 128).transpose(2, 0, 1) for item in pixels]
    for some, tensor in zip(encoded, tensors, strict=True):
        forms = npy(tensor), npy(np.asfortranarray(tensor), (2, 0)), npy(tensor.astype(">f4"))
        by_picture, by_bytes, *by_tensor = (
            run_alone(classify, [item])[0] for item in (some, npy(np.frombuffer(some, np.uint8)), *forms)
        )
        logits = logits_of(by_bytes)
        assert logits.shape == classify.output_shape
        assert "logits" not in read(by_picture)
        assert read(by_bytes)["classes"] == read(by_picture)["classes"]
        assert by_tensor == [by_bytes] * 3, "to the bit"
        best = read(by_bytes)["classes"][0]
        assert (logits.argmax(), logits.max()) == (best["index"], pytest.approx(best["logit"], abs=1e-5))
    mixed = run_alone(classify, [encoded[0], npy(tensors[1]), npy(tensors[0]), encoded[1]])
    for result, alone in zip(mixed, (run_alone(classify, [item])[0] for item in (encoded * 2)[:2]), strict=False):
        assert [row["index"] for row in read(result)["classes"]] == [row["index"] for row in read(alone)["classes"]]
    assert ["logits" in read(result) for result in mixed] == [False, True, True, False]


def test_arrays_that_are_no_pictures_are_refused_and_leave_the_others_alone(classify: Classify) -> None:
    wanted = "; it must be float32 [3, 224, 224], or uint8 [N] of an encoded picture"
    tensor = np.zeros(classify.input_shape, np.float32)
    holed = tensor.copy()
    holed[1, 2, 3] = np.nan
    good, high, *bad = run_alone(
        classify,
        [
            npy(tensor),
            npy(np.full_like(tensor, 3e38)),
            npy(tensor.astype(np.float64)),
            npy(tensor[:, :100]),
            npy(tensor[np.newaxis]),
            npy(np.zeros(classify.input_shape, np.uint8)),
            npy(holed),
            npy(np.frombuffer(b"hello", np.uint8)),
        ],
    )
    assert all(np.isfinite(logits_of(result)).all() for result in (good, high))
    assert [refusal_of(result) for result in bad] == [
        f"the array is float64 [3, 224, 224]{wanted}",
        f"the array is float32 [3, 100, 224]{wanted}",
        f"the array is float32 [1, 3, 224, 224]{wanted}",
        f"the array is uint8 [3, 224, 224]{wanted}",
        "the array holds a number that is not finite (NaN or infinite); mend it",
        "this is not a picture (JPEG, PNG, WEBP, GIF, BMP are known)",
    ]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\x93NUMPY", "the array is no .npy file that can be read: "),
        (npy([1], (3, 0)), "the array is no .npy file that can be read: version 3.0 of its form is not known"),
        (headed("{" * 900), "the array is no .npy file that can be read: "),
        (headed("(" * 60_000), "the array is no .npy file that can be read: "),
        (headed("{}"), "the array is no .npy file that can be read: "),
        (npy([object()]), "the array is of object, not of whole or real numbers"),
        (npy(np.zeros(2, [("a", "<f4")])), "the array is of "),
        (npy(["text"]), "the array is of <U4, not of whole or real numbers"),
        (
            shaped("(1000000000000,)"),
            "the array is torn: float32 [1000000000000] takes 4,000,000,000,000 bytes",
        ),
        (shaped("(-1, -4)"), "the array is [-1, -4]; it needs 1 to 8 extents, each at least 1"),
        (shaped(str((1,) * 99), rest=bytes(4)), "the array is [1, 1, "),
        (npy([1, 2])[:-1], "the array is torn: int64 [2] takes 16 bytes, and 15 follow"),
        (npy([1, 2]) + b"x", "the array is torn: int64 [2] takes 16 bytes, and 17 follow"),
    ],
)
def test_a_malformed_array_is_refused_by_what_is_wrong(payload: bytes, why: str) -> None:
    with pytest.raises(BadInput) as refused:
        array_of(payload)
    assert str(refused.value).startswith(why)
    assert len(str(refused.value)) < 400


_NUMBERS = ["<f4", ">i8", "|u1", "<f2", "|b1", "|O", "<U3", "<M8[s]", "(2,)<f4", "<f4,<i4", "V9999999999", ""]


_WHOLE = npy([1, 2])
_SHAPES = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=20),
    st.tuples(st.integers(), st.integers(-1, 9)).map(str),
)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.builds(lambda at, some: _WHOLE[:at] + some + _WHOLE[at + 1 :], st.integers(8, 143), st.binary()),
        st.builds(
            shaped,
            _SHAPES,
            st.sampled_from(_NUMBERS),
            st.binary(max_size=40),
        ).filter(lambda payload: len(payload) < 60_000),
    )
)
def test_no_bytes_make_anything_but_an_array_or_a_refusal(rest: bytes) -> None:
    payload = rest if rest.startswith(b"\x93NUMPY") else b"\x93NUMPY\x01\x00" + rest
    try:
        array = array_of(payload)
    except BadInput:
        return
    assert array.nbytes <= len(payload)
