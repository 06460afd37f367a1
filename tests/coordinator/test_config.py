"""The configuration: one file, every entry known, and one sentence for what cannot be used."""

from pathlib import Path

import pytest

from coordinator.config import ConfigError, read_config


def written(folder: Path, text: str) -> Path:
    """A configuration file."""
    path = folder / "carpool.toml"
    path.write_text(text)
    return path


def test_tables_and_flags_and_weights_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "[scheduling]\nyields = false\n[listen]\ngrpc_port = 7000\n"
        '[weights]\nheavy = 3\n"a b" = 0.5\n[store]\nkeep_bytes = 9\n',
    )
    config = read_config(path, "somewhere", http_port=8000)
    assert (config.listen.grpc_port, config.listen.http_port) == (7000, 8000)
    assert (config.store.folder, config.store.keep_bytes) == ("somewhere", 9)
    assert config.scheduling.yields is False
    assert config.scheduling.weights == (("a b", 0.5), ("heavy", 3.0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[weights]\nheavy = 0\n", r"\[weights\] heavy = 0: give a number over 0"),
        ("[weights]\nheavy = true\n", r"\[weights\] heavy = True: give a number over 0"),
        ("[weights]\nheavy = inf\n", r"\[weights\] heavy = inf: give a number over 0"),
        ("weights = 3\n", r"weights = 3: give a table, \[weights\]"),
        ("[scheduling]\nweights = [1]\n", r"\[scheduling\] has 'weights'; it takes slice_target_s"),
        ("[wrong]\n", r"the configuration has \[wrong\]; it takes \[listen\], .*, \[weights\]"),
        ("[store]\nkeep_bytes = -1\n", r"\[store\] keep_bytes = -1: give a whole number of at least 0"),
        ("[scheduling]\nyields = 1\n", r"\[scheduling\] yields = 1: give true or false"),
        ("[scheduling]\nplan_every_s = true\n", r"plan_every_s = True: give a number of at least 0"),
        ("[store\n", "is not TOML"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(written(tmp_path, text))
