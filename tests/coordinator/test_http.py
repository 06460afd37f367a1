"""Health and metrics over real HTTP."""

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse, IncompleteRead

import pytest
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.keys import Keys
from coordinator.services.http import health_routes, listen, metrics_app, serve
from coordinator.services.openai.call import Answer, Call
from coordinator.services.openai.multipart import read_form
from coordinator.services.openai.operation import Endpoint, Operation
from tests.coordinator.busy_metrics import busy_metrics


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def while_serving(app: ASGIApp, visit: Callable[[int], None]) -> None:
    """Serve this app on a free port while `visit` runs, in a thread, with the port."""

    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        stop = asyncio.Event()
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(app, listening, stop))
            try:
                await asyncio.to_thread(visit, port)
            finally:
                stop.set()

    asyncio.run(run())


def test_readyz_answers_503_until_the_coordinator_is_ready_and_healthz_at_once() -> None:
    ready = False

    def visit(port: int) -> None:
        nonlocal ready
        assert ask(port, "/healthz")[0].status == 200
        assert ask(port, "/readyz")[0].status == 503
        ready = True
        assert ask(port, "/readyz")[0].status == 200
        ready = False
        assert ask(port, "/readyz")[0].status == 503

    while_serving(Router(health_routes(lambda: ready)), visit)


def test_what_is_not_there_is_404_and_what_cannot_be_posted_405() -> None:
    def visit(port: int) -> None:
        assert ask(port, "/")[0].status == 404
        assert ask(port, "/metrics")[0].status == 404
        assert ask(port, "/healthz", method="POST")[0].status == 405
        assert ask(port, "/healthz", method="HEAD")[0].status == 200

    while_serving(Router(health_routes(lambda: True)), visit)


