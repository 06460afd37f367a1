"""Quantities as people say them, there and back."""

import pytest

from coordinator.units import duration, percent, seconds


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90.0), ("2h", 7200.0), ("1h 30min", 5400.0), ("0.5 d", 43_200.0), ("2 min", 120.0)]
)
def test_a_duration_is_read(text: str, value: float) -> None:
    assert seconds(text) == value
    assert seconds(duration(value)) == value


@pytest.mark.parametrize("text", ["", "soon", "2", "2 weeks", "-2h", "h2", "2h and", "1e3s"])
def test_what_is_no_duration_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; give numbers with s, min, h or d"):
        seconds(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (119.9, "2 min 0 s"), (3599.6, "1 h 0 min"), (7199.9, "2 h 0 min")],
)
def test_what_is_almost_a_whole_is_said_as_one(value: float, text: str) -> None:
    assert duration(value) == text


def test_a_chance_is_shown_to_three_digits() -> None:
    shown = [percent(part) for part in (0.0, 0.005, 0.97, 0.9972, 1.0)]
    assert shown == ["0 %", "0.5 %", "97 %", "99.7 %", "100 %"]
