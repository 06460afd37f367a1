"""The roofline benchmark, end to end, on small models under the names of the real ones."""

from pathlib import Path

from node import conversion
from node.models import ModelCache
from tests.benchmarks.running import measured, run, samples
from tests.node.small_models import make_bert, make_efficientnet, make_llama


def test_workloads_are_measured_beside_what_the_roofline_says(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    for name, make in (("minilm", make_bert), ("smollm2", make_llama)):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
        config = tmp_path / name / "config.json"  # room for the benchmark's prompts, a token for each letter
        config.write_text(
            config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 4096')
        )
        conversion.add(cache, str(tmp_path / name), name)
    make_efficientnet(tmp_path / "efficientnet-lite0")
    conversion.add(cache, str(tmp_path / "efficientnet-lite0"), "efficientnet-lite0")
    document = measured(tmp_path, "roofline", "--repeats", 1, CARPOOL_CACHE=str(cache.root))
    assert document["settings"]["models"] == ["minilm", "efficientnet-lite0", "smollm2"]
    assert samples(document, "minilm, 16 sentences: measured")[0] > 0
    assert samples(document, "efficientnet-lite0, 8 pictures, decoded before: measured")[0] > 0
    errors = [figure for figure in document["figures"] if figure["name"].endswith("error")]
    assert len(errors) == 12
    assert all(figure["goal"] == {"at_least": None, "at_most": 30.0} for figure in errors)
    said = "\n".join(document["notes"])
    assert "on hw4, modelled: minilm" in said
    assert "profile 'optimus' cannot be timed, its int8_tops is unknown" in said


def test_without_any_model_it_says_which_to_add(tmp_path: Path) -> None:
    ended = run("roofline", CARPOOL_CACHE=str(tmp_path))
    assert ended.returncode == 1
    assert "skipped minilm: no model" in ended.stderr
    assert "skipped efficientnet-lite0: no model" in ended.stderr
