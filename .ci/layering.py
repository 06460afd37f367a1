"""Who may import whom: the walls of the house as one table, checked by reading the source.

Run it at the root of the repository: it prints one line for each breach and exits with 1 when there is any.
A wall is moved here, on purpose, and the README of the package that it touches says why.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PRODUCT = ("coordinator", "node", "protos")

# Pure code: numpy and the standard library; time and seeds are parameters.
_PURE_OF_NODE = """
    battery day draws events guard kept lease link lot messages mixture network pacing parking plan
    profile roofline site speeds storm terms vehicles
"""
PURE = ("coordinator.core", *(f"node.{name}" for name in _PURE_OF_NODE.split()))
# What a clock, a loop, a log, another thread or process, and chance come from.
IMPURE = (
    *("asyncio", "concurrent", "contextvars", "datetime", "logging", "multiprocessing", "sched", "secrets"),
    *("select", "selectors", "signal", "socket", "socketserver", "sqlite3", "subprocess", "threading", "time"),
    *("uuid", "warnings"),
)
# Of these modules pure code may use only what takes its seed as a parameter.
SEEDED = {
    "random": {"Random"},
    "numpy.random": {"BitGenerator", "Generator", "PCG64", "SeedSequence", "default_rng"},
}

# From top to bottom: a module imports its own row and those below. What is in no row is free.
ROWS = (
    (
        ("coordinator.__main__", "coordinator.cli", "coordinator.run", "coordinator.up"),
        ("coordinator.server",),
        ("coordinator.services",),
        ("coordinator.batches", "coordinator.files"),
        ("coordinator.runtime",),
        (
            *("coordinator.inputs", "coordinator.jobs", "coordinator.lots", "coordinator.metrics"),
            *("coordinator.perform", "coordinator.requests", "coordinator.shelf", "coordinator.submissions"),
            *("coordinator.trouble", "coordinator.upkeep", "coordinator.vehicles"),
        ),
        ("coordinator.link", "coordinator.store", "coordinator.streams", "coordinator.wire", "coordinator.words"),
        ("coordinator.core",),
    ),
    (
        ("node.__main__", "node.cli", "node.commands"),
        ("node.actor",),
        ("node.agent",),
        ("node.driver",),
        ("node.equipment", "node.errands", "node.hand", "node.inbox"),
        ("node.cars", "node.executor", "node.uplink"),
        ("node.batching", "node.demand", "node.stepping"),
        ("node.workloads",),
        ("node.wire",),
        tuple(name for name in PURE if name.startswith("node.")),
    ),
)


# Importing these imports transformers.
_BY_TRANSFORMERS = tuple(f"node.workloads.{name}" for name in ("decoder", "encoder", "networks", "vocabulary"))


@dataclass(frozen=True, slots=True)
class Wall:
    """Modules `inside`, but for those in `doors`, do not import what is `outside`."""

    inside: tuple[str, ...]
    outside: tuple[str, ...]
    why: str
    doors: tuple[str, ...] = ()


WALLS = (
    Wall(("coordinator",), ("node",), "coordinator and node meet only on the wire"),
    Wall(("node",), ("coordinator",), "coordinator and node meet only on the wire"),
    Wall(("protos",), ("coordinator", "node"), "the wire knows neither of its ends"),
    Wall(PRODUCT, ("benchmarks", "tests"), "benchmarks and tests stand outside the product"),
    Wall(
        ("coordinator", "node"),
        ("protos",),
        "protobuf stays at the wire",
        doors=(
            *("coordinator.client", "coordinator.services", "coordinator.wire"),
            *("node.client", "node.driver", "node.neighbour", "node.transfer", "node.uplink", "node.weights"),
            "node.wire",
        ),
    ),
    Wall(("benchmarks.audit",), PRODUCT, "the audit judges by the facts, with none of the code it judges"),
    Wall(PRODUCT, ("ray",), "only node/actor.py knows Ray", doors=("node.actor",)),
    Wall(
        PRODUCT,
        ("accelerate", "torch", "transformers"),
        "torch runs in the executor and its workloads only",
        doors=("node.conversion", "node.executor", "node.workloads"),
    ),
    Wall(
        ("node.workloads",),
        ("jinja2", "tokenizers", "transformers", *_BY_TRANSFORMERS),
        "transformers takes seconds to import: only what runs its networks does it",
        doors=("node.workloads.embed", "node.workloads.engine", "node.workloads.generate", *_BY_TRANSFORMERS),
    ),
    Wall(
        PRODUCT,
        ("cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"),
        "nothing is unpickled here",
    ),
    Wall(PURE, IMPURE, "pure code has no clock, await, log or thread"),
)


def is_in(module: str, names: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or lies within one of them."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def breaches(path: PurePosixPath, source: str) -> Iterator[str]:
    """What this file (its path relative to the root) does that the table forbids, one line each."""
    module = ".".join(part for part in path.with_suffix("").parts if part != "__init__")
    tree = ast.parse(source)
    for line, imported in sorted(set(_imports(tree, module, is_package=path.stem == "__init__"))):
        for why in _refusals(module, imported):
            yield f"{path}:{line}: imports {imported}: {why}"
    if is_in(module, PURE):
        for line, what in _impurities(tree):
            yield f"{path}:{line}: {what}: pure code has no await and no chance but what it is given"
    if is_in(module, PRODUCT):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _dotted(node.func) == "torch.load":
                safe = any(
                    word.arg == "weights_only" and getattr(word.value, "value", None) is True
                    for word in node.keywords
                )
                if module != "node.conversion" or not safe:
                    yield f"{path}:{node.lineno}: torch.load unpickles: only node/conversion.py, weights_only=True"


def _refusals(module: str, imported: str) -> Iterator[str]:
    for wall in WALLS:
        if is_in(module, wall.inside) and not is_in(module, wall.doors) and is_in(imported, wall.outside):
            yield wall.why
    if is_in(module, PURE) and not is_in(imported, PURE):
        top = imported.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "numpy" and imported not in _packages_of(PURE):
            yield "pure code imports pure code, numpy and the standard library"
    for rows in ROWS:
        own = next((depth for depth, row in enumerate(rows) if is_in(module, row)), None)
        if own is not None and any(is_in(imported, row) for row in rows[:own]):
            yield "arrows point down only"


def _packages_of(names: tuple[str, ...]) -> set[str]:
    return {name.rpartition(".")[0] for name in names}


def _imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            here = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*here, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{name.name}") for name in node.names)
        elif isinstance(node, ast.Call) and _dotted(node.func) in ("importlib.import_module", "__import__"):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def _impurities(tree: ast.AST) -> Iterator[tuple[int, str]]:
    aliases = {
        name.asname: name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
        if name.asname
    }
    for node in ast.walk(tree):
        match node:
            case ast.Await() | ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith():
                yield node.lineno, "waits"
            case ast.ImportFrom(module=str(module)) if module in SEEDED:
                for alias in node.names:
                    if alias.name not in SEEDED[module]:
                        yield node.lineno, f"uses {module}.{alias.name}"
            case ast.Attribute():
                first, _, rest = _dotted(node).partition(".")
                module, _, used = f"{aliases.get(first, first)}.{rest}".rpartition(".")
                if module in SEEDED and used not in SEEDED[module]:
                    yield node.lineno, f"uses {module}.{used}"
            case ast.Call(args=[], keywords=[]):
                name = _dotted(node.func).rpartition(".")[2]
                if name in ("Random", "default_rng"):
                    yield node.lineno, f"calls {name} without a seed"


def _dotted(node: ast.AST) -> str:
    """`a.b.c` of such an expression, else the empty string."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def check(root: Path) -> list[str]:
    """All breaches below this root, in order of the files."""
    return [
        breach
        for package in (*PRODUCT, "benchmarks")
        for path in sorted((root / package).rglob("*.py"))
        for breach in breaches(PurePosixPath(path.relative_to(root).as_posix()), path.read_text())
    ]


def main() -> int:
    """Check the repository that this file is part of."""
    found = check(Path(__file__).resolve().parent.parent)
    for breach in found:
        print(breach, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
