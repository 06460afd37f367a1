"""One lease as its lot holds it: what is finished, what runs, what is still to be reported."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from node.messages import EndCause, Granted, HeldLease, ItemError, Partial, Range, Report, Token, bitmap


@dataclass(slots=True)
class Speech:
    """All that this lot said of one answer: a new stream is told of it again."""

    first: int  # place of tokens[0] in the answer
    start: int  # characters of the answer before `text`
    reused: int = 0  # tokens that the car held from works before
    prompt_tokens: int = 0
    busy_s: float = 0.0  # that the lease has taken until its last token
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    likelihoods: list[bytes] = field(default_factory=list)  # of all tokens, or of none
    parts: list[tuple[int, int]] = field(default_factory=list)  # tokens and characters after each, with likelihoods
    taken: tuple[int, int] = (0, 0)  # tokens and characters that were taken

    @property
    def whole(self) -> bool:
        """Whether all of it was taken."""
        return self.taken == (len(self.tokens), len(self.text))

    def say(self, first: int, tokens: Sequence[int], start: int, text: str, likelihoods: Sequence[bytes]) -> None:
        """More of it, some of which may be said already."""
        known, written = self.first + len(self.tokens), self.start + len(self.text)
        self.tokens += tokens[max(0, known - first) :]
        self.text += text[max(0, written - start) :]
        if likelihoods:
            self.likelihoods += likelihoods[max(0, known - first) :]
            self.parts.append((len(self.tokens), len(self.text)))

    def take(self, token: Token, item: int, limit_bytes: int) -> Partial:
        """What was not yet taken; where there are likelihoods, which are long, up to about so much, as it was said:
        tokens with their text."""
        (first, start), (tokens, characters) = self.taken, self._until(limit_bytes)
        self.taken = tokens, characters
        return Partial(
            token,
            item,
            self.first + first,
            self.tokens[first:tokens],
            self.start + start,
            self.text[start:characters],
            self.reused,
            self.prompt_tokens,
            tuple(self.likelihoods[first:tokens]),
            self.busy_s,
        )

    def _until(self, limit_bytes: int) -> tuple[int, int]:
        """The tokens and characters that are taken then."""
        first = self.taken[0]
        for tokens, characters in self.parts[bisect_right(self.parts, self.taken) :]:
            limit_bytes -= sum(map(len, self.likelihoods[first:tokens]))
            if limit_bytes <= 0:
                return tokens, characters
            first = tokens
        return len(self.tokens), len(self.text)


def size_bytes(partial: Partial) -> int:
    """What a partial takes on the wire, at most, about."""
    said = 5 * (len(partial.tokens) + len(partial.text)) + sum(map(len, partial.likelihoods))
    return said + 8 * len(partial.likelihoods) + 64


@dataclass(slots=True)
class Lease:
    """Kept from the grant until its end is acknowledged."""

    token: Token
    node: int
    job_id: str
    model: str
    ranges: Sequence[Range]
    items: int
    interactive: bool
    solo: bool
    tenant: str = ""
    done: int = 0  # bitmap: finished here
    failed: int = 0  # bitmap: tried alone and failed
    announced: int = 0  # bitmap: on the executor or next to be
    putting: int = 0  # results on their way by PutResults
    fetching: bool = False  # its inputs are on their way: nothing of it has begun
    stopping: EndCause | None = None
    stopped: bool = False  # nothing of it runs any more, but for what is on its way by PutResults
    ended: EndCause | None = None
    fresh_items: list[int] = field(default_factory=list)  # offsets of results not yet taken
    fresh_results: list[bytes] = field(default_factory=list)
    fresh_bytes: int = 0
    fresh_errors: list[ItemError] = field(default_factory=list)
    useful_s: float = 0.0  # not yet taken, as the next three
    lost_s: float = 0.0
    loading_s: float = 0.0
    energy_modelled_j: float = 0.0
    awake_modelled_j: float = 0.0  # likewise
    taken_j: float = 0.0  # of the computer, in reports that were taken
    taken_awake_j: float = 0.0
    awake_from_s: float = 0.0  # how long its car was awake, for each lease, when that was last booked
    speeches: dict[int, Speech] = field(default_factory=dict)  # by item

    @classmethod
    def of(cls, granted: Granted) -> "Lease":
        """The lease that this grant opens."""
        return cls(
            granted.token,
            granted.node,
            granted.job_id,
            granted.model,
            granted.ranges,
            len(granted.inputs),
            granted.interactive,
            granted.solo,
            tenant=granted.tenant,
        )

    @property
    def spent_j(self) -> tuple[float, float]:
        """Joules that it took so far, modelled: of the computer, and of the car around it."""
        return self.taken_j + self.energy_modelled_j, self.taken_awake_j + self.awake_modelled_j

    @property
    def complete(self) -> bool:
        """Whether every item is done or in error."""
        return (self.done | self.failed).bit_count() == self.items

    def announce(self, items: Sequence[int]) -> None:
        """These items are on the executor or next to be, and no others."""
        self.announced = bitmap(items)

    def finish(self, items: Sequence[int], results: Sequence[bytes]) -> None:
        """These items are done; results in the order of `items`."""
        bits = bitmap(items)
        if bits & self.done:
            fresh = [(i, r) for i, r in zip(items, results, strict=True) if not self.done >> i & 1]
            items, results = [i for i, _ in fresh], [r for _, r in fresh]
        self.done |= bits
        self.fresh_items.extend(items)
        self.fresh_results.extend(results)
        self.fresh_bytes += sum(map(len, results))

    def fail(self, errors: Sequence[ItemError]) -> None:
        """These items failed, each tried alone."""
        self.failed |= bitmap([error.item for error in errors])
        self.fresh_errors.extend(errors)

    def say(
        self,
        item: int,
        first: int,
        tokens: Sequence[int],
        start: int,
        text: str,
        reused: int = 0,
        prompt_tokens: int = 0,
        likelihoods: Sequence[bytes] = (),
        busy_s: float = 0.0,
    ) -> None:
        """More of an answer; a micro-batch that failed as a whole says it again when its items are tried alone."""
        speech = self.speeches.get(item)
        if speech is None:
            speech = self.speeches[item] = Speech(first, start, reused, prompt_tokens)
        speech.say(first, tokens, start, text, likelihoods)
        speech.busy_s = max(speech.busy_s, busy_s)

    def take_said(self, limit_bytes: int) -> tuple[list[Partial], bool]:
        """What was said and not yet taken, up to about limit_bytes, and whether that was all."""
        partials: list[Partial] = []
        for item, speech in self.speeches.items():
            while not speech.whole:
                if limit_bytes <= 0:
                    return partials, False
                partials.append(speech.take(self.token, item, limit_bytes))
                limit_bytes -= size_bytes(partials[-1])
        return partials, True

    def say_again(self) -> bool:
        """All that was said is to be taken again; whether there is anything."""
        for speech in self.speeches.values():
            speech.taken = (0, 0)
        return bool(self.speeches)

    def discard(self) -> None:
        """Forget the results that were not yet taken: their items go back to the job."""
        self.done &= ~bitmap(self.fresh_items)
        self.fresh_items, self.fresh_results, self.fresh_bytes = [], [], 0

    def take(self, limit_bytes: int) -> tuple[Report, bool]:
        """What there is to report, results up to about limit_bytes, and whether that was all."""
        items, results = self.fresh_items, self.fresh_results
        if any(a > b for a, b in pairwise(items)):
            order = sorted(range(len(items)), key=items.__getitem__)
            items, results = [items[i] for i in order], [results[i] for i in order]
        count = len(items)
        if self.fresh_bytes > limit_bytes:
            count, size = 0, 0
            while count < len(items) and (count == 0 or size + len(results[count]) <= limit_bytes):
                size += len(results[count])
                count += 1
        whole = count == len(items)
        self.fresh_items, self.fresh_results = items[count:], results[count:]
        self.fresh_bytes = 0 if whole else sum(map(len, self.fresh_results))
        report = Report(
            token=self.token,
            items=self.items,
            done=bitmap(items if whole else items[:count]),
            results=results if whole else results[:count],
            errors=tuple(self.fresh_errors),
            running=self.announced & ~(self.done | self.failed),
            ended=self.ended if whole else None,
            useful_s=self.useful_s,
            lost_s=self.lost_s,
            loading_s=self.loading_s,
            energy_modelled_j=self.energy_modelled_j,
            awake_modelled_j=self.awake_modelled_j,
        )
        self.fresh_errors = []
        self.taken_j, self.taken_awake_j = self.spent_j
        self.useful_s = self.lost_s = self.loading_s = 0.0
        self.energy_modelled_j = self.awake_modelled_j = 0.0
        return report, whole

    def held(self) -> HeldLease:
        """Its row in Hello."""
        return HeldLease(self.token, self.node, self.job_id, self.ranges, self.items, self.done, self.model)
