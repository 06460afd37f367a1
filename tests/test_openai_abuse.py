"""The HTTP front under clients that are wrong, silent, slow or gone: typed errors, and nobody else notices."""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

from coordinator.client import Client
from node import conversion
from tests.hand_lot import HandLot
from tests.live import Cluster, patient_cluster, until, within
from tests.node.small_models import make_bert
from tests.town import MODEL, cache_of

ENCODER = "bert"
WORDS = "words"
SILENT, SLOW = 3_000, 50
SAID_BYTES = 1 << 20
"""Of an answer: more than both ends of a connection keep of it."""
TRIES = 5
"""A machine that is busy with something else keeps everybody waiting: the best of so many counts."""
ROUNDS = 150
EXAMPLES = 12
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator with a lot that offers a small decoder and a small encoder."""
    root = tmp_path_factory.mktemp("models")
    cache = cache_of(root)
    make_bert(root / ENCODER)
    conversion.add(cache, str(root / ENCODER))

    async def offered(live: Cluster) -> None:
        async with Client(live.coordinator.grpc) as client:

            async def look() -> bool | None:
                return {MODEL, ENCODER} <= {model.name for model in await client.models() if model.nodes} or None

            await until(look, 60.0)

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CARPOOL_CACHE", str(cache.root))
        with patient_cluster() as live:
            live.add("lot", "--models", f"{MODEL},{ENCODER}", "--dtype", "fp32")
            asyncio.run(offered(live))
            yield live
            assert "Traceback" not in live.coordinator.errors()


def connect(live: Cluster) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(live.coordinator.addresses["http"], timeout=30)


def post(live: Cluster, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    connection = connect(live)
    try:
        connection.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def chat(**fields: object) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "?"}], **fields}).encode()


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", 400, "the body is not JSON"),
        (b"\xff\xfe", 400, "the body is not UTF-8: byte 0"),
        (b"\x00" * 1000, 400, "the body is not JSON"),
        (b"[]", 400, "the body is []; give an object"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (chat(temperature=float("nan")), 400, "NaN is no number"),
        (chat()[:-1] + b', "seed": %b}' % (b"9" * 5000), 400, "a whole number of over 4300 digits"),
        (chat()[:-1] + b', "temperature": 1e999}', 400, "the number 1e999; the limit is 1.8e+308"),
        (chat(seed=1 << 64), 400, "seed is 18446744073709551616; give a whole number from"),
        (chat(n=True), 400, "n is true; give a whole number"),
        (chat(n=1.5), 400, "n is 1.5; give a whole number"),
        (chat(stop=[""]), 400, 'stop[0] is ""; give a text of at least 1 characters'),
        (chat(stream="yes"), 400, 'stream is "yes"; give true or false'),
        (chat(stream_options=[]), 400, "stream_options is []; give an object"),
        (b'{"model": "a", "model": "b", "messages": []}', 400, "the field 'model' is given twice"),
        (b"{" + b",".join(b'"%d":0' % name for name in range(200_000)) + b',"0":1}', 400, "'0' is given twice"),
        (b'{"messages": [' + b",".join([b"{}"] * 60_000) + b"]}", 400, "the body has over 50000 objects"),
        (chat(messages=[{"role": "user", "content": "\ud800"}]), 400, "half a character"),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 400, "is missing; give a text"),
        (chat(messages="hello"), 400, 'messages is "hello"; give a list'),
        (chat(messages=None), 400, "messages is missing; give a list"),
        (chat(model="\ud800"), 404, "no vehicle here offers model"),
        (chat(model="x" * 256), 404, "no vehicle here offers model"),
        (chat(model="x" * 1_000_000), 400, "give a text of at most 256 characters"),
        (chat(messages=[{"role": "user", "content": "x" * 100_000}]), 400, "100"),
        (chat(user="x" * (4 << 20)), 413, "the limit is 4194304 bytes"),
    ],
)
def test_bad_bodies_are_refused_in_a_sentence(live: Cluster, body: bytes, status: int, why: str) -> None:
    given, answer = post(live, "/v1/chat/completions", body)
    assert (given, why in answer["error"]["message"]) == (status, True), answer
    assert answer["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"input": ""}, 'input is ""'),
        ({"input": []}, "input is []"),
        ({"input": [1, -1]}, "input[1] is -1; give a whole number from 0"),
        ({"input": ["a", 1]}, "input[1] is 1"),
        ({"input": "\ud800"}, "half a character"),
        ({"input": ["a"] * 2049}, "entries"),
        ({"input": "a", "dimensions": 5}, "dimensions is 5"),
        ({"input": "a", "encoding_format": "hex"}, 'give "float" or "base64"'),
        ({"input": "a", "model": MODEL}, "is of kind 'generate'"),
    ],
)
def test_bad_inputs_of_embeddings_are_named(live: Cluster, fields: dict[str, Any], why: str) -> None:
    given, answer = post(live, "/v1/embeddings", json.dumps({"model": ENCODER, **fields}).encode())
    assert (given, why in answer["error"]["message"]) == (400, True), answer


def test_what_is_no_call_of_ours_is_refused_too(live: Cluster) -> None:
    asked: list[tuple[str, str, dict[str, str], int]] = [
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/v1/models/a%2F%ff%00", {}, 404),
        ("DELETE", "/v1/models", {}, 405),
        ("POST", "/v1/embeddings", {"content-type": "text/plain"}, 415),
        ("POST", "/v1/embeddings", {"content-type": "application/json", "content-length": "99999999999"}, 413),
    ]
    for method, path, headers, status in asked:
        connection = connect(live)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("content-type")) == (status, "application/json"), path
        assert answer.getheader("x-request-id", "").startswith("req_")
        assert json.loads(answer.read())["error"]["message"]
        connection.close()


def test_a_request_id_is_taken_over_if_it_is_sane(live: Cluster) -> None:
    for own, kept in (("mine-1", True), ("x" * 129, False), ("a b", False)):
        connection = connect(live)
        connection.request("GET", "/v1/models", headers={"x-request-id": own})
        assert (connection.getresponse().getheader("x-request-id") == own) is kept
        connection.close()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_all_that_the_page_allows_and_forbids_is_answered_as_it_says(live: Cluster, mode: Any) -> None:
    schema = schemathesis.openapi.from_url(f"http://{live.coordinator.addresses['http']}/openapi.json")
    asked = 0
    found: Any
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is schemathesis.GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing in it can be wrong

        @SETTINGS
        @seed(0)
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            if isinstance(case.body, dict):
                if isinstance(case.body.get("model"), str):  # else it is of none that is offered
                    case.body["model"] = ENCODER if case.path == "/v1/embeddings" else MODEL
                if case.path.endswith("completions"):
                    case.body.setdefault("max_tokens", 2)
                for field, most in (("max_tokens", 8), ("max_completion_tokens", 8), ("n", 2)):
                    if type(case.body.get(field)) is int and case.body[field] > most:
                        case.body[field] = most  # what is tried here is the front
            case.call_and_validate(checks=CHECKS, timeout=30)

        ask()
    assert asked > EXAMPLES


def test_silent_sockets_and_slow_readers_hold_up_nobody(live: Cluster) -> None:
    async def ask(healthy: list[float]) -> None:
        """A vector, on a connection of its own."""
        began_s = perf_counter()
        status, answer = await asyncio.to_thread(
            post, live, "/v1/embeddings", json.dumps({"model": ENCODER, "input": "a car"}).encode()
        )
        assert status == 200, answer
        healthy.append(perf_counter() - began_s)

    async def p99_s() -> float:
        healthy: list[float] = []
        for _ in range(ROUNDS):
            await ask(healthy)
        return sorted(healthy)[ROUNDS * 99 // 100]

    async def work() -> None:
        most_s = 2 * await p99_s() + 0.02
        with ExitStack() as sockets:
            silent = [
                sockets.enter_context(socket.create_connection(address(live, port)))
                for port in ("http", "grpc")
                for _ in range(SILENT // 2)
            ]
            async with HandLot(live.coordinator.grpc, "slow", model=WORDS, kind="generate") as car:
                await slow_readers(live, car, sockets)
                during_s = [await p99_s()]
                while during_s[-1] >= most_s and len(during_s) < TRIES:
                    during_s.append(await p99_s())
                assert all(map(is_open, silent)), "they were there all the time"
        assert during_s[-1] < most_s, f"{[round(1e3 * each) for each in during_s]} ms, at most {1e3 * most_s:.0f}"

    within(work())


def address(live: Cluster, name: str = "http") -> tuple[str, int]:
    host, _, port = live.coordinator.addresses[name].rpartition(":")
    return host, int(port)


def is_open(silent: socket.socket) -> bool:
    """Whether the other end has not closed it; what it has said does not matter."""
    silent.setblocking(False)
    try:
        return bool(silent.recv(1 << 16))
    except BlockingIOError:
        return True


async def slow_readers(live: Cluster, car: HandLot, sockets: ExitStack) -> None:
    """Callers whose answers are told, and who read no more than how these begin."""
    body = chat(model=WORDS, stream=True)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    text = "x" * (SAID_BYTES // 16)
    for _ in range(SLOW):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sockets.enter_context(reader)
        await asyncio.to_thread(reader.connect, address(live))
        reader.sendall(head + body)
        token = (await car.granted()).token
        for part in range(16):
            await car.say(token, part, [part], part * len(text), text)
        assert await asyncio.to_thread(reader.recv, 12) == b"HTTP/1.1 200"
