from pathlib import Path

import pytest

from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_engine.options import EngineOptions


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def numpy_options(
    tiny_model: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> EngineOptions:
    monkeypatch.setenv("SHUNTER_CACHE", str(tiny_cache))
    return EngineOptions(
        backend="numpy",
        model=f"file://{tiny_model}",
        served_name="m",
        context_length=512,
        deterministic=True,
        kv_tokens=4096,
        moves_port=0,
        max_moves=16,
    )


@pytest.fixture
def simulated_options() -> EngineOptions:
    return EngineOptions(
        served_name="m", accelerator="l4-24gb", speed=0, moves_port=0, max_moves=16
    )
