"""An executor that offers more models than its memory holds: they are loaded when they are wanted."""

import json
import random
import shutil
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node import conversion
from node.executor import Executor
from node.loading import Models
from node.models import ModelCache, ModelError
from node.pacing import Pace
from node.resident import Want
from node.roofline import Curve, Machine
from node.work import Key, ModelSpeed
from node.workloads import load, run_alone, vectors
from node.workloads.vocabulary import vocabulary_of
from tests.node.small_models import chat, picture
from tests.node.test_executor import ROUNDS, Ear, sentences, work

POSITIONS = 4_096
SIZES = {"other": 1.2e6, "llama": 1.2e6, "bert": 0.1e6}
"""Bytes that each takes, about."""
EITHER = 1.5e6
"""Bytes that hold `other` and `bert`, or `llama` and `bert`, and not all of them."""
INPUTS = {
    "other": [chat("its owner", max_tokens=20), chat("a car", max_tokens=9)],
    "llama": [chat("hello", max_tokens=20), chat("a car", max_tokens=9)],
    "bert": [b"a car", b"its owner comes back"],
}


@pytest.fixture(scope="module")
def cache(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    """A cache of an encoder and two decoders."""
    made = ModelCache(tmp_path_factory.mktemp("three"))
    for name, of in (("bert", "bert"), ("llama", "llama"), ("other", "llama")):
        conversion.add(made, str(small_models / of), name)
    return made


@contextmanager
def resident(
    ear: Ear, cache: ModelCache, memory_bytes: float = EITHER, models: Sequence[str] = tuple(INPUTS)
) -> Iterator[tuple[Executor, dict[str, ModelSpeed]]]:
    """An executor of these models with a memory for some of them, and what it says at the start."""
    executor = Executor(
        ear,
        cache=cache,
        models=models,
        device="cpu",
        dtype="fp32",
        threads=1,
        memory_bytes=memory_bytes,
        positions=POSITIONS,
    )
    speeds = {speed.name: speed for speed in executor.start()}
    try:
        yield executor, speeds
    finally:
        executor.close()


@pytest.fixture(scope="module")
def expected(cache: ModelCache) -> dict[str, list[bytes]]:
    """What each model gives for INPUTS."""
    alone = {name: run_alone(load(cache, name), inputs) for name, inputs in INPUTS.items()}
    return {name: [row for row in rows if isinstance(row, bytes)] for name, rows in alone.items()}


def there(load_s: dict[str, float]) -> set[str]:
    return {model for model, seconds in load_s.items() if seconds == 0.0}


def assert_answered(ear: Ear, key: Key, expected: Sequence[bytes]) -> None:
    """Answers are equal, vectors but for rounding: it differs with what they were computed beside."""
    results = ear.results(key)
    for item, row in enumerate(expected):
        if row.startswith(b"{"):
            assert results[item] == row
        else:
            (vector, tokens), (wanted, read) = vectors.read(results[item]), vectors.read(row)
            np.testing.assert_allclose(vector, wanted, atol=1e-5)
            assert tokens == read


def test_every_model_is_measured_and_those_named_first_stay(cache: ModelCache) -> None:
    with resident(Ear(), cache) as (_, speeds):
        load_s = {name: speed.load_s for name, speed in speeds.items()}
    assert there(load_s) == {"other", "bert"}
    assert 0.0 < load_s["llama"] < 10.0
    assert all(speed.items_per_s > 0 for speed in speeds.values())
    with resident(Ear(), cache, models=("llama", "other", "noop", "bert")) as (_, speeds):
        assert there({name: speed.load_s for name, speed in speeds.items()}) == {"llama", "noop", "bert"}


def test_a_profiles_memory_holds_what_it_would_in_its_own_numbers(cache: ModelCache) -> None:
    chip = Machine("chip", Curve.flat(1e15), Curve.flat(1e15), 1.0, EITHER / 4, None)
    executor = Executor(
        Ear(),
        cache=cache,
        models=tuple(INPUTS),
        device="cpu",
        dtype="fp32",
        threads=1,
        pace=Pace(chip, 1.0),
        positions=POSITIONS,
    )
    try:
        assert there({speed.name: speed.load_s for speed in executor.start()}) == {"other", "bert"}
    finally:
        executor.close()


def test_a_model_is_loaded_when_it_is_wanted_and_the_coordinator_is_told(
    cache: ModelCache, expected: dict[str, list[bytes]]
) -> None:
    ear = Ear()
    with resident(ear, cache) as (executor, _):
        first = weakref.ref(executor._workloads["other"])
        executor.submit(work("bert", INPUTS["bert"], "bert"))
        executor.submit(work("llama", INPUTS["llama"], "llama", vehicle=1))
        ear.wait_for("bert", "llama")
        assert [there(load_s) for load_s in ear.residency] == [{"bert"}, {"bert", "llama"}]
        assert first() is None, "its memory is free"
        loading_s = [finished.loading_s for finished in ear.finishes if finished.key == "llama"]
        assert loading_s[0] > 0.0, "it was loaded for this work"
        assert not any(loading_s[1:])
        assert not any(finished.loading_s for finished in ear.finishes if finished.key == "bert")
        executor.submit(work("other", INPUTS["other"], "other", interactive=True))
        ear.wait_for("other")
        assert there(ear.residency[-1]) == {"bert", "other"}
    for name in INPUTS:
        assert_answered(ear, name, expected[name])


def test_all_works_of_all_models_end_whatever_comes_and_the_memory_is_never_exceeded(
    cache: ModelCache, expected: dict[str, list[bytes]]
) -> None:
    rng, ear, keys, stopped = random.Random(3), Ear(), [], set()
    with resident(ear, cache) as (executor, _):
        for number in range(60):
            model = rng.choice(list(INPUTS))
            interactive = rng.random() < 0.4
            key = number, model
            executor.submit(
                work(
                    key,
                    INPUTS[model],
                    model,
                    vehicle=rng.randrange(3),
                    interactive=interactive,
                    solo=rng.random() < 0.1,
                )
            )
            keys.append(key)
            if rng.random() < 0.2:
                executor.stop([key], gently=rng.random() < 0.3)
                stopped.add(key)
            if rng.random() < 0.2:
                ear.wait_for(next(key for key in keys if key not in stopped))
        ear.wait_for(*(key for key in keys if key not in stopped))
    for key in keys:
        if key not in stopped:
            assert_answered(ear, key, expected[key[1]])
    assert len(ear.residency) > 4, "models came and left"
    for load_s in ear.residency:
        assert sum(SIZES[model] for model in there(load_s)) <= EITHER


def test_what_runs_goes_on_while_another_model_is_loaded(cache: ModelCache) -> None:
    ear = Ear()
    with resident(ear, cache) as (executor, _):
        executor.submit(work("bert", sentences(600), "bert"))
        executor.submit(work("llama", INPUTS["llama"], "llama", vehicle=1))
        ear.wait_for("bert", "llama")
    order = [key for what, key, _ in ear.heard if what == "finished"]
    assert "bert" in order[: order.index("llama")]


def test_a_request_does_not_wait_for_the_end_of_batch_work_of_the_model_that_makes_room(cache: ModelCache) -> None:
    ear, inputs = Ear(), sentences(3_000)
    with resident(ear, cache, 1.2e6, ("bert", "llama")) as (executor, _):  # for one of them
        executor.submit(work("batch", inputs, "bert"))
        ear.wait_to_hear("finished", "batch")
        executor.submit(work("asked", INPUTS["llama"], "llama", vehicle=1, interactive=True))
        ear.wait_for("asked")
        assert not any(finished.last for finished in ear.finishes if finished.key == "batch")
        ear.wait_for("batch")
    assert len(ear.results("batch")) == len(inputs)
    assert [there(load_s) for load_s in ear.residency] == [set(), {"llama"}, set(), {"bert"}]


def test_a_work_that_is_stopped_while_its_model_makes_room_leaves_its_places_first(
    cache: ModelCache, expected: dict[str, list[bytes]]
) -> None:
    ear = Ear()
    with resident(ear, cache, 1.2e6, ("other", "llama")) as (executor, _):  # for one of them
        for number in range(3):
            long, asked = (number, "long"), (number, "asked")
            executor.submit(replace(work(long, [chat("hello", max_tokens=400)], "other"), streamed=True))
            ear.wait_to_hear("spoke", long)
            executor.submit(work(asked, INPUTS["llama"], "llama", interactive=True))
            executor.stop([long]).result(60)
            ear.wait_for(asked)
            assert_answered(ear, asked, expected["llama"])


def test_a_model_that_comes_back_finds_its_tokenizer(cache: ModelCache) -> None:
    assert vocabulary_of(cache.get("bert")) is vocabulary_of(cache.get("bert"))


def test_a_model_whose_files_are_gone_fails_its_works_and_no_others(
    cache: ModelCache, tmp_path: Path, expected: dict[str, list[bytes]]
) -> None:
    shutil.copytree(cache.root, tmp_path / "cache")
    cache, ear = ModelCache(tmp_path / "cache"), Ear()
    with resident(ear, cache) as (executor, _):
        shutil.rmtree(tmp_path / "cache" / "models" / "llama")
        executor.submit(work("asked", INPUTS["llama"], "llama", interactive=True))
        executor.submit(work("batch", INPUTS["llama"], "llama"))
        executor.submit(work("bert", INPUTS["bert"], "bert"))
        ear.wait_for("asked", "batch", "bert")
        executor.submit(work("late", INPUTS["llama"], "llama"))
        executor.submit(work("other", INPUTS["other"], "other"))
        ear.wait_for("late", "other")
        assert set(ear.residency[-1]) == {"other", "bert"}, "it is offered no more"
    for key in ("asked", "batch", "late"):
        assert not ear.results(key)
        for code, why in ear.errors(key).values():
            assert code == "model"
            assert "llama could not be loaded, and is offered here no more: no model 'llama' in" in why
    assert ear.errors("asked").keys() == {0, 1}
    assert_answered(ear, "bert", expected["bert"])
    assert_answered(ear, "other", expected["other"])


def test_a_model_whose_files_go_when_it_was_loaded_is_taken_in(cache: ModelCache, tmp_path: Path) -> None:
    shutil.copytree(cache.root, tmp_path / "cache")
    loaded = threading.Event()
    models = Models(
        ModelCache(tmp_path / "cache"),
        ["other", "llama"],
        device="cpu",
        dtype="fp32",
        threads=1,
        pace=None,
        memory_bytes=1.2e6,
        positions=POSITIONS,
        loaded=loaded.set,
    )
    models.measure()
    models.settle(lambda: [Want("llama", False, 0, False)])
    assert loaded.wait(60)
    shutil.rmtree(tmp_path / "cache")
    assert models.settle(list)
    assert models.workloads.keys() == {"llama"}


@pytest.mark.parametrize(
    ("model", "memory_bytes", "positions", "why"),
    [
        (
            "bert",
            1e3,
            None,
            "bert takes 7.94e-05 GB, and the memory for models is 1e-06 GB; give more with --memory-gb, or leave it"
            " out of --models",
        ),
        (
            "llama",
            1e6,
            100_000,
            "llama with keys and values of 100,000 positions takes 0.0257 GB, and the memory for models is"
            " 0.001 GB; give more with --memory-gb, fewer --kv-positions, or leave it out of --models",
        ),
        (
            "llama",
            1e6,
            8,
            "llama has room for keys and values of 8 positions, and an ordinary request takes",
        ),
    ],
)
def test_a_model_that_can_never_fit_is_said_at_the_start(
    cache: ModelCache, model: str, memory_bytes: float, positions: int | None, why: str
) -> None:
    executor = Executor(
        Ear(),
        cache=cache,
        models=[model],
        device="cpu",
        dtype="fp32",
        threads=1,
        memory_bytes=memory_bytes,
        positions=positions,
    )
    with pytest.raises(ModelError) as caught:
        executor.start()
    executor.close()
    assert why in str(caught.value)


def test_requests_that_keys_and_values_have_no_room_for_are_refused(cache: ModelCache) -> None:
    ear = Ear()
    executor = Executor(ear, cache=cache, models=["llama"], device="cpu", dtype="fp32", threads=1, positions=160)
    executor.start()
    try:
        executor.submit(work("long", [chat("x" * 100, max_tokens=60)], "llama"))
        executor.submit(work("short", [chat("x", max_tokens=6)], "llama"))
        ear.wait_for("long", "short")
    finally:
        executor.close()
    ((code, why),) = ear.errors("long").values()
    assert code == "bad_input"
    assert "together more than 160" in why
    assert len(ear.results("short")) == 1


def test_an_owner_has_the_car_back_within_100_ms_while_models_are_loaded(named_cache: ModelCache) -> None:
    """Real models, since small ones are loaded in no time: one works, of two others one is always being loaded."""
    rng, ear = random.Random(7), Ear()
    loading = [("smollm2", chat("hello", max_tokens=1)), ("efficientnet-lite0", picture(64, 64))]
    executor = Executor(
        ear,
        cache=named_cache,
        models=["minilm", "smollm2", "efficientnet-lite0"],
        device="cpu",
        dtype="fp32",
        threads=1,
        memory_bytes=0.73e9,  # minilm 0.09, smollm2 0.54 and 0.09 of keys and values, efficientnet-lite0 0.02
        positions=2_000,
    )
    executor.start()
    rounds: list[list[int]] = []
    try:
        while len(rounds) < ROUNDS and (not rounds or rounds[-1][-2] >= 100):
            rounds.append([])
            for number in range(12):
                key, (model, payload) = (len(rounds), number), loading[number % 2]
                executor.submit(work(key, [b"parked " * 4_000] * 8, "minilm"))
                ear.wait_to_hear("announce", key)
                executor.submit(work((key, "asked"), [payload], model, vehicle=1, interactive=True))
                threading.Event().wait(rng.random() * 0.4)  # the owner's own time
                began_s = time.perf_counter()
                executor.stop([key]).result(30)
                rounds[-1].append(round(1000 * (time.perf_counter() - began_s)))
                ear.wait_for((key, "asked"))
            rounds[-1].sort()
    finally:
        executor.close()
    assert len(ear.residency) > 8, "models came and left"
    assert rounds[-1][-2] < 100, f"stops took {rounds} ms"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('never') }}", "the model's chat template refuses these messages: never"),
        ("{# #}", "the model's chat template makes nothing of these messages"),
    ],
)
@pytest.mark.parametrize("paced", [False, True])
def test_a_model_that_refuses_an_ordinary_request_is_refused(
    small_models: Path, tmp_path: Path, template: str, why: str, paced: bool
) -> None:
    directory = tmp_path / "mute"
    shutil.copytree(small_models / "llama", directory)
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    cache = ModelCache(tmp_path / "cache")
    conversion.add(cache, str(directory))
    chip = Machine("chip", Curve.flat(1e15), Curve.flat(1e15), 1.0, 1e9, None)
    pace = Pace(chip, 1.0) if paced else None
    executor = Executor(Ear(), cache=cache, models=["mute"], device="cpu", dtype="fp32", threads=1, pace=pace)
    with pytest.raises(ModelError, match=f"^mute refuses an ordinary request: {why}$"):
        executor.start()
