"""API keys: who may call what. Without a key file everybody on this machine is tenant `local`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path

from coordinator.refusal import Refusal, Refused

LOCAL_TENANT = "local"


class Role(Enum):
    """Whose key: the table of the key file that names it."""

    TENANT = "tenants"
    NODE = "nodes"
    OPERATOR = "operators"


class KeyFileError(ValueError):
    """A key file that cannot be used; the message says what to mend."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Known keys by their sha256; None when no key is asked for."""

    holders: Mapping[bytes, tuple[Role, str]] | None = None

    def holder(self, authorization: str | None, role: Role) -> str:
        """Name of who calls, from the `authorization` metadata; refused when the key is not of this role."""
        if self.holders is None:
            return LOCAL_TENANT
        if not authorization or not authorization.startswith("Bearer "):
            raise Refused(Refusal.NO_KEY, "no API key was sent; pass --api-key or set CARPOOL_API_KEY")
        known = self.holders.get(sha256(authorization[7:].encode()).digest())
        if known is None:
            raise Refused(Refusal.NO_KEY, "this API key is not known here; ask the operator for one")
        if known[0] is not role:
            raise Refused(
                Refusal.NOT_ALLOWED, f"this API key stands under [{known[0].value}], not under [{role.value}]"
            )
        return known[1]


def read_keys(path: Path) -> Keys:
    """Keys from a TOML file with the tables [tenants], [nodes] and [operators], each `name = "key"`."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the key file {path} is not TOML: {error}") from error
    holders: dict[bytes, tuple[Role, str]] = {}
    for table, entries in tables.items():
        if table not in {role.value for role in Role} or not isinstance(entries, dict):
            raise KeyFileError(f"the key file {path} has {table!r}; it takes [tenants], [nodes] and [operators]")
        for name, key in entries.items():
            if not isinstance(key, str) or len(key) < 16:
                raise KeyFileError(f"the key of {name} in {path} must be a string of at least 16 characters")
            digest = sha256(key.encode()).digest()
            if digest in holders:
                raise KeyFileError(f"the key of {name} in {path} is also the key of {holders[digest][1]}")
            holders[digest] = (Role(table), name)
    if not holders:
        raise KeyFileError(f"the key file {path} has no key; add one under [tenants]")
    return Keys(holders)
