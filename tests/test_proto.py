"""The committed gRPC stubs are what `make proto` would generate."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "proto"
PROTOS = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.proto"))


@pytest.mark.parametrize("proto", PROTOS, ids=str)
def test_stubs_are_fresh(proto: Path, tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    plugins = Path(sys.executable).parent
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            *(
                f"--{out}={tmp_path}"
                for out in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")
            ),
            str(ROOT / proto),
        ]
    )
    assert code == 0
    generated = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(generated) == 4
    for path in generated:
        committed = ROOT / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed.name} is stale: make proto"
