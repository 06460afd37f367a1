"""Save, then send, then answer: the one function that carries out what the core orders.

The live runtime calls it, and so does the simulated world (`benchmarks/world`): what survives a crash in one
survives it in the other.
"""

from typing import Protocol

from coordinator.core.effects import Acknowledge, Effects, Order, Record
from coordinator.store import Operation, Store


class Driver(Protocol):
    """Who owns the links, the clients and the payloads."""

    def operation(self, record: Record) -> Operation:
        """A record with the bytes that belong to it."""

    def send(self, order: Order | Acknowledge) -> None:
        """Hand an order to a lot."""

    def answer(self, record: Record) -> None:
        """Tell whoever waits that this is so."""

    def fail(self, records: list[Record], error: Exception) -> None:
        """The store could not record these; nobody has been told anything of them."""


def perform(effects: Effects, store: Store, driver: Driver) -> None:
    """Carry out the orders of one step.

    What must be recorded is committed before anybody hears of it; a lot's message is acknowledged when all that it
    and earlier messages brought is recorded. The rest does not wait.
    """
    for order in effects.send:
        driver.send(order)
    for record in effects.answer:
        driver.answer(record)
    if not effects.save and not effects.acknowledge:
        return

    def committed(error: Exception | None) -> None:
        if error is not None:
            driver.fail(effects.save, error)
            return
        for acknowledge in effects.acknowledge:
            driver.send(acknowledge)
        for record in effects.save:
            driver.answer(record)

    store.commit([driver.operation(record) for record in effects.save], committed)
