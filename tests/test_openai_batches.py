"""Files and batches through OpenAI's own client, unmodified: real coordinators with state, real models, and cars
that a test moves by hand where it matters when something happens."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from time import time
from typing import Any

import grpc
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch

from coordinator.client import Client
from coordinator.errors import CarpoolError
from coordinator.store.checks import check
from node import conversion
from node.models import ModelCache
from tests.faults.durable import check_recorded_once, kill, start_again
from tests.hand_lot import HandLot
from tests.live import Cluster, cluster, patient_cluster, until, within
from tests.node.small_models import make_bert
from tests.town import MODEL, cache_of

WORDS = "words"
"""A model whose cars say what a test has them say."""
ENCODER = "bert"
CHAT: Any = "/v1/chat/completions"
TEXT: Any = "/v1/completions"
VECTORS: Any = "/v1/embeddings"
HOUR: Any = "1h"
"""OpenAI knows no window but 24h."""
MANY = 2000
"""Requests: more than a lot does between two looks."""
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all that `live` keeps."""
    return tmp_path_factory.mktemp("batches")


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Cluster]:
    """A coordinator with two tenants, and a lot with a small decoder and a small encoder."""
    cache = cache_of(root)
    make_bert(root / ENCODER)
    conversion.add(cache, str(root / ENCODER))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CARPOOL_CACHE", str(cache.root))
        with patient_cluster("--state", str(root / "state")) as live:
            live.add("lot", "--models", f"{MODEL},{ENCODER}", "--dtype", "fp32")
            yield live
            errors = live.coordinator.errors()
            assert not any(told in errors for told in ("Traceback", "leaves out"))


@pytest.fixture(scope="module")
def client(live: Cluster) -> Iterator[OpenAI]:
    """A client, when the models are offered."""

    async def offered() -> bool | None:
        return {MODEL, ENCODER} <= {model.id for model in asking.models.list()} or None

    with OpenAI(base_url=url(live), api_key="none", max_retries=0) as asking:
        asyncio.run(until(offered, 60.0))
        yield asking


def url(live: Cluster) -> str:
    return f"http://{live.coordinator.addresses['http']}/v1"


@asynccontextmanager
async def caller(live: Cluster) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url(live), api_key="none", max_retries=0) as client:
        yield client


def asks(name: str, body: dict[str, Any], endpoint: Any = CHAT) -> dict[str, Any]:
    """One line of a file."""
    return {"custom_id": name, "method": "POST", "url": endpoint, "body": body}


def chats(count: int, model: str = MODEL, **fields: object) -> list[dict[str, Any]]:
    """So many."""
    return [
        asks(f"chat-{number}", {"model": model, "messages": said(f"where is car {number}?"), **fields})
        for number in range(count)
    ]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def lines(requests: Sequence[object]) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def begin(client: OpenAI, requests: Sequence[object] | bytes, endpoint: Any = CHAT, window: Any = "24h") -> Batch:
    """A batch of these."""
    data = requests if isinstance(requests, bytes) else lines(requests)
    file = client.files.create(file=("asked.jsonl", data), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,
        completion_window=window,
    )


def ended(client: OpenAI, batch: Batch) -> Batch:
    """It, when nothing more happens to it."""

    async def look() -> Batch | None:
        now = client.batches.retrieve(batch.id)
        return now if now.status in ENDED else None

    return asyncio.run(until(look, 60.0))


def answers(client: OpenAI, file: str | None) -> dict[str, dict[str, Any]]:
    """The lines of a file, by custom_id."""
    if file is None:
        return {}
    rows = [json.loads(line) for line in client.files.content(file).text.splitlines()]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows), "a request is answered once"
    return found


