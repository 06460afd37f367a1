"""OpenAI's own client, unmodified, against real coordinators: real models, and cars that a test moves by hand."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from coordinator.client import Client
from node import conversion
from protos import link_pb2
from tests.faults.durable import scrape, total
from tests.hand_lot import HandLot
from tests.live import Cluster, Coordinator, cluster, patient_cluster, until, within
from tests.node.small_models import make_bert
from tests.town import MODEL, cache_of

WORDS = "words"
CALLS = "POST /v1/chat/completions"
"""A model whose cars say what a test has them say."""
VECTORS = "vectors"
SERVED = 10
"""While a large answer is written others are served 40 times and more (measured); once, if that is done at once."""
ENCODER = "bert"
ASKED: Any = [{"role": "user", "content": "where is the car parked?"}]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator, a lot with a small decoder and a small encoder, and room for cars moved by hand."""
    root = tmp_path_factory.mktemp("models")
    cache = cache_of(root)
    make_bert(root / ENCODER)
    conversion.add(cache, str(root / ENCODER))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CARPOOL_CACHE", str(cache.root))
        with patient_cluster() as live:
            live.add("lot", "--models", f"{MODEL},{ENCODER}", "--dtype", "fp32")
            yield live
            errors = live.coordinator.errors()
            assert not any(told in errors for told in ("Traceback", "leaves out"))


def url(live: Cluster | Coordinator) -> str:
    coordinator = live.coordinator if isinstance(live, Cluster) else live
    return f"http://{coordinator.addresses['http']}/v1"


@pytest.fixture(scope="module")
def client(live: Cluster) -> Iterator[OpenAI]:
    """A client, when the models are offered."""

    async def offered() -> bool | None:
        return {MODEL, ENCODER} <= {model.id for model in asking.models.list()} or None

    with OpenAI(base_url=url(live), api_key="none", max_retries=0) as asking:
        asyncio.run(until(offered, 60.0))
        yield asking


@asynccontextmanager
async def caller(live: Cluster) -> AsyncIterator[Any]:
    """An asynchronous client. Its type knows neither all fields nor that `stream` may be a variable."""
    async with AsyncOpenAI(base_url=url(live), api_key="none", max_retries=0) as client:
        yield client


@asynccontextmanager
async def by_hand(live: Cluster, model: str = WORDS, cars: int = 1) -> AsyncIterator[HandLot]:
    """A car that a test moves, when the coordinator knows of it, as one of so many."""
    kind = "generate" if model == WORDS else "embed"
    async with (
        HandLot(live.coordinator.grpc, f"{model}-{cars}", model=model, kind=kind) as car,
        Client(live.coordinator.grpc) as client,
    ):

        async def offered() -> bool | None:
            return any(one.name == model and one.nodes == cars for one in await client.models()) or None

        await until(offered)
        yield car


def result(text: str, tokens: int) -> bytes:
    body = {"text": text, "finish_reason": "stop", "prompt_tokens": 7, "completion_tokens": tokens}
    return json.dumps(body).encode()


def vector(*values: float, tokens: int = 3) -> bytes:
    return np.array(values, "<f4").tobytes() + tokens.to_bytes(4, "little")


def likelihood(token: str, logprob: float) -> bytes:
    entry = {"token": token, "logprob": logprob, "bytes": [*token.encode()]}
    return json.dumps({**entry, "top_logprobs": [entry]}).encode()


def test_models_are_listed_and_an_unknown_one_is_named(client: OpenAI) -> None:
    assert client.models.retrieve(MODEL).model_dump()["kind"] == "generate"
    with pytest.raises(openai.NotFoundError, match="no vehicle here offers model 'none'") as refused:
        client.chat.completions.create(model="none", messages=ASKED)
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")
    assert refused.value.request_id


