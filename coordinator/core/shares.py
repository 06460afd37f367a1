"""Fair shares: what each tenant was lent of the fleet's time, by its weight.

Start-time fair queueing: whoever was lent least for its weight is served next, and nobody saves up what it left
unused. (P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996.)
"""

from collections.abc import Iterable


class Shares:
    """The account of every tenant, in accelerator-seconds for a weight of 1."""

    def __init__(self, weights: Iterable[tuple[str, float]]) -> None:
        """Tenants that are not named weigh 1."""
        self._weights = dict(weights)
        self._lent: dict[str, float] = {}
        self._served = {False: 0.0, True: 0.0}  # the account that was served last, before it was, by class

    def weight(self, tenant: str) -> float:
        """What it weighs against others."""
        return self._weights.get(tenant, 1.0)

    def lent(self, tenant: str) -> float:
        """The account: the smaller, the sooner it is served."""
        return self._lent.get(tenant, 0.0)

    def wake(self, tenant: str, interactive: bool, waiting: Iterable[str]) -> None:
        """It begins to wait for what these wait for: from now on it is served as they are.

        Interactive work goes first whatever its tenant was lent, so that says nothing of where the others stand.
        """
        begin = min(map(self.lent, waiting), default=self._served[interactive])
        self._lent[tenant] = max(self.lent(tenant), begin)

    def charge(self, tenant: str, interactive: bool, seconds: float) -> None:
        """It was lent a node for so long."""
        self._served[interactive] = self.lent(tenant)
        self._lent[tenant] = self.lent(tenant) + seconds / self.weight(tenant)

    def refund(self, tenant: str, seconds: float) -> None:
        """So much of what it was lent came to nothing."""
        self._lent[tenant] = self.lent(tenant) - seconds / self.weight(tenant)
