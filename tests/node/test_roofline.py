"""The roofline: arithmetic or bandwidth, whichever takes longer, on what the workloads say that they do."""

import numpy as np
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from node import profile
from node.models import ModelCache
from node.roofline import Cost, Curve, Machine, Operation, Phase, linear, model
from node.workloads import Control, Workload, load
from tests.node.small_models import chat, picture

CHIP = Machine("chip", Curve.flat(1e12), Curve.flat(1e11), 1.0, 1e9, 100.0)


def cost_of(*operations: Operation, parameters: float = 0.0) -> Cost:
    return Cost(parameters, 0.0, 1, {Phase.ENCODE: 1}, {Phase.ENCODE: operations})


def test_an_operation_takes_the_longer_of_its_arithmetic_and_its_moving() -> None:
    said = model(CHIP, cost_of(Operation(2e12, 1.0), Operation(1.0, 3e11, times=2.0)))
    assert said.total_s == pytest.approx(2.0 + 2 * 3.0)
    assert said.compute_bound_s == pytest.approx(2.0)
    assert said.energy_j == pytest.approx(800.0)


def test_a_batch_reads_the_weights_once_for_all_its_rows() -> None:
    one, many = (model(CHIP, cost_of(linear(rows, 4096, 4096))).total_s for rows in (1, 4))
    assert many < 1.01 * one, "bound by the weights"
    lots = model(CHIP, cost_of(linear(8192, 4096, 4096)))
    assert lots.compute_bound_s == lots.total_s == pytest.approx(2 * 8192 * 4096**2 / 1e12)


def test_a_curve_goes_through_its_points_and_stays_at_its_ends() -> None:
    curve = Curve(((1.0, 10.0), (4.0, 40.0), (16.0, 40.0)))
    assert [curve.at(size) for size in (0.5, 1.0, 4.0, 8.0, 99.0)] == pytest.approx([10.0, 10.0, 40.0, 40.0, 40.0])
    assert curve.at(2.0) == pytest.approx(20.0)


def test_what_does_not_fit_the_memory_or_is_unknown_is_refused_with_its_figures() -> None:
    with pytest.raises(ValueError, match=r"'chip' has 1 GB of memory, and the model with .* takes 2 GB; choose"):
        model(CHIP, cost_of(parameters=2e9))
    assert Machine.of(profile.load("hw4")).value_bytes == 1.0
    with pytest.raises(ValueError, match="'optimus' cannot be timed, its int8_tops is unknown"):
        Machine.of(profile.load("optimus"))
    with pytest.raises(ValueError, match="'dojo_d1' cannot be timed, its bandwidth_gb_per_s is unknown"):
        Machine.of(profile.load("dojo_d1"))


def counted(workload: Workload, inputs: list[bytes]) -> tuple[float, Cost]:
    """The arithmetic that torch counts in a run, and the cost that the workload tells."""
    prepared = workload.prepare(inputs, Control())
    batch = [prepared[index] for index in workload.plan(prepared)[0]]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # which it can count
        outcomes = workload.run(batch, Control())
    return float(counter.get_total_flops()), workload.cost(batch, outcomes)


def test_workloads_tell_the_arithmetic_that_torch_counts(small_cache: ModelCache) -> None:
    texts = [b"a car is parked", b"the owner comes back at once and leaves", b"a car is parked"]
    inputs = {
        "bert": texts,
        "efficientnet": [picture(64, 48), picture(80, 80)],
        "llama": [chat("a car", max_tokens=9), chat("a car is parked until", max_tokens=4)],
    }
    for name, payloads in inputs.items():
        seen, said = counted(load(small_cache, name), payloads)
        multiplied = sum(
            part.flops * part.times
            for parts in said.operations.values()
            for part in parts
            if part.flops != part.values  # these are elementwise: torch does not count them
        )
        assert multiplied == pytest.approx(seen, rel=0.1), name


def test_decode_moves_weights_and_keys_and_grows_with_the_answer(small_cache: ModelCache) -> None:
    workload = load(small_cache, "llama")
    short, long = (counted(workload, [chat("a car", max_tokens=tokens)])[1] for tokens in (1, 30))
    assert not short.operations[Phase.DECODE]
    assert short.operations[Phase.PREFILL] == long.operations[Phase.PREFILL]
    steps = long.tokens[Phase.DECODE]
    assert 0 < steps <= 30
    said = model(CHIP, long)
    floor = steps * workload.ordinary_cost().parameters * 0.5 / 1e11  # half: embeddings are looked up
    assert said.seconds[Phase.DECODE] > floor
    assert said.seconds.keys() == {Phase.PREFILL, Phase.DECODE}


def test_an_ordinary_micro_batch_is_of_the_size_that_is_offered(small_cache: ModelCache) -> None:
    for name in ("bert", "efficientnet", "llama"):
        workload = load(small_cache, name)
        cost = workload.ordinary_cost()
        assert cost.items == workload.batch_items
        assert cost.flops > 0 < cost.values
        assert np.isfinite(model(Machine.of(profile.load("hw4")), cost).total_s)
