"""The client against a small server that breaks off, refuses and falls away as a real one may."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from coordinator.client import OPTIONS, Client, Job, Results
from coordinator.errors import CarpoolError, Failure
from coordinator.formats import PictureFiles
from coordinator.items import split
from protos import jobs_pb2, jobs_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Result = TypeVar("Result")

PAGE = 1000  # results in one message of the test's server


class FaultyServer(jobs_pb2_grpc.JobServiceServicer):
    """Echoes; refuses a model named "unknown"; breaks each stream of results after `pages` pages."""

    def __init__(self, pages: int = 1_000_000, poison: frozenset[int] = frozenset()) -> None:
        self.pages, self.poison = pages, poison
        self.items: list[bytes] = []
        self.messages = 0  # of the last submission
        self.streams = 0

    async def Run(self, request: jobs_pb2.RunRequest, context: Context) -> jobs_pb2.RunResponse:
        results = [
            jobs_pb2.ItemResult(failure=jobs_pb2.Failure(code="model", message="it failed"))
            if index in self.poison
            else jobs_pb2.ItemResult(payload=item)
            for index, item in enumerate(request.items)
        ]
        return jobs_pb2.RunResponse(results=results)

    async def Generate(
        self, request: jobs_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.GenerateResponse]:
        yield jobs_pb2.GenerateResponse(text=request.payload.decode(), tokens=[1], vehicle="car-0000")
        await context.abort(grpc.StatusCode.UNAVAILABLE, "on my way out")

    async def SubmitJob(
        self, request_iterator: AsyncIterator[jobs_pb2.SubmitJobRequest], context: Context
    ) -> jobs_pb2.SubmitJobResponse:
        header = (await anext(request_iterator)).header
        if header.model == "unknown":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no car offers unknown; take echo")
        self.items, self.messages = [], 1
        async for request in request_iterator:
            self.messages += 1
            self.items.extend(split(request.items.payload, request.items.lengths))
        assert len(self.items) == header.items
        return jobs_pb2.SubmitJobResponse(job=self.job(jobs_pb2.JOB_STATE_PENDING))

    async def StreamResults(
        self, request: jobs_pb2.StreamResultsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.StreamResultsResponse]:
        self.streams += 1
        if not self.pages:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        yield jobs_pb2.StreamResultsResponse(
            first_item=request.first_item, job=self.job(jobs_pb2.JOB_STATE_RUNNING)
        )
        for page in range(self.pages):
            first = request.first_item + page * PAGE
            items = range(first, min(first + PAGE, len(self.items)))
            if not items:
                yield jobs_pb2.StreamResultsResponse(first_item=first, job=self.job(jobs_pb2.JOB_STATE_DONE))
                return
            yield jobs_pb2.StreamResultsResponse(
                first_item=first,
                payloads=[b"" if item in self.poison else self.items[item] for item in items],
                failed=[
                    jobs_pb2.FailedItem(item=item, failure=jobs_pb2.Failure(code="model", message="no"))
                    for item in items
                    if item in self.poison
                ],
                job=self.job(jobs_pb2.JOB_STATE_RUNNING),
            )
        if self.streams % 2:  # else the stream ends without a word, as at a shutdown
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.GetJobResponse:
        if request.job_id == "9":
            await context.abort(grpc.StatusCode.INTERNAL, "its log says more")
        return jobs_pb2.GetJobResponse(job=self.job(jobs_pb2.JOB_STATE_RUNNING))

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no API key was sent; pass --api-key")
        raise AssertionError

    async def ExplainJob(
        self, request: jobs_pb2.ExplainJobRequest, context: Context
    ) -> jobs_pb2.ExplainJobResponse:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no job 9 is known here")
        raise AssertionError

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Context) -> jobs_pb2.CancelJobResponse:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no job 9 is known here")
        raise AssertionError

    async def ListModels(
        self, request: jobs_pb2.ListModelsRequest, context: Context
    ) -> jobs_pb2.ListModelsResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        raise AssertionError

    def job(self, state: jobs_pb2.JobState.ValueType) -> jobs_pb2.Job:
        return jobs_pb2.Job(job_id="1", model="echo", kind="echo", state=state, items=len(self.items))


def serve(server: FaultyServer, call: Callable[[Client], Awaitable[Result]]) -> Result:
    """What `call` returns of a client of that server."""

    async def session() -> Result:
        listener = grpc.aio.server(options=OPTIONS)
        jobs_pb2_grpc.add_JobServiceServicer_to_server(server, listener)
        port = listener.add_insecure_port("127.0.0.1:0")
        await listener.start()
        try:
            async with Client(f"127.0.0.1:{port}") as client:
                return await call(client)
        finally:
            await listener.stop(None)

    return asyncio.run(session())


async def echoed(client: Client, items: Sequence[bytes]) -> tuple[Job, list[Results]]:
    job, _ = await client.submit("echo", items)
    return job, [results async for results in client.results(job.job_id)]


def test_items_come_back_in_order_and_in_chunks() -> None:
    items = [f"{index:06d}".encode() * 28 for index in range(10_000)]
    server = FaultyServer()
    _, pages = serve(server, lambda client: echoed(client, items))
    assert [payload for page in pages for payload in page.payloads] == items
    assert server.messages == 1 + 2  # the header, then chunks of a mebibyte
    assert pages[0].job.state == "running"


def test_a_stream_that_breaks_is_opened_again_where_it_stopped() -> None:
    items = [str(index).encode() for index in range(5_500)]
    server = FaultyServer(pages=2, poison=frozenset({4_200}))
    _, pages = serve(server, lambda client: echoed(client, items))
    results = [payload for page in pages for payload in page.payloads]
    assert results == [b"" if index == 4_200 else item for index, item in enumerate(items)]
    assert [page.failures for page in pages if page.failures] == [{4_200: Failure("model", "no")}]
    assert server.streams == 4


def test_a_large_item_travels_whole() -> None:
    items = [b"x" * 12_000_000, b"", b"y"]
    _, pages = serve(FaultyServer(), lambda client: echoed(client, items))
    assert [payload for page in pages for payload in page.payloads] == items


def test_an_interactive_job_returns_results_and_failures() -> None:
    server = FaultyServer(poison=frozenset({1}))
    results = serve(server, lambda client: client.run("echo", [b"a", b"b", b"c"]))
    assert results == [b"a", Failure("model", "it failed"), b"c"]


def test_a_refusal_is_the_coordinators_own_sentence() -> None:
    many = [b"x" * 1000] * 20_000
    with pytest.raises(CarpoolError, match=r"^no car offers unknown; take echo$") as caught:
        serve(FaultyServer(), lambda client: client.submit("unknown", many))
    assert caught.value.exit_code == 2


def test_each_refusal_says_what_to_do_and_whose_fault_it_is() -> None:
    async def complaints(client: Client) -> list[tuple[str, int]]:
        said = []
        for call in (client.jobs(), client.cancel("9"), client.job("9"), client.models(), client.nodes()):
            try:
                await call
            except CarpoolError as error:
                said.append((str(error).replace(client.target, "HERE"), error.exit_code))
        return said

    foreign = (
        "what answers at HERE is no Carpool coordinator, or not its gRPC port; name another with --grpc HOST:PORT"
    )
    assert serve(FaultyServer(), complaints) == [
        ("no API key was sent; pass --api-key", 2),
        ("no job 9 is known here", 2),
        ("the coordinator at HERE failed: its log says more", 1),
        (foreign, 2),
        (foreign, 2),
    ]


def test_an_input_that_cannot_be_read_any_more_ends_the_submission(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"x" * 1_000_000)
    items = PictureFiles([tmp_path / "one.png", tmp_path / "one.png", tmp_path / "two.png"])
    with pytest.raises(CarpoolError, match=r"cannot read .*two.png: No such file"):
        serve(FaultyServer(), lambda client: client.submit("echo", items))


def test_a_dead_coordinator_is_said_in_one_line() -> None:
    with socket.socket() as bound:  # bound, and nobody listens
        bound.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{bound.getsockname()[1]}"

        async def ask() -> None:
            async with Client(target) as client:
                await client.models()

        with pytest.raises(
            CarpoolError, match=rf"^no coordinator answers at {target}; start one with `carpool up`"
        ):
            asyncio.run(ask())


def test_patience_with_a_lost_stream_ends() -> None:
    async def ask(client: Client) -> None:
        async for _ in client.results("1", patience_s=0.2):
            pass

    with pytest.raises(CarpoolError, match="no coordinator answers"):
        serve(FaultyServer(pages=0), ask)


@pytest.mark.parametrize(
    "target", ["", "7000", "localhost", "localhost:", "localhost:70000", "a b:1", "http://x:1"]
)
def test_an_address_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(CarpoolError, match="is no address; give HOST:PORT"):
        Client(target)


@pytest.mark.parametrize("key", ["two\nlines", "ключ", " spaced"])
def test_a_key_that_cannot_travel_is_refused(key: str) -> None:
    with pytest.raises(CarpoolError, match="printable ASCII"):
        Client("localhost:1", key)