def test_a_chat_is_answered_as_through_our_own_api(client: OpenAI, live: Cluster) -> None:
    async def ours(payload: bytes) -> tuple[str, str, int, int]:
        async with Client(live.coordinator.grpc) as own:
            said = [said async for said in own.generate(MODEL, payload)]
        last = said[-1]
        return "".join(one.text for one in said), last.finish_reason, last.prompt_tokens, last.completion_tokens

    answer = client.chat.completions.create(model=MODEL, messages=ASKED, max_completion_tokens=24)
    (choice,), usage = answer.choices, answer.usage
    assert usage is not None
    told = choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens
    payload = {"messages": ASKED, "max_completion_tokens": 24}
    assert told == asyncio.run(ours(json.dumps(payload).encode()))


def test_a_stream_tells_what_the_whole_answer_is_and_each_choice_has_its_own_seed(client: OpenAI) -> None:
    drawn: Any = {"model": MODEL, "messages": ASKED, "max_tokens": 24, "temperature": 1.0, "top_p": 0.9}
    whole = client.chat.completions.create(**drawn, seed=5, n=2)
    second = client.chat.completions.create(**drawn, seed=6)
    texts, reasons, usage = {0: "", 1: ""}, {}, None
    for piece in client.chat.completions.create(
        **drawn, seed=5, n=2, stream=True, stream_options={"include_usage": True}
    ):
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
        usage = piece.usage
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert texts[1] == second.choices[0].message.content != texts[0]
    assert usage == whole.usage


def test_without_a_seed_a_second_draw_is_another(client: OpenAI) -> None:
    drawn: Any = {"model": MODEL, "messages": ASKED, "max_tokens": 24, "temperature": 1.5}
    first, second = (client.chat.completions.create(**drawn).choices[0].message.content for _ in range(2))
    assert first != second


def test_vectors_are_those_of_our_own_api_in_both_encodings(client: OpenAI, live: Cluster) -> None:
    async def ours(texts: Sequence[str]) -> list[Any]:
        async with Client(live.coordinator.grpc) as own:
            return await own.run(ENCODER, [text.encode() for text in texts])

    texts = ["a car is parked", "its owner comes back"]
    as_base64 = client.embeddings.create(model=ENCODER, input=texts)
    as_floats = client.embeddings.create(model=ENCODER, input=texts, encoding_format="float")
    payloads = asyncio.run(ours(texts))
    for said in (as_base64, as_floats):
        assert [one.index for one in said.data] == [0, 1]
        for one, payload in zip(said.data, payloads, strict=True):
            assert np.array(one.embedding, "<f4").tobytes() == payload[:-4]
    assert as_base64.usage.prompt_tokens == sum(int.from_bytes(one[-4:], "little") for one in payloads)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"temperature": 3}, "temperature is 3; give a number from 0 to 2"),
        ({"n": 17}, "n is 17; give a whole number from 1 to 16"),
        ({"logit_bias": {"5": 1}}, "the field 'logit_bias' is not supported here"),  # by the car
        ({"top_logprobs": 2}, "top_logprobs is 2 without logprobs"),  # by the car
        ({"messages": [{"role": "robot", "content": "?"}]}, r"messages\[0\].role is \"robot\"; give \"system\" or"),
        ({"model": ENCODER}, "is of kind 'embed', and /v1/chat/completions serves those of kind 'generate'"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_refused_before_a_stream_begins(
    client: OpenAI, stream: bool, fields: dict[str, Any], why: str
) -> None:
    asked: Any = {"model": MODEL, "messages": ASKED, **fields}
    with pytest.raises(openai.BadRequestError, match=why):
        client.chat.completions.create(**asked, stream=stream)


def test_a_stream_tells_tokens_as_they_come_with_their_likelihoods_and_the_usage_so_far(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live) as car, caller(live) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(
                    model=WORDS,
                    messages=ASKED,
                    logprobs=True,
                    stream=True,
                    stream_options={"include_usage": True, "continuous_usage_stats": True},
                )
            )
            grant = await car.granted()
            assert json.loads(grant.inputs[0]) == {"messages": ASKED, "logprobs": True}
            await car.say(grant.token, 0, [1], 0, "so", likelihoods=[likelihood("so", -0.5)])
            stream = await asking
            first, second = await anext(stream), await anext(stream)
            assert first.choices[0].delta.role == "assistant"
            assert second.choices[0].delta.content == "so"
            assert second.usage is not None
            assert (second.usage.prompt_tokens, second.usage.completion_tokens) == (7, 1)
            logprobs = second.choices[0].logprobs
            assert logprobs is not None
            assert [(one.token, one.logprob) for one in logprobs.content or ()] == [("so", -0.5)]
            await car.report(grant.token, {0: result("so", 1)}, ended=True)
            rest = [piece async for piece in stream]
            assert [piece.choices[0].finish_reason for piece in rest if piece.choices] == ["stop"]

    within(work())


