"""What may go wrong, by kind. Each fault strikes a random place, overlaps with others, and heals by itself or at
the end of the storm."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from benchmarks.world.cars import LotProcess
from benchmarks.world.network import Direction, End
from benchmarks.world.site import Site

if TYPE_CHECKING:
    from benchmarks.world.world import World

Fault = Callable[["World", Random], bool]
"""Strikes, or says False where there is nothing to strike."""


def _duration_s(generator: Random) -> float:
    """From a hiccup to a tunnel: 10 ms to 30 s."""
    return float(10.0 ** generator.uniform(-2.0, 1.5))


def _site(world: "World", generator: Random) -> Site:
    return generator.choice(world.sites)


def _lot(world: "World", generator: Random) -> LotProcess | None:
    """A lot whose process runs."""
    lots = [site.lot for site in world.sites if site.lot is not None]
    return generator.choice(lots) if lots else None


def _near(world: "World", generator: Random) -> End | None:
    """The lot's end of a stream that is open."""
    ends = [site.lot.end for site in world.sites if site.lot is not None and site.lot.end is not None]
    return generator.choice(ends) if ends else None


def _stream(world: "World", generator: Random) -> End | None:
    """One end of a stream that is open."""
    near = _near(world, generator)
    return near and generator.choice((near, near.peer))


def _direction(world: "World", generator: Random) -> Direction:
    route = _site(world, generator).route
    return generator.choice((route.up, route.down))


def loss(world: "World", generator: Random) -> bool:
    """A message is lost: the stream breaks."""
    end = _stream(world, generator)
    if end is not None:
        end.lose()
    return end is not None


def reset(world: "World", generator: Random) -> bool:
    """One end of a stream closes it."""
    end = _stream(world, generator)
    if end is not None:
        end.reset()
    return end is not None


def overtaking(world: "World", generator: Random) -> bool:
    """A stream breaks whose messages are on their way still when the next one opens; counted as they come."""
    end = _near(world, generator)
    if end is not None:
        late_s = 0.05 + generator.random()
        end.hold(late_s)
        world.clock.after(max(0.0, late_s - 0.2), end.process, end.reset)
    return False


def duplication(world: "World", generator: Random) -> bool:
    """Some messages come twice; they are counted as they come."""
    _direction(world, generator).repeats += generator.randint(1, 4)
    return False


def partition(world: "World", generator: Random) -> bool:
    """One way carries nothing for a while."""
    _direction(world, generator).blocked_until_s = world.clock.now_s + _duration_s(generator)
    return True


def tunnel(world: "World", generator: Random) -> bool:
    """Neither way carries anything for a while: a silent loss."""
    route = _site(world, generator).route
    until_s = world.clock.now_s + _duration_s(generator)
    route.up.blocked_until_s = route.down.blocked_until_s = until_s
    return True


def clogging(world: "World", generator: Random) -> bool:
    """What one stream carries one way is stuck in a queue; a new stream would pass it."""
    end = _stream(world, generator)
    if end is not None:
        end.hold(_duration_s(generator))
    return end is not None


def broken_transfer(world: "World", generator: Random) -> bool:
    """Some calls for large payloads break, before or after they are served; counted as they do."""
    _site(world, generator).calls.breaks += generator.randint(1, 4)
    return False


def unplugging(world: "World", generator: Random) -> bool:
    """Drivers take some cars."""
    sites = [site for site in world.sites if site.plugged]
    if sites:
        site = generator.choice(sites)
        site.unplug(generator.sample(sorted(site.plugged), generator.randint(1, len(site.plugged))))
    return bool(sites)


def plugging(world: "World", generator: Random) -> bool:
    """Drivers come back, or give their cars another window."""
    site = _site(world, generator)
    site.plug([car for car in range(site.cars) if generator.random() < 0.7])
    return True


def zombie(world: "World", generator: Random) -> bool:
    """A lot's process stands still, and wakes when its leases may be others'."""
    lot = _lot(world, generator)
    if lot is not None:
        lot.process.stand_still(world.clock.now_s + _duration_s(generator))
    return lot is not None


def kill(world: "World", generator: Random) -> bool:
    """A lot's process ends without a word; another one starts later."""
    lot = _lot(world, generator)
    if lot is not None:
        if generator.random() < 0.5 and lot.end is not None:
            lot.end.lose()  # its machine: not even the kernel says goodbye
        lot.die()
    return lot is not None


def shutdown(world: "World", generator: Random) -> bool:
    """A lot leaves on purpose."""
    lot = _lot(world, generator)
    if lot is not None:
        lot.shut_down()
    return lot is not None


def slow_node(world: "World", generator: Random) -> bool:
    """A lot's accelerator gets slower or faster."""
    lot = _lot(world, generator)
    if lot is not None:
        lot.accelerator.slowness = 10.0 ** generator.uniform(-0.5, 2.0)
    return lot is not None


def wedge(world: "World", generator: Random) -> bool:
    """An accelerator hangs in its next micro-batch; its process beats on."""
    lot = _lot(world, generator)
    if lot is not None:
        lot.accelerator.wedged = True
    return lot is not None


