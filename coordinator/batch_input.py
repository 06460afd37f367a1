"""The file that a batch reads: a request a line, all to one endpoint and for one model.

Owns what is wrong with such a file, line by line. It is gone through once to see that all of it is sound, and again
whenever its requests are wanted: it may be larger than memory. Knows no job and no network. Blocks.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from coordinator.answers import Answerable
from coordinator.errors import CarpoolError
from coordinator.formats import Batch, Request, read_object, repeated
from coordinator.refusal import Refused

MOST_LINE_BYTES = 16 << 20
"""Of one request (assumed: four times what may be asked at once)."""
MOST_WRONG = 100
"""Lines that are told as wrong; what is behind them is not looked at."""
_MOST_TOLD = 1000  # characters of each


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong with a line, or with the whole of a file."""

    code: str
    message: str
    line: int | None = None  # from 1
    param: str | None = None


class NotSound(Exception):
    """A file that no batch can be made of."""

    def __init__(self, wrong: Sequence[Wrong]) -> None:
        super().__init__(wrong[0].message)
        self.wrong = tuple(wrong)


class Stopped(Exception):
    """Nobody wants to know any more what is in a file."""


class Asking(NamedTuple):
    """What one request asks of cars, and how that is told."""

    items: Sequence[bytes]  # at least one
    answer: Callable[[Sequence[bytes], str, int], str]
    """The body of the answer, JSON, from the results of these items, the request's id, and when it was made, Unix
    seconds. Raises ValueError, KeyError or TypeError when they cannot be read."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How requests to one endpoint are read."""

    kind: str  # of the models that serve it
    read: Callable[[dict[str, Any]], Asking]
    """What a body asks, whether its model is here or not. Raises Refused."""


@dataclass(frozen=True, slots=True)
class Sound:
    """What is in a file that was gone through."""

    model: str
    requests: int
    items: int


