"""The model cache: which models this user has, each with a manifest that names every file by its sha256.

It knows files and digests. It does not know what a model computes: that is `node/workloads`, and making the
files of a named model is `node/conversion`.

    <cache>/models/<name>/manifest.json     and the files it names, beside it
    <cache>/models/.<name>.part/            the same while they are fetched, over as many processes as that takes
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

ARCHITECTURES: Mapping[str, str] = {
    "BertModel": "embed",
    "RobertaModel": "embed",
    "XLMRobertaModel": "embed",
    "LlamaForCausalLM": "generate",
    "MistralForCausalLM": "generate",
    "Qwen2ForCausalLM": "generate",
    "Qwen3ForCausalLM": "generate",
    "EfficientNetLite0": "classify",
}
"""Architectures that may run, and the kind of workload each is. Each was compared with transformers' own loop, and
their code is transformers' (but for EfficientNetLite0, which is ours): no other name that a model's files give
loads anything."""

MAX_ITEM_BYTES: Mapping[str, int] = {
    "embed": 64 << 10,
    "generate": 64 << 10,
    "classify": 16 << 20,
    "echo": 64 << 20,
}
"""Largest input item of each kind, bytes. Assumed: a long article, a long chat, a large photograph."""

NOOP = "noop"
"""Name of the built-in echo model, which needs no files."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MANIFEST = "manifest.json"


class ModelError(Exception):
    """A model that cannot be had or used. The message is one sentence for the person who asked for it."""


class UnknownModel(ModelError):
    """No model of this name is in the cache."""


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One file of a model."""

    path: str  # within the model's directory, '/' between parts
    bytes: int
    sha256: str  # hexadecimal


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One model in the cache, as its manifest describes it."""

    name: str
    kind: str  # "embed", "generate" or "classify"
    architecture: str
    digest: str  # sha256 over the rest of the manifest, hexadecimal
    max_item_bytes: int
    files: tuple[CachedFile, ...]
    source: str
    directory: Path

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.bytes for file in self.files)

    def weights(self) -> tuple[Path, ...]:
        """Its safetensors files."""
        return tuple(self.directory / file.path for file in self.files if file.path.endswith(".safetensors"))

    def verify(self, contents: bool = True) -> None:
        """Compare every file with the manifest: its size, and its contents. Raises ModelError naming the first that
        differs."""
        for file in self.files:
            path = self.directory / file.path
            try:
                intact = path.stat().st_size == file.bytes and (not contents or sha256_of(path) == file.sha256)
            except OSError as error:
                raise ModelError(f"{path} cannot be read: {error.strerror}; {self._remedy()}") from None
            if not intact:
                raise ModelError(f"{path} is not what the manifest of {self.name} says; {self._remedy()}")

    def _remedy(self) -> str:
        return f"remove {self.directory} and add the model again with `carpool models add`"


