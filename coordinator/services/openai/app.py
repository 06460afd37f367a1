"""The application: one table of operations, served, and described on a page."""

import time
from collections.abc import Sequence
from itertools import groupby

from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.batches import Batches
from coordinator.config import LimitSettings
from coordinator.files import Files
from coordinator.keys import Keys
from coordinator.refusal import Refusal, Refused
from coordinator.runtime import Runtime
from coordinator.services.openai.batches import BatchCalls
from coordinator.services.openai.call import Call
from coordinator.services.openai.chat import chat
from coordinator.services.openai.completions import completions
from coordinator.services.openai.document import Document
from coordinator.services.openai.embeddings import Embeddings
from coordinator.services.openai.files import FileCalls
from coordinator.services.openai.models import Models
from coordinator.services.openai.operation import Endpoint, Operation
from coordinator.services.openai.replies import Replies


def openai_app(
    runtime: Runtime, keys: Keys, files: Files, batches: Batches, limits: LimitSettings, others: Sequence[BaseRoute]
) -> ASGIApp:
    """All of it, and what else is served on its port."""
    table = [
        *operations(runtime),
        *FileCalls(files, limits.job_bytes).operations(),
        *BatchCalls(batches).operations(),
    ]
    routes: list[BaseRoute] = [
        Route(path, Endpoint(list(same), keys, runtime.metrics))
        for path, same in groupby(
            [*table, *Document(table, keys.holders is not None).operations()], key=lambda operation: operation.path
        )
    ]
    return Router([*routes, *others], redirect_slashes=False, default=_unknown)


def operations(runtime: Runtime) -> list[Operation]:
    """The table of routes: those that share a path stand together, the busiest come first."""
    replies = Replies()
    return [
        chat(runtime, replies),
        *Embeddings(runtime, replies).operations(),
        completions(runtime, replies),
        *Models(runtime, int(time.time())).operations(),
    ]


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        message = f"nothing is served at {scope['path']!r}; /docs lists what is"
        await Call(scope, receive, send).refuse(Refused(Refusal.NOT_FOUND, message))
