"""Health and metrics over real HTTP."""

import asyncio
import signal
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse

import pytest
from starlette.types import ASGIApp

from coordinator.services.http import health_app, listen, metrics_app, serve
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

    while_serving(health_app(lambda: ready), visit)


def test_what_is_not_there_is_404_and_what_cannot_be_posted_405() -> None:
    def visit(port: int) -> None:
        assert ask(port, "/")[0].status == 404
        assert ask(port, "/metrics")[0].status == 404
        assert ask(port, "/healthz", method="POST")[0].status == 405
        assert ask(port, "/healthz", method="HEAD")[0].status == 200

    while_serving(health_app(lambda: True), visit)


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

    while_serving(health_app(lambda: True), visit)
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
            tasks.create_task(serve(health_app(lambda: True), listening, stop))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            stop.set()
            await reader.read()
            writer.close()

    asyncio.run(run())
