"""One run of a lot's process: the real lot and link, and in place of agent and uplink loops on virtual time."""

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from benchmarks.world.accelerator import Accelerator
from benchmarks.world.clock import Clock, Process, Timer
from benchmarks.world.network import End
from benchmarks.world.transfers import Calls, Transfers
from node import wire
from node.events import Announced, Event, PluggedIn, ShutDown, Unplugged, Welcomed, WindowsEstimated
from node.link import Link
from node.lot import Lot
from node.messages import Message, ModelOffer, Token, Vehicle, Ways
from protos import link_pb2

_PACE_S = 0.001
_COHORTS = ("home", "workplace", "depot", "rack", "nowhere")
_WELCOME_WITHIN_S = 10.0


class LotProcess:
    """A process with some cars."""

    def __init__(
        self,
        clock: Clock,
        generator: Random,
        name: str,
        cars: int,
        models: Sequence[ModelOffer],
        connect: Callable[[Process], End | None],
        calls: Calls,
        over: Callable[[], None],
    ) -> None:
        """`connect` opens a stream, None: nobody listens; `over` is called when the process ends by itself."""
        self.process = Process()
        vehicles = [Vehicle(f"{name}-{car}", "hw4", 160.0, name) for car in range(cars)]
        ways = Ways(_COHORTS[generator.randrange(len(_COHORTS))], pace=60.0)
        self.lot = Lot(name, generator.getrandbits(64) or 1, vehicles, models, ways)
        self.link = Link(generator)
        self.accelerator = Accelerator(clock, self.process, generator, self, 1.0 / models[0].items_per_s)
        self._transfers = Transfers(calls, self.process, self.tell)
        self.end: End | None = None
        self._clock, self._generator = clock, generator
        self._connect, self._over = connect, over
        self._announcements: list[tuple[Token, Callable[[], None]]] = []
        self._patience: Timer | None = None
        self._beats: Timer | None = None
        self._write_is_due = False
        self._open()

    # The driver's hand.

    def plug(self, cars: Sequence[int], window_s: float) -> None:
        """These are on the charger, and expected to stay for so long."""
        declared = self._generator.random() < 0.5
        self.tell(PluggedIn(np.array(cars, np.intp), np.full(len(cars), window_s), declared))

    def estimate(self, cars: Sequence[int], window_s: float) -> None:
        """These are now expected to stay for so long."""
        self.tell(WindowsEstimated(np.array(cars, np.intp), np.full(len(cars), window_s)))

    def unplug(self, cars: Sequence[int]) -> None:
        """Their drivers take these."""
        self.tell(Unplugged(np.array(cars, np.intp)))

    def shut_down(self) -> None:
        """Leave on purpose."""
        self.tell(ShutDown())

    def die(self) -> None:
        """End without a word. A process that is killed has its streams closed by the kernel."""
        self.process.ended = True
        if self.end is not None:
            self.end.close()
        self._over()

    # What the agent does.

    def tell(self, *events: Event) -> None:
        """Tell the lot, do what it wants."""
        effects = self.lot.handle(events, self._clock.now_s)
        if effects.stop:
            self._transfers.stop(effects.stop)
            self.accelerator.stop(effects.stop)
            self._release(lambda token: token in effects.stop)
        if effects.wind_down:
            self.accelerator.wind_down(effects.wind_down)
        for granted in effects.start:
            self.accelerator.submit(granted)
        for granted in effects.fetch:
            self._transfers.fetch(granted)
        for put in effects.put:
            self._transfers.put(put)
        if self.lot.pending:
            self._news()

    def announce(self, token: Token, items: Sequence[int], run: Callable[[], None]) -> None:
        """Let these items run once that is written; without a stream only a solo one waits."""
        self.tell(Announced(token, items))
        if self.link.open or self.lot.solo(token):
            self._announcements.append((token, run))
            self._news()
        else:
            run()

    # What the uplink does.

    def _open(self) -> None:
        self.end = self._connect(self.process)
        if self.end is None:
            self._lost()
            return
        self.end.receive, self.end.ended = self._receive, self._lost
        self.end.write(_bytes(Message(hello=self.lot.hello())))
        self._patience = self._clock.after(_WELCOME_WITHIN_S, self.process, self._give_up)

    def _give_up(self) -> None:
        if self.end is not None and not self.link.open:
            self.end.close()
            self._lost()

    def _receive(self, message: bytes) -> None:
        answer = wire.decode(link_pb2.ConnectResponse.FromString(message))
        if not self.link.open:
            assert self.end is not None
            assert answer.welcome is not None, "the first message of a stream is a welcome"
            for unacknowledged in self.link.welcomed(answer.welcome):
                self.end.write(_bytes(unacknowledged))
            self.tell(Welcomed(answer.welcome.dropped), *answer.events)
            self._news()
            self._beats = self._clock.after(answer.welcome.heartbeat_s, self.process, self._beat)
            return
        if answer.acknowledged:
            self.link.acknowledged(answer.acknowledged, self.lot.forget)
        if answer.events:
            self.tell(*answer.events)

    def _beat(self) -> None:
        assert self.link.welcome is not None
        self.lot.beat()
        self._news()
        self._beats = self._clock.after(self.link.welcome.heartbeat_s, self.process, self._beat)

    def _news(self) -> None:
        if self.link.open and not self._write_is_due:
            self._write_is_due = True
            self._clock.after(self._generator.random() * _PACE_S, self.process, self._write)

    def _write(self) -> None:
        self._write_is_due = False
        if not self.link.open:
            return
        assert self.end is not None
        for message in self.lot.take(self._clock.now_s):
            self.end.write(_bytes(self.link.submit(message)))
        if self.lot.said_goodbye:
            self.process.ended = True
            self._over()
            return
        self._release(lambda token: True)

    def _lost(self) -> None:
        for timer in (self._patience, self._beats):
            if timer is not None:
                timer.cancel()
        self.end = None
        wait_s = self.link.lost()
        self._release(lambda token: not self.lot.solo(token))
        self._clock.after(wait_s, self.process, self._open)

    def _release(self, chosen: Callable[[Token], bool]) -> None:
        """Let those run whose announcements need not wait any more."""
        announcements, self._announcements = self._announcements, []
        for token, run in announcements:
            if chosen(token):
                run()
            else:
                self._announcements.append((token, run))


def _bytes(message: Message) -> bytes:
    return wire.encode(message).SerializeToString(deterministic=True)
