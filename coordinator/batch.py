"""A batch as it is recorded: what a tenant asked for, how far it is, and what came of it. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import inf
from typing import Any

from coordinator.batch_input import Wrong
from coordinator.store.documents import Document

BATCH = "batch"
"""The kind of these documents."""


class Status(StrEnum):
    """How far a batch is."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to the batch."""
        return self in (Status.COMPLETED, Status.FAILED, Status.EXPIRED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class Order:
    """What a tenant asks for."""

    endpoint: str
    input_file_id: str
    completion_window: str
    window_s: float
    metadata: Mapping[str, str] | None = None
    output_expires_s: float | None = None  # of the files that it makes, from when they are made


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch. Times are seconds of the wall clock; counts are requests."""

    id: str
    tenant: str
    created: float
    order: Order
    key: str = ""
    status: Status = Status.VALIDATING
    at: Mapping[str, int] = field(default_factory=dict)  # by status: since when
    wrong: tuple[Wrong, ...] = ()
    model: str = ""
    job: int = 0  # 0: there is none yet
    items: int = 0
    total: int = 0
    completed: int = 0
    failed: int = 0
    expected: float | None = None  # when it may be done, as was said when its job was taken
    on_time: float | None = None  # chance to be done within its window, as was said then
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def expires(self) -> float:
        """When its window is over."""
        return self.created + self.order.window_s

    def document(self, until: float) -> Document:
        """It as a document, which may be forgotten from `until` on if it has ended."""
        body = asdict(self)
        for name in ("id", "tenant", "created", "key"):
            del body[name]
        live = not self.status.ended
        return Document(self.id, BATCH, self.tenant, self.created, body, self.key, inf if live else until, live)

    @classmethod
    def of(cls, document: Document) -> "Batch":
        """The batch that a document is."""
        body: dict[str, Any] = dict(document.body)
        order = Order(**body.pop("order"))
        wrong = tuple(Wrong(**one) for one in body.pop("wrong"))
        status = Status(body.pop("status"))
        return cls(
            document.name, document.tenant, document.created, order, document.key, status, wrong=wrong, **body
        )