def test_metrics_are_served_in_the_format_that_the_scraper_asks_for() -> None:
    def visit(port: int) -> None:
        response, text = ask(port, "/metrics")
        assert response.getheader("content-type", "").startswith("text/plain; version=0.0.4")
        assert "# TYPE carpool_jobs_submitted_total counter" in text
        response, text = ask(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert response.getheader("content-type", "").startswith("application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n")

    while_serving(metrics_app(busy_metrics()), visit)


def test_serving_leaves_signals_to_the_process_and_the_port_free_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    ports = []

    def visit(port: int) -> None:
        ports.append(port)
        assert ask(port, "/healthz")[0].status == 200
        assert signal.getsignal(signal.SIGTERM) is before

    while_serving(Router(health_routes(lambda: True)), visit)
    listen("127.0.0.1", ports[0]).close()


def test_a_port_in_use_is_refused_before_anything_is_served() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_a_client_that_stays_connected_does_not_hold_up_the_stop() -> None:
    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        stop = asyncio.Event()
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(Router(health_routes(lambda: True)), listening, stop))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            stop.set()
            await reader.read()
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("begun", [False, True])
def test_a_call_that_the_stop_cuts_off_is_told_so_in_the_form_of_its_interface(begun: bool) -> None:
    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        stop = asyncio.Event()

        async def wait(call: Call) -> None:
            if begun:
                await call.write(b"data: {}\n\n")
            stop.set()
            await asyncio.Event().wait()

        app = Endpoint([Operation("GET", "/", "Waits", wait)], Keys(), busy_metrics())
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(app, listening, stop))
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            told = await reader.read()
            assert told.startswith(b"HTTP/1.1 200" if begun else b"HTTP/1.1 503")
            assert b'{"error": {"message": "the coordinator is shutting down' in told
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("form", [False, True])
def test_a_body_that_comes_too_slowly_is_refused_and_a_large_one_has_longer(
    form: bool, caplog: pytest.LogCaptureFixture
) -> None:
    most_bytes = 1 << 24

    async def take(call: Call) -> Answer:
        if not form:
            return Answer(b"%d" % len(await call.body(most_bytes)))
        files: list[bytes] = []

        async def write(data: bytes) -> None:
            files.append(data)

        await read_form(call, most_bytes, write)
        return Answer(b"%d" % sum(map(len, files)))

    taking = Operation("POST", "/", "Takes", take, body=None if form else {}, form={} if form else None)
    app = Endpoint([taking], Keys(), busy_metrics(), patience_s=0.2)
    begin = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' if form else b""
    end = b"\r\n--b--\r\n" if form else b""
    content = bytes(1 << 20)  # which may take a minute and four seconds more
    body = begin + content + end
    kind = "multipart/form-data; boundary=b"
    head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        stop = asyncio.Event()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(app, listening, stop))
            large, slow = [await asyncio.open_connection(*listening.getsockname()) for _ in range(2)]
            large[1].write(head + body[:-1])
            slow[1].write(head + begin + content[:100])
            told = await slow[0].read()  # until the server closes
            assert told.startswith(b"HTTP/1.1 408 ")
            assert b"\r\nconnection: close\r\n" in told
            error = json.loads(told.partition(b"\r\n\r\n")[2])["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "request_timeout")
            assert error["message"].startswith(f"{len(begin) + 100} bytes of the body came within 0 s; a body may")
            large[1].write(body[-1:])
            assert (await large[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await large[0].readexactly(7) == b"1048576"
            for _, writer in (large, slow):
                writer.close()
            stop.set()

    asyncio.run(run())
    assert "leaves out" not in caplog.text


def test_a_file_that_cannot_be_given_whole_has_no_error_inside() -> None:
    async def give(call: Call) -> None:
        await call.begin(b"application/octet-stream", 1000)
        await call.write(b"0123456789")
        raise OSError

    def visit(port: int) -> None:
        with pytest.raises(IncompleteRead) as read:
            ask(port, "/")
        assert read.value.partial == b"0123456789"

    while_serving(Endpoint([Operation("GET", "/", "Fails", give)], Keys(), busy_metrics()), visit)


def test_a_connection_without_a_whole_head_is_closed_in_time_and_one_with_a_call_is_not() -> None:
    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        address = listening.getsockname()
        stop, gone = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await gone.wait()
            await Response("late")(scope, receive, send)

        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(app, listening, stop, head_s=0.2))
            patient, silent, slow, endless = [await asyncio.open_connection(*address) for _ in range(4)]
            patient[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            slow[1].write(b"GET / HTTP/1.1\r\nHost: ")
            endless[1].write(b"GET / HTTP/1.1\r\nHost: " + b"x" * (1 << 20))
            for reader, _ in (silent, slow, endless):
                with suppress(ConnectionError):
                    assert not await reader.read()
            gone.set()
            assert (await patient[0].readline()).startswith(b"HTTP/1.1 200")
            for _, writer in (patient, silent, slow, endless):
                writer.close()
            stop.set()

    asyncio.run(run())


def test_a_client_that_goes_is_noticed_even_if_its_body_was_large() -> None:
    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        stop, read, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"]["connection"].task = asyncio.current_task()
            while (await receive())["more_body"]:
                pass
            read.set()
            try:
                await stop.wait()
            except asyncio.CancelledError:
                gone.set()

        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(app, listening, stop))
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
            await read.wait()
            writer.close()
            await gone.wait()
            stop.set()

    asyncio.run(run())


def test_a_client_that_would_rather_speak_http_2_is_served_as_it_is() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await Response(body)(scope, receive, send)

    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        stop = asyncio.Event()
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(app, listening, stop))
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            for _ in range(2):  # as Java's client does
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n")
                writer.write(b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\nContent-Length: 13\r\n\r\n")
                writer.write(b"\r\nUpgrade: me")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await reader.readexactly(13) == b"\r\nUpgrade: me"
            writer.close()
            stop.set()

    asyncio.run(run())


def test_the_body_of_a_call_that_was_answered_may_not_trickle_in_forever() -> None:
    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        stop = asyncio.Event()
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(Router(health_routes(lambda: True)), listening, stop, head_s=0.2))
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404")
            writer.write(b"x")
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
            stop.set()

    asyncio.run(run())


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
def test_a_reader_that_takes_nothing_is_left_and_a_slow_one_is_not(connection: bytes) -> None:
    body = b"x" * (1 << 23)  # more than both ends of a connection keep

    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        address = listening.getsockname()
        stop = asyncio.Event()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(Response(body), listening, stop, deaf_s=0.3))
            deaf, slow = [await asyncio.open_connection(*address, limit=1024) for _ in range(2)]
            for _, writer in (deaf, slow):
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: " + connection + b"\r\n\r\n")
            await slow[0].readuntil(b"\r\n\r\n")
            for _ in range(8):  # 0.8 s in all
                await slow[0].readexactly(len(body) // 8)
                await asyncio.sleep(0.1)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await deaf[0].readexactly(len(body))
            for _, writer in (deaf, slow):
                writer.close()
            stop.set()

    asyncio.run(run())