def test_chats_of_a_batch_are_answered_as_one_by_one(client: OpenAI) -> None:
    fields: dict[str, Any] = {"max_tokens": 12, "seed": 7, "temperature": 0.5, "logprobs": True, "top_logprobs": 2}
    batch = begin(client, chats(5, **fields))
    assert (batch.status, batch.object, batch.completion_window) == ("validating", "batch", "24h")
    assert batch.expires_at == batch.created_at + 86_400
    done = ended(client, batch)
    assert (done.status, done.error_file_id, done.errors) == ("completed", None, None), done
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 5, "completed": 5, "failed": 0}
    assert done.in_progress_at is not None
    assert done.completed_at is not None
    assert batch.created_at <= done.in_progress_at <= done.completed_at
    found = answers(client, done.output_file_id)
    assert [*found] == [f"chat-{number}" for number in range(5)], "in the order of the requests"
    for number, row in enumerate(found.values()):
        asked = {**chats(5, **fields)[number]["body"]}
        alone = client.chat.completions.create(**asked).to_dict()
        body = row["response"]["body"]
        assert (row["error"], row["response"]["status_code"]) == (None, 200)
        assert len(body["choices"][0]["logprobs"]["content"]) == body["usage"]["completion_tokens"]
        for one in (body, alone):
            del one["choices"][0]["logprobs"]
        assert {**body, "id": "", "created": 0} == {**alone, "id": "", "created": 0}


def test_texts_and_vectors_are_answered_too(client: OpenAI) -> None:
    texts = begin(
        client,
        [
            asks("one", {"model": MODEL, "prompt": "a car", "max_tokens": 5}, TEXT),
            asks("two", {"model": MODEL, "prompt": ["is", "parked"], "n": 2, "max_tokens": 4}, TEXT),
        ],
        TEXT,
    )
    vectors = begin(
        client,
        [
            asks("one", {"model": ENCODER, "input": "a car"}, VECTORS),
            asks("many", {"model": ENCODER, "input": ["a car", "is parked", "until"]}, VECTORS),
            asks("base64", {"model": ENCODER, "input": "owner", "encoding_format": "base64"}, VECTORS),
        ],
        VECTORS,
    )
    done = ended(client, texts)
    assert answers(client, done.error_file_id) == {}
    written = answers(client, done.output_file_id)
    assert [choice["index"] for choice in written["two"]["response"]["body"]["choices"]] == [0, 1, 2, 3]
    for name, prompt, more in (("one", "a car", 5), ("two", ["is", "parked"], 4)):
        alone = client.completions.create(model=MODEL, prompt=prompt, n=1 + (name == "two"), max_tokens=more)
        assert written[name]["response"]["body"]["usage"] == alone.to_dict()["usage"]
        assert written[name]["response"]["body"]["choices"] == alone.to_dict()["choices"]
    found = answers(client, ended(client, vectors).output_file_id)
    alone_many = client.embeddings.create(
        model=ENCODER, input=["a car", "is parked", "until"], encoding_format="float"
    )
    many = found["many"]["response"]["body"]
    assert [row["embedding"] for row in many["data"]] == [row.embedding for row in alone_many.data]
    assert many["usage"] == alone_many.usage.to_dict()
    assert isinstance(found["base64"]["response"]["body"]["data"][0]["embedding"], str)


def test_a_request_that_fails_is_in_the_error_file(client: OpenAI) -> None:
    requests = chats(3, max_tokens=3)
    requests[1]["body"]["messages"] = said("where? " * 2_000)
    done = ended(client, begin(client, requests))
    assert done.status == "completed"
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
    assert [*answers(client, done.output_file_id)] == ["chat-0", "chat-2"]
    (row,) = answers(client, done.error_file_id).values()
    assert (row["custom_id"], row["response"], row["error"]["code"]) == ("chat-1", None, "bad_input")
    assert "tokens" in row["error"]["message"]


