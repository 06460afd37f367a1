"""Generates the Python code and stubs beside protos/*.proto; with `--check`, only says which are stale."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(into: Path) -> None:
    """Write what protoc makes of protos/*.proto into the folder `protos` of `into`."""
    sources = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "protos").glob("*.proto"))]
    plugins = Path(sys.executable).parent  # protoc looks for the mypy plugins on the path
    done = subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I."),
            *(f"--python_out={into}", f"--grpc_python_out={into}"),
            *(f"--mypy_out=quiet:{into}", f"--mypy_grpc_out=quiet:{into}"),
            *sources,
        ],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{plugins}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"protoc failed:\n{done.stdout}")


def generated(folder: Path) -> dict[str, str]:
    """The generated files in a folder, name to content."""
    return {path.name: path.read_text() for path in sorted(folder.glob("*_pb2*.py*"))}


def stale(committed: Path) -> list[str]:
    """Names of the files in this folder that protoc would write otherwise, not at all, or anew."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = generated(Path(scratch) / "protos")
    old = generated(committed)
    return [name for name in sorted(fresh | old) if fresh.get(name) != old.get(name)]


def main() -> int:
    """Generate, or check: then the exit code is 1 when something is stale."""
    if sys.argv[1:] != ["--check"]:
        generate(ROOT)
        return 0
    names = stale(ROOT / "protos")
    if names:
        print(f"Stale in protos/: {', '.join(names)}. Run make protos and commit the result.", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
