"""The generated code belongs to the .proto files, and every figure on the wire says what it means."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import generate
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
# A double is a quantity: its name or its comment names the unit.
UNIT = re.compile(r"_(s|w|j|kwh|bytes)\b|second|watt|joule|byte|items|0 to 1|no unit")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    """All .proto files as protoc understands them, with their comments."""
    out = tmp_path_factory.mktemp("protos") / "all.bin"
    sources = [path.relative_to(ROOT).as_posix() for path in sorted(PROTOS.glob("*.proto"))]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_source_info"]
    subprocess.run([*protoc, f"--descriptor_set_out={out}", *sources], cwd=ROOT, check=True)
    return FileDescriptorSet.FromString(out.read_bytes())


def fields(files: FileDescriptorSet) -> dict[str, tuple[FieldDescriptorProto, str]]:
    """Every field of every message by full name, with its comment."""
    found = {}
    for file in files.file:
        comments = {
            tuple(location.path): location.leading_comments + location.trailing_comments
            for location in file.source_code_info.location
        }
        for row, message in enumerate(file.message_type):
            for column, field in enumerate(message.field):
                # 4 is message_type in FileDescriptorProto, 2 is field in DescriptorProto.
                comment = comments.get((4, row, 2, column), "").strip()
                found[f"{message.name}.{field.name}"] = (field, comment)
    return found


def test_generated_code_is_fresh() -> None:
    assert generate.stale(PROTOS) == []


def test_stale_missing_and_orphaned_files_are_named(tmp_path: Path) -> None:
    for path in PROTOS.glob("*_pb2*"):
        shutil.copy(path, tmp_path)
    (tmp_path / "jobs_pb2.py").write_text("# edited by hand\n")
    (tmp_path / "link_pb2.pyi").unlink()
    (tmp_path / "gone_pb2.py").write_text("")
    assert generate.stale(tmp_path) == ["gone_pb2.py", "jobs_pb2.py", "link_pb2.pyi"]


def test_every_number_on_the_wire_says_what_it_counts(described: FileDescriptorSet) -> None:
    other = {
        FieldDescriptorProto.TYPE_BOOL,
        FieldDescriptorProto.TYPE_BYTES,
        FieldDescriptorProto.TYPE_ENUM,
        FieldDescriptorProto.TYPE_MESSAGE,
        FieldDescriptorProto.TYPE_STRING,
    }
    numbers = {name: comment for name, (field, comment) in fields(described).items() if field.type not in other}
    assert len(numbers) > 40
    assert [name for name, comment in numbers.items() if not comment] == []


def test_every_quantity_on_the_wire_names_its_unit(described: FileDescriptorSet) -> None:
    real = (FieldDescriptorProto.TYPE_DOUBLE, FieldDescriptorProto.TYPE_FLOAT)
    quantities = {name: comment for name, (field, comment) in fields(described).items() if field.type in real}
    assert len(quantities) > 15
    assert [name for name, comment in quantities.items() if not UNIT.search(f"{name} {comment}")] == []


def test_no_field_carries_an_instant(described: FileDescriptorSet) -> None:
    instants = [name for name in fields(described) if re.search(r"_(at|time|timestamp)(_s|_ms|_ns)?$", name)]
    assert [name for name in instants if not name.endswith("on_time")] == []  # which is a chance
