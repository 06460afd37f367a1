"""Configuration: one frozen tree, read once from one TOML file and from flags, which go first."""

import tomllib
from dataclasses import dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from coordinator.core.settings import SchedulingSettings

_T = TypeVar("_T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the value, the limit and the remedy."""


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where the coordinator serves; port 0 takes any free one."""

    host: str = "127.0.0.1"
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How much is taken in before callers are told to come back later."""

    open_requests: int = 10_000
    """Interactive requests open at once."""
    joins_per_s: int = 500
    """Lots that may open their streams within a second (assumed: half of what a core can welcome)."""
    job_items: int = 5_000_000
    job_bytes: int = 2 << 30
    """Inputs of one job together."""


MEMORY = ":memory:"
"""In place of a folder: jobs are forgotten when the process ends, and nothing is written."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where jobs are kept, and how much room they leave."""

    folder: str = ""
    """Empty: a temporary folder that goes with the process."""
    free_bytes: int = 256 << 20
    """With less free space on its disk no submission is taken in (assumed: results of what runs need room, too)."""
    keep_finished_s: float = 30 * 86_400.0
    """A finished job is forgotten, with its inputs, its results and its key, so long after its end (assumed)."""
    keep_bytes: int = 64 << 30
    """While inputs and results of all jobs, live ones too, are more than this, finished jobs are forgotten sooner,
    in the order of their ends (assumed)."""
    tenant_file_bytes: int = 32 << 30
    """Of the files of one tenant together, what its batches wrote included; each counts as 4 KiB at least (assumed:
    half of `keep_bytes`)."""
    memory_file_bytes: int = 1 << 30
    """Of all files together, where `folder` is ":memory:" (assumed)."""
    spare_finished_s: float = 300.0
    """Nothing is forgotten so soon after a job's end or the coordinator's start: its tenant fetches its results
    (assumed)."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that may be set, by table of the TOML file."""

    listen: ListenSettings = field(default_factory=ListenSettings)
    scheduling: SchedulingSettings = field(default_factory=SchedulingSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    store: StoreSettings = field(default_factory=StoreSettings)


def read_config(path: Path | None, state: str | None = None, **listen: Any) -> Config:
    """The configuration in a file, if one is named, under the flags that are not None; `state` is the store's
    folder."""
    tables: dict[str, Any] = {}
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"the configuration {path} is not TOML: {error}") from error
    weights = _weights(tables.pop("weights", {}))
    unknown = tables.keys() - {table.name for table in fields(Config)}
    if unknown:
        known = ", ".join(f"[{name}]" for name in (*(table.name for table in fields(Config)), "weights"))
        raise ConfigError(f"the configuration has [{min(unknown)}]; it takes {known}")
    given = {name: value for name, value in listen.items() if value is not None}
    return Config(
        _table(ListenSettings, "listen", {**tables.get("listen", {}), **given}),
        replace(_table(SchedulingSettings, "scheduling", tables.get("scheduling", {})), weights=weights),
        _table(LimitSettings, "limits", tables.get("limits", {})),
        _table(StoreSettings, "store", {**tables.get("store", {}), **({} if state is None else {"folder": state})}),
    )


_WANTED: dict[type, str] = {
    int: "a whole number of at least 0",
    float: "a number of at least 0",
    str: "a text",
    bool: "true or false",
}


def _weights(table: object) -> tuple[tuple[str, float], ...]:
    if not isinstance(table, dict):
        raise ConfigError(f"weights = {table!r}: give a table, [weights], of tenants and numbers over 0")
    for tenant, weight in table.items():
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < inf:
            raise ConfigError(f"[weights] {tenant} = {weight!r}: give a number over 0")
    return tuple(sorted((tenant, float(weight)) for tenant, weight in table.items()))


def _table(kind: type[_T], name: str, values: dict[str, Any]) -> _T:
    known = {entry.name: entry.default for entry in fields(kind) if entry.name != "weights"}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"[{name}] has {key!r}; it takes {', '.join(known)}")
        wanted = type(known[key])
        fit = isinstance(value, (int, float) if wanted is float else wanted)
        if not fit or isinstance(value, bool) is not (wanted is bool) or (wanted is not str and value < 0):
            raise ConfigError(f"[{name}] {key} = {value!r}: give {_WANTED[wanted]}")
    return kind(**values)