def test_plain_completions_tell_likelihoods_in_the_older_form(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live) as car, caller(live) as client:
            asked: Any = {"model": WORDS, "prompt": "park", "logprobs": 1, "max_tokens": 2}
            asking = asyncio.create_task(client.completions.create(**asked))
            grant = await car.granted()
            assert json.loads(grant.inputs[0]) == {
                "prompt": "park",
                "max_tokens": 2,
                "logprobs": True,
                "top_logprobs": 1,
            }
            told = [likelihood("so", -0.5), likelihood(" it", -1.5)]
            await car.say(grant.token, 0, [1, 2], 0, "so it", likelihoods=told)
            await car.report(grant.token, {0: result("so it", 2)}, ended=True)
            (choice,) = (await asking).choices
            assert choice.text == "so it"
            assert choice.logprobs is not None
            assert choice.logprobs.model_dump() == {
                "tokens": ["so", " it"],
                "token_logprobs": [-0.5, -1.5],
                "top_logprobs": [{"so": -0.5}, {" it": -1.5}],
                "text_offset": [0, 2],
            }

    within(work())


def test_each_prompt_of_a_list_has_its_answers_in_order(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live) as car, caller(live) as client:
            asked: Any = {"model": WORDS, "prompt": [[1, 2], [3]], "n": 2}
            asking = asyncio.create_task(client.completions.create(**asked))
            for _ in range(4):
                grant = await car.granted()
                text = str(json.loads(grant.inputs[0])["prompt"])
                await car.report(grant.token, {0: result(text, 1)}, ended=True)
            answer = await asking
            assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
            assert [choice.text for choice in answer.choices] == ["[1, 2]", "[1, 2]", "[3]", "[3]"]
            assert answer.usage is not None
            assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (14, 4)

    within(work())


def test_token_numbers_go_to_the_car_as_arrays(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live, VECTORS) as car, caller(live) as client:
            asking = asyncio.create_task(client.embeddings.create(model=VECTORS, input=[[5, 6], [7]]))
            answers: dict[bytes, int] = {}
            while len(answers) < 2:
                grant = await car.granted()
                results = {}
                for offset, payload in enumerate(grant.inputs):
                    header = payload[:128].decode("latin-1")
                    assert header.startswith("\x93NUMPY")
                    assert "'<i4'" in header
                    tokens = np.frombuffer(payload[128:], "<i4")
                    answers[tokens.tobytes()] = offset
                    results[offset] = vector(*tokens.astype(float))
                await car.report(grant.token, results, ended=True)
            said = await asking
            assert [one.embedding for one in said.data] == [[5.0, 6.0], [7.0]]
            assert said.usage.total_tokens == 6

    within(work())