def crash(world: "World", generator: Random) -> bool:
    """The coordinator's process ends between two events, now or while a large result waits for its report."""
    coordinator = world.coordinators.now
    if coordinator is None:
        return False
    if generator.random() < 0.3 and not coordinator.ends_after_put:
        coordinator.ends_after_put = True
        return False
    world.crash()
    return True


def fuse(world: "World", generator: Random) -> bool:
    """The coordinator will end between two saves, sends and answers; counted when it does."""
    coordinator = world.coordinators.now
    if coordinator is not None and coordinator.fuse is None:
        coordinator.fuse = generator.randrange(12)
    return False


def stall(world: "World", generator: Random) -> bool:
    """The coordinator's process stands still for a while."""
    coordinator = world.coordinators.now
    if coordinator is not None:
        coordinator.process.stand_still(world.clock.now_s + _duration_s(generator))
    return coordinator is not None


def slow_disk(world: "World", generator: Random) -> bool:
    """Commits take longer, or no time again."""
    world.disk.commit_s = generator.choice((0.0, 0.005, 0.1, 3.0))
    return True


def disk_failure(world: "World", generator: Random) -> bool:
    """The next commit fails; the coordinator stops."""
    world.disk.fails = True
    return True


def full_disk(world: "World", generator: Random) -> bool:
    """There is room for no or a few more parts of submissions, for a while; counted when one is refused."""
    world.disk.room = generator.randrange(4)
    world.clock.after(_duration_s(generator), world.disk.process, world.disk.make_room)
    return False


def damage(world: "World", generator: Random) -> bool:
    """An input on the disk is not what was written any more."""
    accepted = [at for at in world.tenants.waiting.values() if at.job is not None and not at.interactive]
    if accepted:
        submission = generator.choice(accepted)
        assert submission.job is not None
        world.disk.damaged.add((submission.job, generator.randrange(len(submission.items))))
    return bool(accepted)


def concurrent_claim(world: "World", generator: Random) -> bool:
    """A tenant hands a job in twice at once; counted when the second finds the key claimed."""
    if len(world.tenants.waiting) < 60:
        world.tenants.hand_in_twice()
    return False


def flood(world: "World", generator: Random) -> bool:
    """Many tenants come at once."""
    if len(world.tenants.waiting) > 50:
        return False
    for _ in range(8):
        world.tenants.hand_in(generator.randint(1, 20), interactive=generator.random() < 0.7)
    return True


def poison(world: "World", generator: Random) -> bool:
    """A job brings items that fail, or kill whoever runs them."""
    world.tenants.hand_in(generator.randint(1, 40), interactive=generator.random() < 0.3, poisoned=True)
    return True


def cancellation(world: "World", generator: Random) -> bool:
    """A tenant wants its job no more."""
    return world.tenants.cancel_one()


def cordon(world: "World", generator: Random) -> bool:
    """An operator takes nodes out, or puts them back."""
    coordinator = world.coordinators.now
    return coordinator is not None and coordinator.cordon(generator.random() < 0.5)


def drain(world: "World", generator: Random) -> bool:
    """An operator wants a car to finish and leave; its driver plugs it in again some day."""
    coordinator = world.coordinators.now
    return coordinator is not None and coordinator.drain()


def yielding(world: "World", generator: Random) -> bool:
    """The coordinator wants a lease back as soon as what runs of it has ended."""
    coordinator = world.coordinators.now
    return coordinator is not None and coordinator.ask_to_yield()


FAULTS: dict[str, Fault] = {
    "broken transfer": broken_transfer,
    "cancellation": cancellation,
    "clogging": clogging,
    "concurrent claim": concurrent_claim,
    "cordon": cordon,
    "crash": crash,
    "damage": damage,
    "disk failure": disk_failure,
    "drain": drain,
    "duplication": duplication,
    "flood": flood,
    "full disk": full_disk,
    "fuse": fuse,
    "kill": kill,
    "loss": loss,
    "overtaking": overtaking,
    "partition": partition,
    "plugging": plugging,
    "poison": poison,
    "reset": reset,
    "shutdown": shutdown,
    "slow disk": slow_disk,
    "slow node": slow_node,
    "stall": stall,
    "tunnel": tunnel,
    "unplugging": unplugging,
    "wedge": wedge,
    "yielding": yielding,
    "zombie": zombie,
}

WEIGHTS = {
    "broken transfer": 3,
    "clogging": 2,
    "concurrent claim": 4,
    "crash": 2,
    "drain": 2,
    "flood": 8,
    "fuse": 4,
    "kill": 2,
    "loss": 2,
    "overtaking": 18,
    "plugging": 3,
    "reset": 2,
    "unplugging": 6,
    "yielding": 3,
}
"""How much more often than the others these are tried: they strike less often than they are tried."""

COUNTED = tuple(
    sorted(
        {
            *FAULTS.keys() - {"fuse", "overtaking"},
            "crash between save, send and answer",
            "overload",
            "reordering",
        }
    )
)
"""Kinds as they are counted: when they strike, not when they are prepared."""
