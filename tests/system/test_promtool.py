"""What Prometheus' own tool says of the metrics, the rules and the dashboard that operators are given."""

import json
import re
import shutil
import subprocess
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from tests.coordinator.busy_metrics import busy_metrics

PROMTOOL = shutil.which("promtool")
OPERATIONS = files("coordinator") / "operations"

pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed: `make test-system` installs Debian's package prometheus"
)


def promtool(*arguments: str, given: bytes = b"") -> None:
    """Run promtool in the folder of operations; a failure shows what it said."""
    assert PROMTOOL is not None
    with as_file(OPERATIONS) as folder:
        ran = subprocess.run(
            [PROMTOOL, *arguments], input=given, cwd=folder, capture_output=True, timeout=120, check=False
        )
    said = (ran.stdout + ran.stderr).decode()
    assert ran.returncode == 0, said


def test_promtool_finds_nothing_to_improve_in_the_exposition() -> None:
    body, _ = busy_metrics().exposition("")
    promtool("check", "metrics", given=body)


def test_the_configuration_and_the_rules_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_has_a_runbook_and_a_case_in_which_it_fires() -> None:
    rules = (OPERATIONS / "alerts.yml").read_text()
    cases = (OPERATIONS / "alerts_test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) == len(set(alerts)) == len(re.findall(r"^ +runbook: \S", rules, re.M))
    for alert in alerts:
        assert f'alertname="{alert}"' in cases, f"{alert} fires in no case"


def test_every_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    panels = json.loads((OPERATIONS / "dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    assert len(rules) > 30
    path = tmp_path / "queries.json"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))
