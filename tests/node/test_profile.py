"""Profiles are files; a mix of them is checked where it enters."""

import pytest

from node import profile


def test_every_profile_file_can_be_read() -> None:
    assert profile.names() == ("ai5", "hw4")
    hw4, ai5 = profile.load("hw4"), profile.load("ai5")
    assert (hw4.board_w, hw4.int8_tops) == (160.0, 250.0)
    assert (ai5.board_w, ai5.int8_tops) == (800.0, 2000.0)


def test_a_mix_names_each_vehicles_profile_in_order() -> None:
    assert profile.assign("hw4:2,ai5:1", None) == ("hw4", "hw4", "ai5")
    assert profile.assign("ai5", 3) == ("ai5",) * 3


@pytest.mark.parametrize(
    ("mix", "vehicles", "why"),
    [
        ("hw9", None, "there is no profile 'hw9'; choose one of ai5, hw4"),
        ("hw4:2,hw9:1", None, "there is no profile 'hw9'"),
        ("hw4:2,ai5", None, "profile 'ai5' has no count; write it like hw4:6,ai5:2"),
        ("hw4:x", None, "'hw4:x' has no count"),
        ("hw4:2,ai5:2", 6, "names 4 vehicles and --vehicles says 6; make them equal"),
    ],
)
def test_a_wrong_mix_is_refused_in_one_sentence(mix: str, vehicles: int | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        profile.assign(mix, vehicles)
