"""Quantities, for people."""

import math
import re

_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def duration(seconds: float) -> str:
    """In the two largest units, as people say it."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 3599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    if seconds < 48 * 3600:
        return "{} h {} min".format(*divmod(round(seconds / 60), 60))
    return f"{seconds / 86400:,.0f} days" if math.isfinite(seconds) else "always"


def percent(part: float) -> str:
    """A part of 1 in hundredths, to three digits and not finer than a tenth."""
    return f"{round(100 * part, 1):.3g} %"


def seconds(text: str) -> float:
    """What "90 s", "2h" or "1h 30min" says. Raises ValueError."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d)\s*", text)
    if not parts or re.sub(r"\s", "", text) != "".join(number + unit for number, unit in parts):
        raise ValueError(f"{text!r} is no duration; give numbers with s, min, h or d, for example 90s or 1h30min")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