def test_others_are_served_while_a_large_answer_is_written(live: Cluster) -> None:
    inputs, width = 512, 4096
    host, _, port = live.coordinator.addresses["http"].rpartition(":")
    body = json.dumps({"model": VECTORS, "input": ["park"] * inputs}).encode()
    told = vector(*np.linspace(-1, 1, width))

    async def work() -> None:
        large, small = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        done, ended = asyncio.Event(), asyncio.Event()
        others = 0

        async def ask_others() -> None:
            nonlocal others
            while not ended.is_set():
                small[1].write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await small[0].readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
                others += done.is_set()

        async with by_hand(live, VECTORS) as car, asyncio.TaskGroup() as tasks:
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            large[1].write(head.encode() + body)
            grant = await car.granted()
            assert len(grant.inputs) == inputs
            for first in range(0, inputs - 1, 64):
                await car.report(grant.token, dict.fromkeys(range(first, min(first + 64, inputs - 1)), told))
            asking = tasks.create_task(ask_others())
            await car.report(grant.token, {inputs - 1: told}, ended=True)
            done.set()  # it is written from here on, or was already
            assert (await large[0].read(12)) == b"HTTP/1.1 200"
            ended.set()
            await asking
        for _, writer in (large, small):
            writer.close()
        assert others > SERVED, f"{others} others were answered meanwhile"

    within(work())


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_vector_that_is_no_numbers_is_a_failure(live: Cluster, encoding: Any) -> None:
    async def work() -> None:
        async with by_hand(live, VECTORS) as car, caller(live) as client:
            asking = asyncio.create_task(
                client.embeddings.create(model=VECTORS, input="park", encoding_format=encoding)
            )
            grant = await car.granted()
            await car.report(grant.token, {0: vector(1.0, np.nan)}, ended=True)
            with pytest.raises(
                openai.InternalServerError, match=r"input\[0\] failed: it holds a number that is not"
            ):
                await asking

    within(work())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_the_car(live: Cluster, stream: bool) -> None:
    async def work() -> None:
        async with by_hand(live) as car, caller(live) as client:
            asking = asyncio.create_task(client.chat.completions.create(model=WORDS, messages=ASKED, stream=stream))
            token = (await car.granted()).token
            if stream:
                await car.say(token, 0, [1], 0, "so")
                told = await asking
                await anext(told)
                await told.close()
            else:
                asking.cancel()
            assert await car.revoked(token) == link_pb2.REVOCATION_CAUSE_CANCELLED

    within(work())


def test_a_car_that_leaves_is_not_noticed(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live) as first, caller(live) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(model=WORDS, messages=ASKED, logprobs=True, stream=True)
            )
            token = (await first.granted()).token
            told = [likelihood(word, -1.0) for word in ("so", " it", " is")]
            await first.say(token, 0, [1, 2], 0, "so it", likelihoods=told[:2])
            stream = await asking
            async with by_hand(live, cars=2) as second:
                await first.report(token, {}, ended=True, cause=link_pb2.END_CAUSE_UNPLUGGED, departs=True)
                grant = await second.granted()
                assert list(grant.begun[0].tokens) == [1, 2]
                await second.say(grant.token, 1, [2, 3], 2, " it is", likelihoods=told[1:])
                await second.report(grant.token, {0: result("so it is", 3)}, ended=True)
                choices = [choice async for piece in stream for choice in piece.choices]
            assert "".join(choice.delta.content or "" for choice in choices) == "so it is"
            told_of = [one.token for choice in choices if choice.logprobs for one in choice.logprobs.content]
            assert told_of == ["so", " it", " is"]
            assert choices[-1].finish_reason == "stop"

    within(work())


def test_what_fails_after_a_stream_began_is_told_in_it(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live) as car, caller(live) as client:
            asking = asyncio.create_task(client.chat.completions.create(model=WORDS, messages=ASKED, stream=True))
            token = (await car.granted()).token
            await car.say(token, 0, [1], 0, "so")
            stream = await asking
            await anext(stream)
            await car.report(token, {0: result("no", 1)}, ended=True)
            with pytest.raises(openai.APIError, match="is not the one that was begun"):
                [piece async for piece in stream]

    within(work())


def test_one_idempotency_key_is_one_answer(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live) as car, caller(live) as client:
            key = {"Idempotency-Key": "one"}
            asked: Any = {"model": WORDS, "messages": ASKED, "extra_headers": key}
            twice = [asyncio.create_task(client.chat.completions.create(**asked)) for _ in range(2)]
            token = (await car.granted()).token
            with pytest.raises(openai.ConflictError, match="belongs to another call"):
                await client.chat.completions.create(**asked, temperature=1.0)
            await car.report(token, {0: result("so", 1)}, ended=True)
            first, second = [await one for one in twice]
            assert first == second == await client.chat.completions.create(**asked)

    within(work())