class BatchInput:
    """One such file."""

    def __init__(
        self,
        opened: Callable[[], BinaryIO],
        endpoint: str,
        reader: Reader,
        created_s: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """`opened` gives the file anew, from its beginning; `created_s` is when it was asked, Unix seconds. When
        `stopped`, nothing more is read: Stopped is raised."""
        self._stopped = stopped
        self._created_s = created_s
        self._opened = opened
        self._endpoint = endpoint
        self._reader = reader

    def check(self, admit: Callable[[str, Sequence[bytes]], None], most_items: int) -> Sound:
        """What is in it. Raises NotSound. `admit` raises Refused for items that no car would take of a model."""
        wrong: list[Wrong] = []
        hashes = array("q")  # of the custom_ids: eight bytes a request
        model, items = "", 0
        for line, text in self._lines():
            try:
                custom_id, body = self._request(line, text)
                hashes.append(hash(custom_id))
                asked = body.get("model")
                if not isinstance(asked, str) or not asked:
                    raise _Line("missing_required_parameter", line, "needs a body.model", "body.model")
                model = model or asked
                if asked != model:
                    told = f"asks for model {_shown(asked)}, and line 1 for {_shown(model)}; make a batch for each"
                    raise _Line("mismatched_model", line, told, "body.model")
                payloads = self._asking(line, body).items
                try:
                    admit(model, payloads)
                except Refused as refused:
                    raise _Line("invalid_request", line, f"cannot be served: {refused}") from None
                items += len(payloads)
                if items > most_items:
                    told = f"has more than {most_items} items before its end; split it"
                    raise NotSound([Wrong("too_many_requests", f"the file {told}", line)])
            except _Line as error:
                wrong.append(error.wrong)
                if len(wrong) == MOST_WRONG:
                    break
        if not wrong and not hashes:
            wrong.append(Wrong("empty_file", "the file has no request; give at least one line"))
        wrong.extend(islice(self._repeated(hashes), MOST_WRONG) if not wrong else ())
        if wrong:
            raise NotSound(wrong)
        return Sound(model, len(hashes), items)

    def model(self) -> str:
        """The model that the first line asks for; empty when it asks for none."""
        for line, text in self._lines():
            try:
                _, body = self._request(line, text)
            except _Line:
                return ""
            return str(body.get("model", ""))
        return ""

    def batch(self, sound: Sound) -> Batch:
        """Its requests, of which it was seen before that they are sound."""
        return Batch(self._requests, sound.requests, sound.items)

    def answerable(self) -> Iterator[Answerable]:
        """The same, as results answer them."""
        for line, text in self._lines():
            custom_id, body = self._request(line, text)
            items, answer = self._asking(line, body)
            yield Answerable(custom_id, len(items), partial(_answered, answer, self._created_s))

    def _requests(self) -> Iterator[Request]:
        for line, text in self._lines():
            custom_id, body = self._request(line, text)
            yield custom_id, self._asking(line, body).items

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Lines with their numbers; empty ones are passed over."""
        with self._opened() as file:
            line = 0
            while raw := file.readline(MOST_LINE_BYTES + 1):
                line += 1
                if self._stopped():
                    raise Stopped
                if len(raw) > MOST_LINE_BYTES:
                    told = f"line {line} has more than {MOST_LINE_BYTES} bytes; split the request"
                    raise NotSound([Wrong("line_too_long", told, line)])
                raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                if not raw.strip():
                    continue
                try:
                    yield line, raw.decode()
                except UnicodeDecodeError as error:
                    told = f"line {line} is not UTF-8 at byte {error.start}; save the file as UTF-8"
                    raise NotSound([Wrong("invalid_json_line", told, line)]) from None

    def _request(self, line: int, text: str) -> tuple[str, dict[str, Any]]:
        """The custom_id and the body of a line. Raises _Line."""
        try:
            request = read_object("", text)
        except CarpoolError as error:
            raise _Line("invalid_json_line", line, str(error).strip()) from None
        custom_id, body, url = request.get("custom_id"), request.get("body"), request.get("url")
        if not isinstance(custom_id, str) or not custom_id:
            raise _Line(
                "missing_required_parameter", line, "needs a custom_id, a text that is not empty", "custom_id"
            )
        if not _is_text(custom_id):
            raise _Line("invalid_custom_id", line, "has half a surrogate pair in its custom_id", "custom_id")
        if request.get("method") != "POST":
            told = f'has the method {_shown(request.get("method"))}; give "POST"'
            raise _Line("invalid_method", line, told, "method")
        if url != self._endpoint:
            told = f"has the url {_shown(url)}, and the batch is for {self._endpoint!r}; give that one"
            raise _Line("invalid_url", line, told, "url")
        if not isinstance(body, dict):
            raise _Line("missing_required_parameter", line, "needs a body, an object", "body")
        return custom_id, {name: value for name, value in body.items() if value is not None}

    def _asking(self, line: int, body: dict[str, Any]) -> Asking:
        """What a body asks. Raises _Line."""
        if body.get("stream"):
            told = "asks for a stream, and a batch is answered in a file; leave body.stream out"
            raise _Line("invalid_request", line, told, "body.stream")
        try:
            return self._reader.read(body)
        except Refused as refused:
            param = getattr(refused, "param", None)
            told = f"cannot be served: {refused}"
            raise _Line("invalid_request", line, told, f"body.{param}" if param else "body") from None

    def _repeated(self, hashes: "array[int]") -> Iterator[Wrong]:
        twice = repeated(hashes, MOST_WRONG)
        first: dict[str, int] = {}
        for line, text in self._lines() if twice else ():
            custom_id, _ = self._request(line, text)
            if hash(custom_id) in twice and first.setdefault(custom_id, line) != line:
                told = f"has the custom_id {_shown(custom_id)} of line {first[custom_id]}; make it unique"
                yield Wrong("duplicate_custom_id", f"line {line} {told}", line, "custom_id")


class _Line(Exception):
    def __init__(self, code: str, line: int, told: str, param: str | None = None) -> None:
        super().__init__(told)
        told = told if len(told) <= _MOST_TOLD else f"{told[:_MOST_TOLD]}…"  # it may quote what was sent
        self.wrong = Wrong(code, f"line {line} {told}", line, param)


def _answered(
    answer: Callable[[Sequence[bytes], str, int], str], created_s: int, results: Sequence[bytes], request_id: str
) -> str:
    return answer(results, request_id, created_s)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
