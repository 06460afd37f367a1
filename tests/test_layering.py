"""The walls of the house stand, and the check that guards them sees each kind of breach."""

from pathlib import Path, PurePosixPath

import layering
import pytest

ROOT = Path(__file__).resolve().parent.parent


def breaches(path: str, source: str) -> list[str]:
    return list(layering.breaches(PurePosixPath(path), source))


def test_the_repository_keeps_its_walls() -> None:
    assert layering.check(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "why"),
    [
        ("coordinator/runtime.py", "import node.lot", "meet only on the wire"),
        ("coordinator/cli.py", "from node import cli", "meet only on the wire"),
        ("coordinator/cli.py", "import importlib\nimportlib.import_module('node.cli')", "meet only on the wire"),
        ("node/agent.py", "def late():\n    from coordinator import core", "meet only on the wire"),
        ("protos/extra.py", "import coordinator", "knows neither of its ends"),
        ("node/cli.py", "import benchmarks.demo", "outside the product"),
        ("coordinator/runtime.py", "from protos import link_pb2", "stays at the wire"),
        ("node/lot.py", "from protos.link_pb2 import Grant", "stays at the wire"),
        ("coordinator/services/jobs.py", "import torch", "executor and its workloads only"),
        ("node/agent.py", "from transformers import AutoModel", "executor and its workloads only"),
        ("node/workloads/device.py", "import transformers", "takes seconds to import"),
        (
            "node/workloads/classify.py",
            "from node.workloads.networks import load_network",
            "takes seconds to import",
        ),
        ("node/__main__.py", "import ray", "knows Ray"),
        ("benchmarks/audit.py", "from node.terms import Terms", "none of the code it judges"),
        ("coordinator/core/scheduler.py", "from time import monotonic", "no clock"),
        ("node/link.py", "import logging", "no clock"),
        ("node/lot.py", "from . import agent", "pure code imports pure code"),
        ("coordinator/core/fleet.py", "from ..store import Store", "pure code imports pure code"),
        ("coordinator/core/fleet.py", "import pandas", "pure code imports pure code"),
        ("node/lot.py", "async def wait(it): await it", "waits"),
        ("node/day.py", "import numpy as np\nnp.random.rand()", "uses numpy.random.rand"),
        ("node/day.py", "import numpy as np\nnp.random.default_rng()", "without a seed"),
        ("node/link.py", "import random\nrandom.random()", "uses random.random"),
        ("node/link.py", "from random import shuffle", "uses random.shuffle"),
        ("node/link.py", "import random\nrandom.Random()", "without a seed"),
        ("coordinator/wire.py", "from coordinator.runtime import Runtime", "point down only"),
        ("coordinator/store.py", "from coordinator.services import jobs", "point down only"),
        ("node/executor.py", "from node.actor import Lot", "point down only"),
        ("node/models.py", "import pickle", "nothing is unpickled"),
        ("node/executor.py", "import torch\ntorch.load('x', weights_only=True)", "torch.load unpickles"),
        ("node/conversion.py", "import torch\ntorch.load('x')", "torch.load unpickles"),
    ],
)
def test_a_breach_is_named_with_its_place_and_its_reason(path: str, source: str, why: str) -> None:
    found = breaches(path, source)
    assert any(breach.startswith(f"{path}:") and why in breach for breach in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("benchmarks/batch.py", "import ray, torch, coordinator.client, node.client"),
        ("tests/node/test_lot.py", "import node.lot, coordinator.core.scheduler"),
        ("coordinator/services/jobs.py", "from protos import jobs_pb2\nfrom coordinator.runtime import Runtime"),
        (
            "coordinator/core/fleet.py",
            "from coordinator.core import ranges\nfrom .ranges import Range\nimport heapq",
        ),
        ("node/workloads/embed.py", "import torch\nfrom transformers import AutoModel"),
        ("node/actor.py", "import ray\nfrom node.agent import Agent"),
        ("node/conversion.py", "import torch\ntorch.load('x', weights_only=True)"),
        ("node/link.py", "import random\ndef later(chance: random.Random) -> float: return chance.random()"),
        ("node/day.py", "import numpy as np\ndef of(seed): return np.random.default_rng(seed)"),
        ("nodes.py", "import ray, torch, coordinator"),
    ],
)
def test_what_the_table_allows_is_no_breach(path: str, source: str) -> None:
    assert breaches(path, source) == []
