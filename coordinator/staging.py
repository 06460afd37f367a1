"""Large results that were put ahead of their reports, until these come. Knows no call and no message."""

from collections.abc import Container

from coordinator.core.events import Token
from coordinator.refusal import Refusal, Refused


class Staging:
    """What this boot of the coordinator was brought; a restart forgets it."""

    def __init__(self, leases: Container[Token]) -> None:
        """`leases` are those that are live now."""
        self._leases = leases
        self._results: dict[Token, dict[int, bytes]] = {}

    def put(self, token: Token, item: int, payload: bytes) -> None:
        """Keep a result for its report; refused when the lease is not live."""
        if token not in self._leases:
            raise Refused(Refusal.NOT_FOUND, f"lease {token.epoch}.{token.attempt} is not live; drop its results")
        for stale in [stale for stale in self._results if stale not in self._leases]:
            del self._results[stale]
        self._results.setdefault(token, {})[item] = payload

    def take(self, token: Token, item: int) -> bytes | None:
        """A result that its report leaves empty; None: it is not here any more."""
        return self._results.get(token, {}).pop(item, None)
