"""The HTTP front under clients that are wrong, silent, slow or gone: typed errors, and nobody else notices."""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from jsonschema_rs import is_valid

from coordinator.client import Client
from node import conversion
from tests.hand_lot import HandLot
from tests.live import Cluster, cluster, patient_cluster, until, within
from tests.node.small_models import make_bert
from tests.town import MODEL, cache_of

ENCODER = "bert"
WIDTH = 32
WORDS = "words"
SILENT, SLOW = 3_000, 50
SAID_BYTES = 1 << 20
"""Of an answer: more than both ends of a connection keep of it."""
TRIES = 5
"""A machine that is busy with something else keeps everybody waiting: the best of so many counts."""
ROUNDS = 150
EXAMPLES = 12
BATCH = 2_000
"""Requests: more than are done in the time of one call."""
LEADING = ("system", "developer")
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
    schemathesis.checks.response_headers_conformance,
    schemathesis.checks.negative_data_rejection,
    schemathesis.checks.positive_data_acceptance,
    schemathesis.checks.unsupported_method,
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
            errors = live.coordinator.errors()
            assert not any(told in errors for told in ("Traceback", "leaves out"))


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
    schema = page_of(live)
    named = things(live)
    well = list[str]()

    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and case.media_type == "application/json":
            case.body = answerable(case.path, case.body, case.operation.body[0].definition["schema"], named)
        if mode is schemathesis.GenerationMode.POSITIVE and "idempotency-key" in (case.headers or {}):
            del case.headers["idempotency-key"]  # one key is one call, and `test_openai` says so
        if case.call_and_validate(checks=CHECKS, timeout=30).status_code == 200:
            well.append(case.operation.label)

    found: Any
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is schemathesis.GenerationMode.POSITIVE or operation.body or operation.query:

            @SETTINGS
            @seed(0)
            @given(operation.as_strategy(generation_mode=mode))
            def ask_some(case: Any) -> None:
                ask(case)

            ask_some()
        for case in cases(operation, mode):
            if mode is schemathesis.GenerationMode.POSITIVE and operation.path_parameters:
                case.path_parameters = {"id": named[operation.label]}
            ask(case)
    if mode is schemathesis.GenerationMode.POSITIVE:
        assert {*well} == {operation.ok().label for operation in schema.get_all_operations()}


def test_the_page_asks_for_the_keys_that_are_asked_for(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[tenants]\na = "tenant-0123456789"\n[nodes]\nb = "node-0123456789ab"\n')
    heard: dict[str, set[int]] = {"tenant-0123456789": set(), "node-0123456789ab": set(), "unknown": set()}
    checks = [*CHECKS, schemathesis.checks.ignored_auth]
    checks.remove(schemathesis.checks.positive_data_acceptance)  # no car offers a model here
    found: Any
    with cluster("--api-keys", str(keys)) as live:
        for found in page_of(live).get_all_operations():
            operation = found.ok()
            for case in cases(operation, schemathesis.GenerationMode.POSITIVE):
                for key, statuses in heard.items():
                    headers = {"Authorization": f"Bearer {key}"}
                    statuses.add(case.call_and_validate(checks=checks, headers=headers, timeout=30).status_code)
        assert "leaves out" not in live.coordinator.errors()
    good, node, unknown = heard.values()
    assert (good & {401, 403}, node, unknown) == (set(), {403}, {401})


def page_of(live: Cluster) -> Any:
    """What is served, as schemathesis understands its page."""
    return schemathesis.openapi.from_url(f"http://{live.coordinator.addresses['http']}/openapi.json")


def cases(operation: Any, mode: Any) -> Iterator[Any]:
    """Each value that is at or over a limit of the page, every method that it does not name, and so on."""
    usual = operation.schema.config.generation_for(operation=operation)
    found: Iterator[Any] = operation.schema.iter_coverage_cases(
        operation, generation_modes=[mode], generation_config=usual
    )
    return found


def things(live: Cluster) -> dict[str, str]:
    """What may be asked for by name, by what asks for it."""
    asked = {"method": "POST", "url": "/v1/embeddings", "body": {"model": ENCODER, "input": "a"}}
    lines = "\n".join(json.dumps({"custom_id": str(number), **asked}) for number in range(BATCH))
    with openai.OpenAI(base_url=f"http://{live.coordinator.addresses['http']}/v1", api_key="none") as client:
        read, deleted, begun = (
            client.files.create(file=("a.jsonl", told.encode()), purpose="batch").id for told in ("{}", "{}", lines)
        )
        batch = client.batches.create(input_file_id=begun, endpoint="/v1/embeddings", completion_window="24h").id
        client.batches.cancel(batch)  # before it ends by itself, after which it cannot be
    return {
        "GET /v1/models/{id}": MODEL,
        "GET /v1/files/{id}": read,
        "GET /v1/files/{id}/content": read,
        "DELETE /v1/files/{id}": deleted,
        "GET /v1/batches/{id}": batch,
        "POST /v1/batches/{id}/cancel": batch,
        "input_file_id": read,
    }


def answerable(path: str, body: dict[str, Any], schema: dict[str, Any], named: dict[str, str]) -> dict[str, Any]:
    """A body, but for what its schema cannot say of it; what is against the schema stays as it is."""
    known = schema["properties"]
    # To JSON Schema 3.0 is a whole number, and to the front, which must pass it on as it came, it is none.
    body = whole(body)
    if path.endswith("completions"):
        # What the page does not name goes to the car, which refuses by name what it does not know.
        # Two fields may contradict each other, and are refused together.
        lone = {"best_of", "top_logprobs"}
        body = {"max_tokens": 2} | {name: value for name, value in body.items() if name in known.keys() - lone}
    for name, value in body.items():
        if name not in known or not is_valid(known[name], value):
            continue
        match name, value:
            case "model", str():  # which there are is not the page's to say
                body[name] = ENCODER if path == "/v1/embeddings" else MODEL
            case (("input" | "prompt"), list()):  # nor which words they know
                body[name] = few_words(value)
            case "messages", list():  # nor in which order their templates take roles
                later = ({**one, "role": "user" if one["role"] in LEADING else one["role"]} for one in value[1:])
                body[name] = [*value[:1], *later]
            case "dimensions", int():  # nor how long their vectors are
                body[name] = WIDTH
            case "input_file_id", str():  # nor which files
                body[name] = named[name]
            case "completion_window", str():  # that a text is a duration
                body[name] = "24h"
            case (("max_tokens" | "max_completion_tokens" | "n"), int()):  # for speed: what is tried is the front
                body[name] = min(value, 2)
    return body


def whole(value: Any) -> Any:
    """The same, with whole numbers written so."""
    match value:
        case dict():
            return {name: whole(one) for name, one in value.items()}
        case list():
            return [whole(one) for one in value]
        case float() if value.is_integer():
            return int(value)
    return value


def few_words(told: Any) -> Any:
    """Token numbers that every vocabulary has."""
    if isinstance(told, list):
        return [few_words(one) for one in told]
    return told % 16 if isinstance(told, int) else told


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