class ModelCache:
    """The models under one directory. Any number of processes may read and add at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of_user(cls) -> "ModelCache":
        """The cache at CARPOOL_CACHE, or at ~/.cache/carpool."""
        return cls(Path(os.environ.get("CARPOOL_CACHE") or Path.home() / ".cache" / "carpool"))

    def models(self) -> tuple[CachedModel, ...]:
        """Every model in the cache, by name."""
        found = sorted((self.root / "models").glob(f"*/{MANIFEST}"))
        return tuple(_read(path) for path in found if not path.parent.name.startswith("."))

    def find(self, name: str) -> CachedModel | None:
        """The model of this name, or None."""
        manifest = self.root / "models" / name / MANIFEST
        return _read(manifest) if _NAME.fullmatch(name) and manifest.is_file() else None

    def get(self, name: str) -> CachedModel:
        """The model of this name. Raises UnknownModel."""
        model = self.find(name)
        if model is None:
            cached = ", ".join(model.name for model in self.models()) or "none yet"
            raise UnknownModel(
                f"no model {name!r} in {self.root} (cached: {cached}); see `carpool models add --help`"
            )
        return model

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A temporary directory to make the files of a model in; `keep` puts it into place. Raises ModelError
        when the cache cannot be written."""
        _require_name(name)
        models = self.root / "models"
        try:
            models.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=models))
        except OSError as error:
            raise unwritable(models, error) from None
        try:
            yield staging
        except OSError as error:
            raise unwritable(models, error) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def keep(self, name: str, staging: Path, source: str) -> CachedModel:
        """Describe the files in `staging` and move them into place as model `name`, replacing an older one."""
        architecture = architecture_of(staging)
        kind = ARCHITECTURES[architecture]
        files = [
            CachedFile(path.relative_to(staging).as_posix(), path.stat().st_size, sha256_of(path))
            for path in sorted(staging.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        ]
        manifest: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "architecture": architecture,
            "max_item_bytes": MAX_ITEM_BYTES[kind],
            "files": [asdict(file) for file in files],
            "source": source,
        }
        manifest["digest"] = _digest(manifest)
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        return self._place(name, staging)

    def lock(self, name: str) -> Path:
        """The file to lock by whoever fetches this model. Raises ModelError when there can be none."""
        _require_name(name)
        models = self.root / "models"
        try:
            models.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(models, error) from None
        return models / f".{name}.lock"

    def begun(self, name: str) -> bool:
        """Whether some of this model was fetched, and not all."""
        return (self._part(name) / MANIFEST).is_file()

    def begin(self, name: str, manifest: bytes) -> CachedModel:
        """What is to be fetched by this manifest, and where its files gather, over as many processes as that takes;
        what was gathered by another manifest is thrown away. Raises ModelError when it is none of this model."""
        _require_name(name)
        staging = self._part(name)
        place = staging / MANIFEST
        try:
            if not place.is_file() or place.read_bytes() != manifest:
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
                place.write_bytes(manifest)
        except OSError as error:
            raise unwritable(staging, error) from None
        try:
            return _own(name, _read(place))
        except ModelError:
            shutil.rmtree(staging)
            raise

    def adopt(self, name: str, staging: Path) -> CachedModel:
        """Move files into place that came with their manifest, each compared with it already. Raises ModelError
        unless they are all that it names, and no others."""
        model = _own(name, _read(staging / MANIFEST))
        model.verify(contents=False)
        stray = {path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()}
        stray -= {MANIFEST, *(file.path for file in model.files)}
        if stray:
            raise ModelError(f"the manifest of {name} does not name {', '.join(sorted(stray))}")
        return self._place(name, staging)

    def _part(self, name: str) -> Path:
        return self.root / "models" / f".{name}.part"

    def _place(self, name: str, staging: Path) -> CachedModel:
        """Move a described directory to where model `name` lives, replacing an older one."""
        place = self.root / "models" / name
        replaced = staging.with_name(staging.name + "-replaced")
        if place.exists():
            place.rename(replaced)
        staging.chmod(0o755)
        staging.rename(place)
        shutil.rmtree(replaced, ignore_errors=True)
        return _read(place / MANIFEST)


def architecture_of(directory: Path) -> str:
    """The architecture that config.json names. Raises ModelError unless it is an allowed one."""
    allowed = ", ".join(ARCHITECTURES)
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"{directory} has no config.json: a model is a directory in Hugging Face layout") from None
    except ValueError as error:
        raise ModelError(f"{directory / 'config.json'} is not JSON: {error}") from None
    named = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(named, list) or len(named) != 1 or named[0] not in ARCHITECTURES:
        raise ModelError(f"{directory / 'config.json'} names the architecture {named!r}; allowed are {allowed}")
    if config.get("quantization_config"):
        raise ModelError(f"{directory / 'config.json'} asks for quantised weights; save them as fp32 or bf16 first")
    return str(named[0])


def tensors_of(model: CachedModel) -> tuple[int, str]:
    """How many numbers its weights hold, and the type of most of them ("F32", "BF16"), from the files' headers."""
    counts: dict[str, int] = {}
    for path in model.weights():
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for extent in tensor["shape"]:
                    size *= extent
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + size
    return sum(counts.values()), max(counts, key=lambda dtype: counts[dtype], default="none")


def sha256_of(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == NOOP:
        raise ModelError(
            f"{name!r} cannot name a model: use 1 to 64 letters, digits, '.', '_' or '-', the first a letter or"
            f" a digit, and not {NOOP!r}"
        )


def _own(name: str, model: CachedModel) -> CachedModel:
    """The model, if it is of this name and its files lie in its directory."""
    if model.name != name:
        raise ModelError(f"the manifest in {model.directory} is of model {model.name!r}; {name!r} was expected")
    for file in model.files:
        parts = PurePosixPath(file.path).parts
        if not parts or file.path.startswith("/") or ".." in parts or file.path == MANIFEST:
            raise ModelError(
                f"the manifest of {name} names a file {file.path!r}; a model's files lie in its directory"
            )
    return model


def _digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(path: Path) -> CachedModel:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        model = CachedModel(
            name=manifest["name"],
            kind=manifest["kind"],
            architecture=manifest["architecture"],
            digest=manifest["digest"],
            max_item_bytes=manifest["max_item_bytes"],
            files=tuple(CachedFile(**file) for file in manifest["files"]),
            source=manifest["source"],
            directory=path.parent,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({error}); remove its directory and add the model again") from None
    if model.digest != _digest(manifest) or ARCHITECTURES.get(model.architecture) != model.kind:
        raise ModelError(f"{path} was changed after it was written; remove its directory and add the model again")
    return model


def unwritable(path: Path, error: OSError) -> ModelError:
    """That nothing can be written there."""
    return ModelError(f"{path} cannot be written ({error.strerror}); free space, or set CARPOOL_CACHE elsewhere")
