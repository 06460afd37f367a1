"""Metrics: what operators see of the coordinator.

The core's counts come from a `Census`; what only the runtime can see (durations, queues, refusals) it reports
here, through plain methods that cost well under a microsecond. Report and scrape on one thread, the event loop's.
Knows neither HTTP nor gRPC.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from coordinator.census import Census
from coordinator.core.snapshot import Snapshot
from coordinator.instruments import Histogram, Scalar
from coordinator.store import StoreState

_INSTANT_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_COMMIT_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 7.5e-3, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.25, 1.0)
_CALL_S = (5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_JOB_S = (1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_GAP_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)
_OPERATIONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)


class Metrics:
    """All metrics of one coordinator. `snapshot` is called once a scrape.

    Durations are in seconds. Label values are shown as given: job classes as "interactive" and "batch",
    methods as "JobService/Run" (only such as exist: a caller's invention must not become a label), gRPC codes
    as "OK".
    """

    def __init__(self, snapshot: Callable[[], Snapshot], store: Callable[[], StoreState] = StoreState) -> None:
        self._store = store
        self._rejected = Scalar("carpool_jobs_rejected_total", "Submissions refused, by reason.", ("reason",))
        self._store_queue = Scalar("carpool_store_queue_operations", "Records that wait for the store.")
        self._store_log = Scalar("carpool_store_wal_bytes", "Size of the store's write-ahead log.")
        self._store_free = Scalar("carpool_store_free_bytes", "Free space on the store's disk.")
        self._store_disk = Scalar("carpool_store_disk_bytes", "Size of the store's disk; 0 when it has none.")
        self._store_errors = Scalar("carpool_store_errors_total", "What the store could not do.", ("kind",))
        self._recovery = Scalar("carpool_recovery_duration_seconds", "Start to serving with what was recorded.")
        self._violations = Scalar(
            "carpool_invariant_violations_total", "Invariants of the scheduler found broken.", ("invariant",)
        )
        self._in_flight = Scalar("carpool_rpcs_in_flight", "Calls that are open.", ("method",))
        self._auth_failures = Scalar("carpool_auth_failures_total", "Calls refused for their key.", ("kind",))
        self._queued = Histogram(
            "carpool_job_queue_duration_seconds",
            "Submission of a job to its first lease.",
            _JOB_S,
            ("class",),
        )
        self._lasted = Histogram(
            "carpool_job_duration_seconds", "Submission of a job to its end.", _JOB_S, ("model", "outcome")
        )
        self._handle = Histogram(
            "carpool_scheduler_handle_duration_seconds", "Scheduler's time for a batch of events.", _INSTANT_S
        )
        self._lag = Histogram("carpool_event_loop_lag_seconds", "How late a timer of the loop ran.", _INSTANT_S)
        self._commit = Histogram(
            "carpool_store_commit_duration_seconds", "Handing in of the oldest record to its commit.", _COMMIT_S
        )
        self._committed = Histogram("carpool_store_commit_operations", "Records in one commit.", _OPERATIONS)
        self._rpc = Histogram(
            "carpool_rpc_duration_seconds",
            "Time of a call, or of a stream to its end.",
            _CALL_S,
            ("method", "code"),
        )
        model = ("gen_ai_request_model",)  # these two are named by OpenTelemetry
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Request of an answer to its first token.",
            _FIRST_TOKEN_S,
            model,
        )
        self._each_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time between two tokens of an answer, its mean.",
            _EACH_TOKEN_S,
            model,
        )
        self._gap = Histogram(
            "carpool_stream_handover_gap_seconds",
            "Last token of an answer on one car to its next on another.",
            _GAP_S,
        )
        self._tokens = Scalar("carpool_tokens_generated_total", "Tokens said of answers, by model.", ("model",))
        self._recomputed = Scalar(
            "carpool_tokens_recomputed_total",
            "Tokens of prompts and answers that another car read again, not having held them.",
        )
        self._reused = Scalar(
            "carpool_prefix_tokens_reused_total",
            "Tokens of prompts and begun answers that the car that went on held already, by model.",
            ("model",),
        )
        self._hedged = Scalar(
            "carpool_hedges_total",
            "Answers that began late, by which of the two cars asked spoke first.",
            ("result",),
        )
        self._breaches = Scalar(
            "carpool_partials_rejected_total",
            "Parts of answers refused: their token is not live, they leave a gap, or all of it was said before.",
            ("reason",),
        )
        self.registry = CollectorRegistry()
        self.registry.register(Census(snapshot))
        self.registry.register(self)

    def observe_handle(self, duration_s: float) -> None:
        """The scheduler handled a batch of events."""
        self._handle.observe((), duration_s)

    def observe_commit(self, duration_s: float, operations: int) -> None:
        """The store committed so many records at once."""
        self._commit.observe((), duration_s)
        self._committed.observe((), operations)

    def count_store_error(self, kind: str) -> None:
        """The store refused: "full", "corrupt"."""
        self._store_errors.add((kind,), 1)

    def set_recovery(self, duration_s: float) -> None:
        """The coordinator knows again what was recorded."""
        self._recovery.values[()] = duration_s

    def observe_loop_lag(self, lag_s: float) -> None:
        """The event loop ran a timer so much too late."""
        self._lag.observe((), lag_s)

    def observe_job_queue(self, job_class: str, waited_s: float) -> None:
        """A job got its first lease."""
        self._queued.observe((job_class,), waited_s)

    def observe_job(self, model: str, outcome: str, duration_s: float) -> None:
        """A job ended."""
        self._lasted.observe((model, outcome), duration_s)

    def observe_first_token(self, model: str, duration_s: float) -> None:
        """The first token of an answer came so long after its request."""
        self._first_token.observe((model,), duration_s)

    def observe_each_token(self, model: str, duration_s: float) -> None:
        """An answer ended; its tokens came so far apart, in the mean."""
        self._each_token.observe((model,), duration_s)

    def observe_handover(self, gap_s: float) -> None:
        """Another car went on with an answer, so long after the last token."""
        self._gap.observe((), gap_s)

    def count_tokens(self, model: str, tokens: int) -> None:
        """A car said so many tokens."""
        self._tokens.add((model,), tokens)

    def count_recomputed(self, tokens: int) -> None:
        """So many tokens were read again for an answer that ended."""
        self._recomputed.add((), tokens)

    def count_reused(self, model: str, tokens: int) -> None:
        """A car began to speak, and held so many tokens from work before."""
        self._reused.add((model,), tokens)

    def count_hedge(self, result: str) -> None:
        """Of two cars that were asked the same one spoke: "first", "second"."""
        self._hedged.add((result,), 1)

    def count_breach(self, reason: str) -> None:
        """Something that was said of an answer does not count: "stale_token", "gap", "duplicate"."""
        self._breaches.add((reason,), 1)

    def begin_rpc(self, method: str) -> None:
        """A call was opened; `end_rpc` follows."""
        self._in_flight.add((method,), 1)

    def end_rpc(self, method: str, code: str, duration_s: float) -> None:
        """The call ended with this status."""
        self._in_flight.add((method,), -1)
        self._rpc.observe((method, code), duration_s)

    def count_rejection(self, reason: str) -> None:
        """A submission was refused where it entered."""
        self._rejected.add((reason,), 1)

    def count_auth_failure(self, kind: str) -> None:
        """A call was refused for its key."""
        self._auth_failures.add((kind,), 1)

    def count_violation(self, invariant: str) -> None:
        """The scheduler found this invariant broken."""
        self._violations.add((invariant,), 1)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everything, now, in the format that this Accept header prefers, and that format's content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """What the runtime reported: prometheus-client asks every collector so."""
        store = self._store()
        self._store_queue.values[()] = store.waiting
        self._store_log.values[()] = store.log_bytes
        self._store_free.values[()] = store.free_bytes
        self._store_disk.values[()] = store.disk_bytes
        for scalar in (
            self._rejected,
            self._store_queue,
            self._store_log,
            self._store_free,
            self._store_disk,
            self._store_errors,
            self._recovery,
            self._violations,
            self._in_flight,
            self._auth_failures,
            self._tokens,
            self._recomputed,
            self._reused,
            self._breaches,
            self._hedged,
        ):
            yield scalar.family()
        for times in (
            self._queued,
            self._lasted,
            self._handle,
            self._lag,
            self._commit,
            self._committed,
            self._rpc,
            self._first_token,
            self._each_token,
            self._gap,
        ):
            yield times.family()
