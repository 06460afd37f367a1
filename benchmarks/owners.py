"""Owners who differ: their terms, drawn for so many vehicles, and written as a terms file.

What a term is called is said once more here, in TOML, as an owner would write it. Shares and figures are assumed,
each term wanted by enough of them to come to bear in a day.
"""

import json
from random import Random
from typing import Any

Said = dict[str, Any]


def owners(count: int, seed: int, tenants: tuple[str, ...], models: tuple[str, ...]) -> list[Said]:
    """What each says; of the tenants and models they refuse one at the most."""
    return [_owner(Random(f"{seed}/{car}"), tenants, models) for car in range(count)]


def terms_file(said: list[Said], first_index: int = 0) -> str:
    """The TOML that `--terms` takes."""
    lines = ["[terms]", "opted_in = true"]
    for car, terms in enumerate(said, first_index):
        lines.append(f"[vehicles.car-{car:04d}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in terms.items()]
    return "\n".join(lines) + "\n"


def _owner(draw: Random, tenants: tuple[str, ...], models: tuple[str, ...]) -> Said:
    said: Said = {"least_charge": draw.choice((0.1, 0.2, 0.3, 0.5, 0.65))}
    if draw.random() < 0.05:
        said["opted_in"] = False
    if draw.random() < 0.3:
        said |= {
            "wanted_charge": draw.choice((0.75, 0.85, 0.9)),
            "departs_at": draw.choice(("06:30", "07:30", "16:45")),
        }
    elif draw.random() < 0.2:
        said["wanted_charge"] = 0.7  # at whatever hour it leaves
    if draw.random() < 0.25:
        said["hours"] = draw.choice((["22:00-06:30"], ["09:00-17:00"], ["00:00-08:00", "12:00-20:00"]))
    if draw.random() < 0.6:
        said["cellular_gb_a_month"] = draw.choice((0.0001, 0.001, 1))  # a day's work is some megabytes
    if draw.random() < 0.3:
        said["parked"] = True
    if draw.random() < 0.1:
        said["hottest_cabin_c"] = draw.choice((20, 24, 28))
    if draw.random() < 0.05:
        said["least_pay_per_h"] = draw.choice((0.1, 0.5))
    if draw.random() < 0.1:
        said["refused_models"] = [draw.choice(models)]
    if draw.random() < 0.1:
        said["refused_tenants"] = [draw.choice(tenants)]
    return said