def test_a_stream_under_a_key_is_told_again_once_it_has_ended(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live) as car, caller(live) as client:
            asked: Any = {"model": WORDS, "messages": ASKED, "stream": True}
            asked["extra_headers"] = {"Idempotency-Key": "two"}
            asking = asyncio.create_task(client.chat.completions.create(**asked))
            token = (await car.granted()).token
            with pytest.raises(openai.ConflictError, match="is still told"):
                await client.chat.completions.create(**asked)
            await car.say(token, 0, [1], 0, "so")
            await car.report(token, {0: result("so", 1)}, ended=True)
            first = [piece async for piece in await asking]
            assert [piece async for piece in await client.chat.completions.create(**asked)] == first

    within(work())


def test_a_call_whose_first_caller_left_is_made_for_the_second(live: Cluster) -> None:
    async def work() -> None:
        async with by_hand(live) as car, caller(live) as client:
            asked: Any = {"model": WORDS, "messages": ASKED, "extra_headers": {"Idempotency-Key": "three"}}
            first = asyncio.create_task(client.chat.completions.create(**asked))
            token = (await car.granted()).token
            second = asyncio.create_task(client.chat.completions.create(**asked))

            async def both_wait() -> bool | None:
                return total(await scrape(live), "carpool_rpcs_in_flight", method=CALLS) == 2 or None

            await until(both_wait)
            first.cancel()
            assert await car.revoked(token) == link_pb2.REVOCATION_CAUSE_CANCELLED
            await car.report(token, {}, ended=True, cause=link_pb2.END_CAUSE_REVOKED)
            await car.report((await car.granted()).token, {0: result("so", 1)}, ended=True)
            assert (await second).choices[0].message.content == "so"

    within(work())


def test_too_many_are_told_when_to_come_back_and_the_client_does(tmp_path: Path) -> None:
    async def work(live: Cluster) -> None:
        async with by_hand(live) as car, caller(live) as client:
            asked: Any = {"model": WORDS, "messages": ASKED}
            first = asyncio.create_task(client.chat.completions.create(**asked))
            token = (await car.granted()).token
            with pytest.raises(openai.RateLimitError, match="1 requests are open, the limit") as refused:
                await client.chat.completions.create(**asked)
            assert refused.value.response.headers["retry-after"] == "1"
            second = asyncio.create_task(client.with_options(max_retries=5).chat.completions.create(**asked))

            async def refused_again() -> bool | None:
                told = total(await scrape(live), "carpool_rpc_duration_seconds_count", code="RESOURCE_EXHAUSTED")
                return told >= 2 or None

            await until(refused_again)
            await car.report(token, {0: result("so", 1)}, ended=True)
            await first
            await car.report((await car.granted()).token, {0: result("it", 1)}, ended=True)
            assert (await second).choices[0].message.content == "it"

    config = tmp_path / "carpool.toml"
    config.write_text("[limits]\nopen_requests = 1\n")
    with cluster("--config", str(config)) as live:
        within(work(live))
        assert "leaves out" not in live.coordinator.errors()


def test_keys_are_asked_for_as_by_our_own_api(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[tenants]\na = "tenant-0123456789"\n[nodes]\nb = "node-0123456789ab"\n')
    with cluster("--api-keys", str(keys)) as live:
        refused = {"wrong": openai.AuthenticationError, "node-0123456789ab": openai.PermissionDeniedError}
        for key, error in refused.items():
            with OpenAI(base_url=url(live), api_key=key) as client, pytest.raises(error, match="this API key"):
                client.models.list()
        with OpenAI(base_url=url(live), api_key="tenant-0123456789") as client:
            assert client.models.list().data == []
