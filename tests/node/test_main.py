"""`python -m node`: bad input is one line and exit code 2; every way out leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import pytest

from node import client, site
from node.__main__ import configs, parser
from node.address import addresses
from tests.node.test_agent import WITHIN_S, Coordinator

NODE = (sys.executable, "-m", "node", "--models", "", "--noop", "--opt-in")
RAY_WITHIN_S = 120.0


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (
            ["--weights", "fetched"],
            "without a place there are no links to fetch over; give --place depot, garage, home",
        ),
        (["--profile", "hw9"], "there is no profile 'hw9'; choose one of ai5, b200"),
        (
            ["--profile", "h100", "--day", "home"],
            "'h100' is no vehicle, it has no battery, and on --day home they drive",
        ),
        (["--profile", "hw4:2", "--vehicles", "3"], "names 2 vehicles and there are 3"),
        (
            ["--profile", "hw4:1,rack:1", "--day", "rack:1,home:1"],
            "'rack' is no vehicle, it has no battery, and on --day home they drive",
        ),
        (["--day", "sunday"], "there is no day 'sunday'"),
        (["--pace", "profile", "--profile", "optimus"], "'optimus' cannot be timed, its int8_tops is unknown"),
        (
            ["--pace", "profile", "--profile", "hw4:1,ai5:1"],
            "share one pace, and --profile names hw4, ai5; start a lot",
        ),
        (["--day", "home:2,rack:1", "--vehicles", "4"], "names 3 vehicles and there are 4; make them equal"),
        (["--storm", "flood"], "there is no storm 'flood'; choose one of holiday, power-cut, update"),
        (["--speed", "0"], "--speed 0.0 cannot be; give a number over 0"),
        (["--memory-gb", "0"], "--memory-gb 0.0 cannot be; give a number over 0"),
        (["--kv-positions", "0"], "'0' is no count; give a whole number over 0"),
        (["--batch-delay-ms", "-1"], "--batch-delay-ms -1.0 cannot be; give a number of at least 0"),
        (["--models", "nix"], "no model 'nix'"),
        (["--vehicles", "many"], "'many' is no count"),
        (["--place", "moon"], "there is no place 'moon'; choose one of depot, garage, home"),
        (["--noop", "--models", "", "--facts", "/proc/nowhere"], "/proc/nowhere cannot be used: No such file"),
        (
            ["--noop", "--models", "", "--run-dir", "/proc/nowhere", "--site", "here"],
            "/proc/nowhere cannot be used",
        ),
        (["--terms", "nowhere.toml"], "--opt-in and --terms cannot be together"),
        (["--ray", "--ray-address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1 (Connection refused)"),
        (["--ray", "--ray-address", "ray://head:10001"], "ray://head:10001 cannot be; give the HOST:PORT of a Ray"),
    ],
)
def test_a_wrong_flag_is_named_in_the_last_line(flags: list[str], why: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*NODE, "--coordinator", "127.0.0.1:1", *flags],
        env={**os.environ, "CARPOOL_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert why in done.stderr.splitlines()[-1]
    assert not done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "eof"])
def test_a_lot_ends_cleanly(how: str, tmp_path: Path) -> None:
    async def scene() -> None:
        coordinator = Coordinator()
        server, port = await coordinator.listen_on(0)
        flags = ["--coordinator", f"127.0.0.1:{port}", "--run-dir", str(tmp_path), "--stop-at-eof"]
        process = await asyncio.create_subprocess_exec(
            *NODE, *flags, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stderr is not None
        async with asyncio.timeout(WITHIN_S):
            assert await process.stderr.readline() == b"lot lot ready vehicles=1\n"
            assert len(addresses(tmp_path)) == 1
            if how == "eof":
                process.stdin.close()
            else:
                process.send_signal(signal.Signals[how])
            await coordinator.until(lambda m: m.HasField("goodbye"))
            assert await process.wait() == 0
        assert not addresses(tmp_path)
        await server.stop(0)

    asyncio.run(scene())


def test_a_killed_actor_comes_back_as_a_new_incarnation_and_no_process_is_left() -> None:
    async def scene(folder: Path) -> None:
        coordinator = Coordinator()
        server, port = await coordinator.listen_on(0)
        errors = (folder / "errors").open("wb")
        process = await _ray_lot(port, folder, errors)
        async with asyncio.timeout(RAY_WITHIN_S):
            first = await coordinator.hellos.get()
            await coordinator.until(lambda m: bool(m.offers))
            (car,) = await asyncio.to_thread(client.parked, folder)
            assert os.getpriority(os.PRIO_PROCESS, car.process_id) == os.getpriority(os.PRIO_PROCESS, 0)
            os.kill(car.process_id, signal.SIGKILL)
            second = await coordinator.hellos.get()
            assert second.lot_id == first.lot_id == "lot-0000"
            assert second.incarnation != first.incarnation
            await coordinator.until(lambda m: bool(m.offers))
            process.terminate()
            await coordinator.until(lambda m: m.HasField("goodbye"))
            assert await process.wait() == 0
        await server.stop(0)
        assert not addresses(folder)
        assert not _mentioning(str(folder)), "Ray's processes carry the path of their folder"

    # A short path: then Ray's own files lie in it as well, and its processes name it.
    with tempfile.TemporaryDirectory(prefix="carpool-") as folder:
        asyncio.run(scene(Path(folder)))


async def _ray_lot(port: int, folder: Path, errors: IO[bytes]) -> asyncio.subprocess.Process:
    flags = ["--ray", "--coordinator", f"127.0.0.1:{port}", "--run-dir", str(folder)]
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "HOME": str(folder / "nowhere")}
    return await asyncio.create_subprocess_exec(*NODE, *flags, env=environment, stderr=errors)


def _mentioning(text: str) -> list[str]:
    """Command lines of processes that name this text."""
    listed = subprocess.run(["ps", "-A", "-o", "command"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if text in line]


def test_a_mix_of_days_is_dealt_to_the_lots_and_starts_for_all_as_its_first() -> None:
    mix = ["--day", "home:2,rack:3", "--storm", "update@2"]
    flags = ["--coordinator", "127.0.0.1:1", "--ray", "--vehicles-per-actor", "3", *mix]
    first, second = configs(parser().parse_args(flags))
    assert (first.day, second.day) == ("home:2", "rack:3")
    assert len(first.profiles) + len(second.profiles) == 5
    assert {(one.starts_as, one.storms) for one in (first, second)} == {("home", "update@2")}


def test_cars_are_shared_evenly_among_as_many_actors_as_cores() -> None:
    given = parser().parse_args(["--coordinator", "127.0.0.1:1", "--ray", "--vehicles", "9"])
    sizes = [len(config.profiles) for config in configs(given)]
    assert len(sizes) == min(os.cpu_count() or 1, 9)
    assert sum(sizes) == 9
    assert max(sizes) - min(sizes) <= 1
    assert [config.first_index for config in configs(given)] == [sum(sizes[:at]) for at in range(len(sizes))]


def test_lots_begin_where_places_change_and_share_each_ones_connection() -> None:
    flags = ["--coordinator", "127.0.0.1:1", "--vehicles", "10", "--place", "home:2,garage:8"]
    lots = configs(parser().parse_args([*flags, "--ray", "--vehicles-per-actor", "5"]))
    assert [(lot.place, len(lot.profiles), lot.place_cars) for lot in lots] == [
        ("home", 2, 2),
        ("garage", 3, 8),
        ("garage", 5, 8),
    ]
    shares = [site.load(lot.place).part(len(lot.profiles), lot.place_cars).limit_kw for lot in lots[1:]]
    assert sum(shares) == site.load("garage").limit_kw
    with pytest.raises(ValueError, match=r"the cars of a lot share a connection, and the mix names home, garage"):
        configs(parser().parse_args(flags))


def test_each_actor_of_a_paced_fleet_has_cars_of_one_profile() -> None:
    flags = ["--coordinator", "127.0.0.1:1", "--ray", "--pace", "profile", "--vehicles-per-actor", "3"]
    lots = configs(parser().parse_args([*flags, "--profile", "hw4:4,rack:1,hw3:3"]))
    assert all(len(set(lot.profiles)) == 1 for lot in lots)
    assert [name for lot in lots for name in lot.profiles] == ["hw4"] * 4 + ["rack"] + ["hw3"] * 3
    assert [lot.first_index for lot in lots] == [0, 2, 4, 5]
    assert {lot.pace for lot in lots} == {"profile"}


def test_owners_take_part_only_if_they_say_so(tmp_path: Path) -> None:
    def opted_in(*flags: str) -> list[bool]:
        given = parser().parse_args(["--coordinator", "127.0.0.1:1", "--vehicles", "3", *flags])
        return [terms.opted_in for config in configs(given) for terms in config.terms]

    file = tmp_path / "terms.toml"
    file.write_text("[vehicles.car-0001]\nopted_in = true\n")
    assert opted_in() == [False, False, False]
    assert opted_in("--opt-in") == [True, True, True]
    assert opted_in("--terms", str(file)) == [False, True, False]
    file.write_text("[terms]\nleast_charge = 20\n")
    with pytest.raises(ValueError, match=r"the terms .*terms.toml: least_charge = 20 cannot be"):
        opted_in("--terms", str(file))