GOOD = chats(1)[0]
WRONG: dict[str, tuple[object, str, int | None, str]] = {
    "no JSON": (b"{nothing\n", "invalid_json_line", 1, "line 1 is not JSON"),
    "a list": ([[1]], "invalid_json_line", 1, "line 1 is not a JSON object"),
    "no UTF-8": (b"\xff\xfe\n", "invalid_json_line", 1, "line 1 is not UTF-8 at byte 0"),
    "no custom_id": ([{**GOOD, "custom_id": ""}], "missing_required_parameter", 1, "needs a custom_id"),
    "custom_id twice": ([GOOD, {**GOOD}], "duplicate_custom_id", 2, "'chat-0' of line 1; make it unique"),
    "another url": ([GOOD, {**GOOD, "url": TEXT}], "invalid_url", 2, "for '/v1/chat/completions'; give that one"),
    "another method": ([{**GOOD, "method": "GET"}], "invalid_method", 1, "has the method 'GET'; give \"POST\""),
    "no body": ([{**GOOD, "body": []}], "missing_required_parameter", 1, "needs a body, an object"),
    "no model": ([asks("a", {"messages": said("a")})], "missing_required_parameter", 1, "needs a body.model"),
    "two models": ([GOOD, asks("b", {**GOOD["body"], "model": ENCODER})], "mismatched_model", 2, "and line 1 for"),
    "unknown model": (
        [asks("a", {**GOOD["body"], "model": "none"})],
        "invalid_request",
        1,
        "no vehicle here offers",
    ),
    "wrong kind": ([asks("a", {**GOOD["body"], "model": ENCODER})], "invalid_request", 1, "is of kind 'embed'"),
    "no messages": ([asks("a", {"model": MODEL})], "invalid_request", 1, "messages is missing; give a list"),
    "a stream": ([asks("a", {**GOOD["body"], "stream": True})], "invalid_request", 1, "leave body.stream out"),
    "no text": ([{**GOOD, "custom_id": "a\ud800"}], "invalid_custom_id", 1, "has half a surrogate pair"),
    "no name": ([asks("a", {**GOOD["body"], "model": "\ud800"})], "invalid_request", 1, "no vehicle here offers"),
    "empty lines": (b"\n\n", "empty_file", None, "the file has no request"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_not_sound_fails_the_batch_line_by_line(client: OpenAI, name: str) -> None:
    requests, code, line, told = WRONG[name]
    done = ended(client, begin(client, requests))  # type: ignore[arg-type]
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.failed_at is not None
    assert done.errors is not None
    assert done.errors.data is not None
    (error,) = done.errors.data
    assert (error.code, error.line) == (code, line), error
    assert told in (error.message or ""), error


def test_all_wrong_lines_are_told_together(client: OpenAI) -> None:
    done = ended(client, begin(client, b"{\n" + lines([GOOD]) + b"[]\n\n" + lines([{**GOOD, "method": ""}])))
    assert done.errors is not None
    assert done.errors.data is not None
    assert [error.line for error in done.errors.data] == [1, 3, 5]


def test_a_file_that_was_lost_fails_its_batch_and_says_so(client: OpenAI, root: Path) -> None:
    file = client.files.create(file=("a.jsonl", lines([GOOD])), purpose="batch")
    (root / "state" / "files" / file.id).unlink()
    lost = ended(client, client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=HOUR))
    assert lost.errors is not None
    assert lost.errors.data is not None
    (told,) = lost.errors.data
    assert (told.code, told.message) == ("damaged", f"the content of {file.id} is missing; restore a backup")


def test_files_come_back_are_listed_and_forgotten(client: OpenAI) -> None:
    data = b"parked\n" * 300_000  # more than is handled at once
    file = client.files.create(
        file=("big.jsonl", data), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    other = client.files.create(file=("some/where\\ä b.jsonl", b"x"), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(data), "big.jsonl", "batch")
    assert file.expires_at == file.created_at + 7200
    assert other.filename == "ä b.jsonl"
    assert client.files.content(file.id).read() == data
    assert client.files.retrieve(file.id) == file
    newest = client.files.list(limit=1)
    assert ([row.id for row in newest.data], newest.has_more) == ([other.id], True)
    assert [row.id for row, _ in zip(client.files.list(limit=1), range(2), strict=False)] == [other.id, file.id]
    assert other.id not in [row.id for row in client.files.list(purpose="batch_output")]
    assert client.files.list(order="asc", limit=1).data[0].id != other.id
    assert client.files.delete(file.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="it was deleted, or has expired"):
            gone(file.id)


@pytest.mark.parametrize(
    ("purpose", "data", "more", "told"),
    [
        ("fine-tune", b"x", {}, 'purpose is "fine-tune"; give "batch"'),
        ("batch", b"", {}, "the file is empty"),
        ("batch", b"x", {"expires_after": {"anchor": "created_at", "seconds": 60}}, "from 3600 to 2592000"),
        ("batch", b"x", {"expires_after": {"anchor": "last_active_at", "seconds": 6000}}, 'give "created_at"'),
    ],
)
def test_a_file_that_is_not_taken_is_told_why(
    client: OpenAI, purpose: Any, data: bytes, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=told):
        client.files.create(file=("a.jsonl", data), purpose=purpose, **more)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"endpoint": "/v1/images"}, "endpoint is"),
        ({"completion_window": "soon"}, "'soon' is no duration; give numbers with s, min, h or d"),
        ({"completion_window": "31d"}, "completion_window is '31d'; give 1s to 30d"),
        ({"metadata": {"a": 1}}, "metadata.a is 1; give a text"),
        ({"metadata": {str(number): "" for number in range(17)}}, "give an object of at most 16 entries"),
    ],
)
def test_a_batch_that_is_not_taken_is_told_why(client: OpenAI, fields: dict[str, Any], told: str) -> None:
    file = client.files.create(file=("a.jsonl", lines([GOOD])), purpose="batch")
    with pytest.raises(openai.BadRequestError, match=told):
        client.batches.create(**{"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **fields})


def test_what_is_no_unicode_harms_nobody(client: OpenAI) -> None:
    file = client.files.create(file=("a.jsonl", lines([GOOD])), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", "metadata": {"a": "\ud800"}}

    def post(body: dict[str, Any]) -> Batch:
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        return client.post("/batches", cast_to=Batch, content=content, options={"headers": headers})

    made = post(body)
    assert made.metadata == {"a": "\ud800"}
    assert ended(client, made).status == "completed"
    with pytest.raises(openai.NotFoundError):
        post({**body, "input_file_id": "\ud800"})


def test_one_key_gives_one_file_and_one_batch(client: OpenAI) -> None:
    def send(data: bytes) -> str:
        headers = {"Idempotency-Key": "file key"}
        return client.files.create(file=("a.jsonl", data), purpose="batch", extra_headers=headers).id

    def make(window: Any) -> str:
        headers = {"Idempotency-Key": "batch key"}
        made = client.batches.create(
            input_file_id=first, endpoint=CHAT, completion_window=window, extra_headers=headers
        )
        return made.id

    first = send(lines([GOOD]))
    assert send(lines([GOOD])) == first
    with pytest.raises(openai.ConflictError, match=f"belongs to {first} with other content"):
        send(b"other")
    batch = make("24h")
    assert make("24h") == batch
    with pytest.raises(openai.ConflictError, match=f"belongs to {batch} with other content"):
        make("2h")
    assert [row.id for row in client.batches.list(limit=1)][:1] == [batch]


# A car that is moved by hand: when what happens matters


@asynccontextmanager
async def by_hand(live: Cluster, name: str = "hand") -> AsyncIterator[HandLot]:
    """A car that a test moves, when the coordinator knows of it."""
    async with (
        HandLot(live.coordinator.grpc, name, model=WORDS, kind="generate") as car,
        Client(live.coordinator.grpc) as client,
    ):

        async def offered() -> bool | None:
            return any(one.name == WORDS and one.nodes == 1 for one in await client.models()) or None

        await until(offered)
        yield car


def result(text: str) -> bytes:
    body = {"text": text, "finish_reason": "stop", "prompt_tokens": 7, "completion_tokens": 3}
    return json.dumps(body).encode()


async def begun(client: AsyncOpenAI, requests: Sequence[object], window: Any = "24h", **more: Any) -> Batch:
    file = await client.files.create(file=("asked.jsonl", lines(requests)), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=window, **more)


async def when(client: AsyncOpenAI, batch: Batch, *statuses: str, completed: int = 0) -> Batch:
    """The batch, once it has one of these and so many requests are done."""

    async def look() -> Batch | None:
        try:
            now = await client.batches.retrieve(batch.id)
        except openai.APIConnectionError:  # nobody is there just now
            return None
        counts = now.request_counts
        return now if now.status in statuses and counts is not None and counts.completed >= completed else None

    return await until(look, 60.0)


async def rows(client: AsyncOpenAI, file: str | None) -> dict[str, dict[str, Any]]:
    if file is None:
        return {}
    text = (await client.files.content(file)).text
    found = {row["custom_id"]: row for row in map(json.loads, text.splitlines())}
    assert len(found) == text.count("\n"), "a request is answered once"
    return found


def text_of(row: dict[str, Any]) -> str:
    message: str = row["response"]["body"]["choices"][0]["message"]["content"]
    return message


def test_a_batch_ends_exactly_once_though_its_coordinator_is_killed_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bert(tmp_path / ENCODER)
    cache = ModelCache(tmp_path / "cache")
    conversion.add(cache, str(tmp_path / ENCODER))
    monkeypatch.setenv("CARPOOL_CACHE", str(cache.root))
    state = ("--state", str(tmp_path / "state"))
    requests = [asks(f"car-{n}", {"model": ENCODER, "input": f"is car {n} parked?"}, VECTORS) for n in range(MANY)]

    async def scene(live: Cluster) -> None:
        async with caller(live) as client:
            headers = {"Idempotency-Key": "once"}
            file = await client.files.create(file=("asked.jsonl", lines(requests)), purpose="batch")

            async def make(client: AsyncOpenAI) -> Batch:
                return await client.batches.create(
                    input_file_id=file.id, endpoint=VECTORS, completion_window=HOUR, extra_headers=headers
                )

            async def offered() -> bool | None:
                return ENCODER in [model.id async for model in client.models.list()] or None

            await until(offered)
            batch = await make(client)
            before = await when(client, batch, "in_progress", completed=MANY // 8)
            kill(live)
        assert before.request_counts is not None
        assert before.request_counts.completed < before.request_counts.total == MANY, "it died in the middle"
        await asyncio.to_thread(start_again, live, *state)
        async with caller(live) as client:
            again = await make(client)
            assert again.id == batch.id
            assert again.request_counts is not None
            assert again.request_counts.completed > 0, "what was recorded is known"
            done = await when(client, batch, "completed")
            assert done.request_counts is not None
            assert done.request_counts.model_dump() == {"total": MANY, "completed": MANY, "failed": 0}
            found = await rows(client, done.output_file_id)
            assert [*found] == [request["custom_id"] for request in requests]
            for n in (0, MANY // 2, MANY - 1):
                alone = await client.embeddings.create(**requests[n]["body"], encoding_format="float")
                assert found[f"car-{n}"]["response"]["body"]["data"] == alone.to_dict()["data"]
            assert [row.id async for row in client.batches.list()] == [batch.id]
            kill(live)
        await asyncio.to_thread(start_again, live, *state)
        async with caller(live) as client:
            assert await client.batches.retrieve(batch.id) == done
            assert await rows(client, done.output_file_id) == found
            assert len([row async for row in client.files.list()]) == 2, "nothing was written twice"
            kill(live)

    with cluster(*state) as live:
        live.add("lot", "--models", ENCODER, "--dtype", "fp32")
        within(scene(live))
    check_recorded_once(tmp_path / "state", 1)
    found_state = check(tmp_path / "state")
    assert (found_state.documents, found_state.jobs, found_state.troubles) == (3, 1, [])


@pytest.mark.parametrize(
    "death",
    [
        "after_commit:3",  # the batch is recorded, and nobody was told
        "after_commit:5",  # its job is recorded, and the batch does not say so
        "after_content:2",  # its output is written, and no document names it
        "after_commit:9",  # it has ended, and nobody was told
    ],
)
def test_a_batch_whose_coordinator_dies_at_a_commit_ends_exactly_once(
    death: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"

    async def answer(live: Cluster) -> None:
        """Answer whatever is granted, by coordinators that come and go."""
        for name in count():
            try:
                async with by_hand(live, f"hand-{name}") as car:
                    while True:
                        grant = await car.granted()
                        items = sum(part.count for part in grant.ranges)
                        await car.report(grant.token, {at: result("parked") for at in range(items)}, ended=True)
            except (AssertionError, CarpoolError, grpc.RpcError, asyncio.InvalidStateError):
                await asyncio.to_thread(live.coordinator.process.wait)
                await again.wait()

    async def scene(live: Cluster) -> None:
        async def ask(work: Callable[[AsyncOpenAI], Awaitable[Any]]) -> Any:
            """What a client hears that asks again and again, of whoever serves."""

            async def look() -> Any:
                try:
                    async with caller(live) as client:
                        return await work(client)
                except openai.APIConnectionError:
                    if not again.is_set():
                        assert await asyncio.to_thread(live.coordinator.process.wait, 30) == -signal.SIGKILL
                        monkeypatch.delenv("CARPOOL_FAILPOINT")
                        await asyncio.to_thread(start_again, live, "--state", str(state))
                        again.set()
                    return None

            return await until(look, 60.0)

        async def send(client: AsyncOpenAI) -> str:
            file = ("asked.jsonl", lines(chats(5, WORDS)))
            return (await client.files.create(file=file, purpose="batch", extra_headers=key)).id

        async def make(client: AsyncOpenAI) -> str:
            made = await client.batches.create(
                input_file_id=sent, endpoint=CHAT, completion_window=HOUR, extra_headers=key
            )
            return made.id

        async def done(client: AsyncOpenAI) -> Batch | None:
            now = await client.batches.retrieve(batch)
            return now if now.status in ENDED else None

        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(answer(live))
            sent = await ask(send)
            batch = await ask(make)
            end = await ask(done)
            found = await ask(lambda client: rows(client, end.output_file_id))
            answering.cancel()
        assert end.status == "completed"
        assert [*found] == [f"chat-{number}" for number in range(5)]
        assert again.is_set(), "it died"
        kill(live)

    key = {"Idempotency-Key": "once"}
    again = asyncio.Event()  # another coordinator serves
    monkeypatch.setenv("CARPOOL_FAILPOINT", death)
    with patient_cluster("--state", str(state)) as live:
        within(scene(live))
    sound = check(state)
    assert (sound.documents, sound.jobs, sound.items, sound.troubles) == (3, 1, 5, [])


def test_a_batch_that_is_cancelled_keeps_what_was_done(live: Cluster, client: OpenAI) -> None:
    async def scene() -> None:
        async with caller(live) as client, by_hand(live) as car:
            batch = await begun(client, chats(4, WORDS))
            grant = await car.granted()
            await car.report(grant.token, {2: result("done")})
            await when(client, batch, "in_progress", completed=1)
            with pytest.raises(openai.ConflictError, match=f"{batch.id} reads {batch.input_file_id}; cancel it"):
                await client.files.delete(batch.input_file_id)
            asked = await client.batches.cancel(batch.id)
            assert asked.status in ("cancelling", "cancelled")
            assert asked.cancelling_at is not None
            done = await when(client, batch, "cancelled")
            assert done.request_counts is not None
            assert done.request_counts.model_dump() == {"total": 4, "completed": 1, "failed": 3}
            assert {name: text_of(row) for name, row in (await rows(client, done.output_file_id)).items()} == {
                "chat-2": "done"
            }
            errors = await rows(client, done.error_file_id)
            assert {name: row["error"]["code"] for name, row in errors.items()} == dict.fromkeys(
                ("chat-0", "chat-1", "chat-3"), "batch_cancelled"
            )
            assert (await client.batches.cancel(batch.id)).status == "cancelled"
            await client.files.delete(batch.input_file_id)
            assert done.output_file_id is not None
            await client.files.delete(done.output_file_id)
            assert (await client.batches.retrieve(batch.id)).status == "cancelled"

    within(scene())


def test_a_batch_that_has_ended_is_not_cancelled(client: OpenAI) -> None:
    done = ended(client, begin(client, chats(1, max_tokens=1)))
    with pytest.raises(openai.ConflictError, match="is completed; only a batch that has not ended is cancelled"):
        client.batches.cancel(done.id)


def test_a_batch_expires_when_its_window_is_over(live: Cluster, client: OpenAI) -> None:
    async def scene() -> None:
        async with caller(live) as client, by_hand(live) as car:
            batch = await begun(
                client, chats(3, WORDS), "2s", output_expires_after={"anchor": "created_at", "seconds": 3600}
            )
            grant = await car.granted()
            await car.report(grant.token, {1: result("in time")})
            done = await when(client, batch, "expired")
            assert done.expired_at is not None
            assert done.expires_at == batch.created_at + 2
            assert [*await rows(client, done.output_file_id)] == ["chat-1"]
            output = await client.files.retrieve(done.output_file_id or "")
            assert output.expires_at == output.created_at + 3600, "the anchor is the file's beginning"
            errors = await rows(client, done.error_file_id)
            assert {name: row["error"]["code"] for name, row in errors.items()} == dict.fromkeys(
                ("chat-0", "chat-2"), "batch_expired"
            )

    within(scene())


def test_a_window_that_was_over_while_nobody_served_is_noticed(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))

    async def scene(live: Cluster) -> None:
        async with caller(live) as client, by_hand(live):
            batch = await begun(client, chats(3, WORDS), "3s")
            await when(client, batch, "in_progress")
            kill(live)

            async def over() -> bool | None:
                return time() > batch.created_at + 4 or None  # by the wall clock, in whole seconds

            await until(over)
        await asyncio.to_thread(start_again, live, *state)
        async with caller(live) as client:
            done = await when(client, batch, "expired")
            assert [*await rows(client, done.error_file_id)] == ["chat-0", "chat-1", "chat-2"]

    with patient_cluster(*state) as live:
        within(scene(live))


def test_tenants_see_only_their_own_and_may_not_take_the_keys_of_batches(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[tenants]\nann = "ann-0123456789abcdef"\nbob = "bob-0123456789abcdef"\n')

    async def scene(live: Cluster) -> None:
        async with (
            AsyncOpenAI(base_url=url(live), api_key="ann-0123456789abcdef", max_retries=0) as ann,
            AsyncOpenAI(base_url=url(live), api_key="bob-0123456789abcdef", max_retries=0) as bob,
        ):
            batch = await when(ann, await begun(ann, chats(1, "none")), "failed")
            for call in (
                bob.files.retrieve(batch.input_file_id),
                bob.files.content(batch.input_file_id),
                bob.files.delete(batch.input_file_id),
                bob.batches.retrieve(batch.id),
                bob.batches.cancel(batch.id),
                bob.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"),
            ):
                with pytest.raises(openai.NotFoundError):
                    await call
            assert [one async for one in bob.batches.list()] == []
            assert [one async for one in bob.files.list()] == []
            assert [one.id async for one in ann.files.list()] == [batch.input_file_id]
        async with Client(live.coordinator.grpc, "ann-0123456789abcdef") as client:
            with pytest.raises(CarpoolError, match="the idempotency key begins with 'carpool/batch/'"):
                await client.submit("noop", [b"x"], idempotency_key=f"carpool/batch/{batch.id}")

    with cluster("--api-keys", str(keys), "--state", str(tmp_path / "state")) as live:
        within(scene(live))


def test_limits_are_told(tmp_path: Path) -> None:
    config = tmp_path / "carpool.toml"
    config.write_text("[limits]\njob_items = 2\njob_bytes = 1000\n")

    async def scene(live: Cluster) -> None:
        async with caller(live) as client, by_hand(live):
            with pytest.raises(openai.APIStatusError, match="the file has over 1000 bytes, the limit") as refused:
                await client.files.create(file=("a.jsonl", b"x" * 1001), purpose="batch")
            assert refused.value.status_code == 413
            done = await when(client, await begun(client, chats(3, WORDS)), "failed")
            assert done.errors is not None
            assert done.errors.data is not None
            assert [(row.code, row.line) for row in done.errors.data] == [("too_many_requests", 3)]

    with cluster("--config", str(config), "--state", ":memory:") as live:
        within(scene(live))
