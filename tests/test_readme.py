"""What the README shows in Python runs as it stands, with real clients, and prints what it says."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.client import Client
from node.models import ModelCache
from tests.live import Cluster, cluster, within

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def live(named_cache: ModelCache) -> Iterator[Cluster]:
    """The models that the README names, in one lot of two cars."""
    with cluster() as live:
        live.add("lot", "--models", "minilm,smollm2", "--dtype", "fp32", vehicles=2)

        async def parked() -> None:
            async with Client(live.coordinator.grpc) as client:
                await live.parked(client, 2)

        within(parked())
        yield live


@pytest.mark.parametrize("heading", ["Use it with your Triton client", "Use it with the OpenAI SDK"])
def test_what_the_readme_shows_runs_and_prints_what_it_says(live: Cluster, heading: str, tmp_path: Path) -> None:
    section = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    shown = "\n".join(re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))
    promised = re.findall(r"^print\(.*\)  # (.*)$", shown, re.MULTILINE)
    assert promised, "each section prints something"
    addresses = live.coordinator.addresses
    script = tmp_path / "shown.py"
    script.write_text(
        shown.replace("127.0.0.1:8001", addresses["grpc"]).replace("127.0.0.1:8000", addresses["http"])
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == promised
