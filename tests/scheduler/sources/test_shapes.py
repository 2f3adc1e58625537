"""Which file or name a model's shape comes from."""

import json
from functools import partial
from pathlib import Path

import pytest

from hf_configs import LLAMA_31_8B
from shunter_api.testing import make_pool
from shunter_scheduler.core.costs import profile_cost
from shunter_scheduler.costmodel import UnknownModel, UnsupportedConfig, model_shape
from shunter_scheduler.sources.shapes import shape_of


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_31_8B))
    return tmp_path / "config.json"


def test_of_a_source_the_cached_file_counts(config_file: Path, tmp_path: Path) -> None:
    """Under a name that nobody knows, and over the name of a model that is known."""
    hub = tmp_path / "hub"
    for name in ("team--private", "meta-llama--Llama-3.1-70B"):
        snapshot = hub / f"models--{name}" / "snapshots" / "main"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_bytes(config_file.read_bytes())
    environ = environ_of(tmp_path)
    assert shape_of("hf://team/private", environ).parameters == 8_029_995_008
    assert shape_of("hf://meta-llama/Llama-3.1-70B", environ).parameters == 8_029_995_008
    assert shape_of("hf://meta-llama/Llama-3.1-405B", environ).name == "llama-3.1-405b"
    with pytest.raises(UnknownModel, match=r"no cache has its config\.json either"):
        shape_of("hf://team/other", environ)


def test_a_file_that_is_no_model_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    with pytest.raises(UnsupportedConfig, match="not a decoder alone"):
        shape_of(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        shape_of(str(tmp_path / "none.json"))


def test_a_gguf_file_is_known_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "Llama-3.1-8B-Instruct.Q8_0.gguf"
    path.write_bytes(b"GGUF")
    shape = shape_of(f"file://{path}", {})
    assert (shape.name, shape.weights.name) == ("llama-3.1-8b", "q8_0")


def test_a_pool_s_costs_follow_the_file_that_its_model_has(
    config_file: Path, tmp_path: Path
) -> None:
    """Not the name, and the name where the file is none that can be read."""
    read = partial(profile_cost, shape_of=partial(shape_of, environ=environ_of(tmp_path)))
    pool = make_pool("chat", engine="vllm", name="gemma-2-27b", source=f"file://{tmp_path}")
    known = make_pool("chat", engine="vllm", source="hf://meta-llama/Llama-3.1-8B")
    assert read(pool, pool.profiles[0]) == profile_cost(known, known.profiles[0])
    config_file.write_text("{}")
    gemma = make_pool("chat", engine="vllm", source="hf://google/gemma-2-27b")
    assert read(pool, pool.profiles[0]) == profile_cost(gemma, gemma.profiles[0])


def environ_of(tmp_path: Path) -> dict[str, str]:
    return {"HF_HUB_CACHE": str(tmp_path / "hub"), "SHUNTER_CACHE": str(tmp_path / "own")}


def test_names_need_no_file(tmp_path: Path) -> None:
    assert shape_of("sim://qwen3-8b", environ_of(tmp_path)) == model_shape("qwen3-8b")
