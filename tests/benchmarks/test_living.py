"""A day is told as it was lived, and a lot that breaks a term is found, by a run as a user runs it."""

import json
from pathlib import Path

from benchmarks.chronicle import chronicle
from benchmarks.owners import owners, terms_file
from node.terms import Terms, read
from tests.benchmarks.running import run


def test_owners_differ_and_their_file_is_one_that_lots_take() -> None:
    said = owners(200, 1, ("acme", "umbra"), ("minilm",))
    common, others = read(terms_file(said, 7))
    assert common.opted_in
    assert sorted(others) == [f"car-{car:04d}" for car in range(7, 207)]
    for term in Terms.__dataclass_fields__:
        assert any(getattr(terms, term) != getattr(Terms(opted_in=True), term) for terms in others.values()), term


def test_a_chronicle_adds_up_what_cars_lived_through(tmp_path: Path) -> None:
    here = {"plugged": True, "parked": False, "since_s": 0.0, "charge": 0.5, "withheld": 0}
    away = {**here, "plugged": False, "charge": 0.6}
    energy = {"compute_modelled_j": 3.0, "awake_modelled_j": 2.0}
    facts = [
        {"fact": "car", "t_s": 0.0, "board_w": 100.0, "awake_w": 200.0},
        {"fact": "state", "t_s": 0.0, **here},
        {"fact": "began", "t_s": 10.0, "lease": "1/1"},
        {"fact": "ended", "t_s": 30.0, "lease": "1/1", **energy},
        {"fact": "state", "t_s": 40.0, **here, "charge": 0.6, "withheld": 4},
        {"fact": "state", "t_s": 60.0, **away},
        {"fact": "state", "t_s": 80.0, **here, "since_s": 80.0, "charge": 0.4},
        {"fact": "state", "t_s": 100.0, **away, "parked": True, "since_s": 90.0, "charge": 0.3},
    ]
    lines = "".join(json.dumps({"car": "car-0000", "real_s": fact["t_s"], **fact}) + "\n" for fact in facts)
    (tmp_path / "lot.jsonl").write_text(lines)
    found = chronicle(tmp_path)
    assert (found.lasted_s, found.came, found.left_charge, found.lowest_charge) == (100.0, 1, [0.6, 0.4], 0.3)
    assert (found.plugged_s, found.worked_s, found.withheld_s) == (80.0, 20.0, {"charge_low": 20.0})
    assert (found.compute_modelled_j, found.awake_modelled_j) == (3.0, 2.0)
    assert (found.drawn_modelled_j, found.drawn_awake_modelled_j) == (2000.0, 4000.0)


def test_a_day_is_lived_and_the_lot_that_breaks_a_term_is_found(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "living.json"
    flags = ("--model", "tiny", "--chat", "", "--vehicles", 8, "--minutes", 0.2, "--place", "depot", "--actors", 1)
    ended = run("living", *flags, "--break-term", "--json", file, CARPOOL_CACHE=str(cache))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "it found least_charge broken there" in ended.stdout
    figures = {figure["name"].strip(): figure["median"] for figure in json.loads(file.read_text())["figures"]}
    assert figures["terms that were broken, as the audit finds"] == 0
    assert figures["vehicles"] == 12
    assert figures["items"] > 0
