"""What users give the connector, and what it reads from vLLM and from the model's files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shunter_vllm.facts import engine_facts
from shunter_vllm.identity import tokenizer_digest, weights_digest
from shunter_vllm.ports import computed_tokens
from shunter_vllm.settings import SettingsError, parse_settings
from shunter_vllm.testing import FakeRequest
from tiny_llama import LlamaShape, write_tiny_llama


def test_defaults() -> None:
    settings = parse_settings({"port": 8200})
    assert (settings.port, settings.tls) == (8200, None)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({}, "port"),
        ({"port": 0}, "port 0"),
        ({"port": "8200"}, "port"),
        ({"port": 8200, "stroe_mib": 1}, "stroe_mib"),
        ({"port": 8200, "store_mib": 0}, "store_mib"),
        ({"port": 8200, "max_moves": 0}, "max_moves"),
        ({"port": 8200, "tls_ca": "/ca.pem"}, "tls_ca"),
    ],
)
def test_a_mistake_is_named(extra: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        parse_settings(extra)


def test_models_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    big = LlamaShape(width=256, feed_forward=512)  # more than one sample holds
    for name, seed in (("a", 0), ("same", 0), ("tuned", 1)):
        write_tiny_llama(tmp_path / name, big, seed)
    a, same, tuned = (weights_digest(str(tmp_path / n), "") for n in ("a", "same", "tuned"))
    assert a == same != tuned
    assert weights_digest("org/name", "main") != weights_digest("org/name", "other")
    assert tokenizer_digest(str(tmp_path / "a")) == tokenizer_digest(str(tmp_path / "tuned"))
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    assert tokenizer_digest(str(tmp_path / "a")) != tokenizer_digest(str(tmp_path / "tuned"))


def vllm_config(folder: Path, **changes: Any) -> Any:
    """As far as a `VllmConfig` is read."""
    model = SimpleNamespace(
        model=str(folder),
        revision=None,
        tokenizer=None,
        dtype="torch.bfloat16",
        seed=0,
        get_num_layers=lambda parallel: 2,
        get_num_kv_heads=lambda parallel: 8 // parallel.tensor_parallel_size,
        get_head_size=lambda: 64,
        get_sliding_window=lambda: changes.get("sliding_window"),
    )
    parallel = {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "data_parallel_size": 1}
    return SimpleNamespace(
        model_config=model,
        parallel_config=SimpleNamespace(
            **parallel | {k: v for k, v in changes.items() if k in parallel}
        ),
        cache_config=SimpleNamespace(
            block_size=16,
            cache_dtype=changes.get("cache_dtype", "auto"),
            enable_prefix_caching=changes.get("prefix_caching", True),
        ),
        load_config=SimpleNamespace(load_format="auto"),
        speculative_config=changes.get("speculative"),
    )


def test_facts_are_read_from_vllms_configuration(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    facts = engine_facts(vllm_config(tmp_path, tensor_parallel_size=2), "cpu")
    assert (facts.dtype, facts.block_tokens, facts.layers) == ("bfloat16", 16, 2)
    assert (facts.kv_heads, facts.head_dim, facts.tensor_parallel) == (4, 64, 2)
    assert facts.unsupported == ""
    fp8 = engine_facts(vllm_config(tmp_path, cache_dtype="fp8"), "cpu")
    assert fp8.dtype == "fp8" and fp8.word() != facts.word()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size 2"),
        ({"data_parallel_size": 2}, "data_parallel_size 2"),
        ({"speculative": object()}, "speculative"),
        ({"sliding_window": 4096}, "sliding window"),
        ({"prefix_caching": False}, "prefix caching"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    assert named in engine_facts(vllm_config(tmp_path, **changes), "cpu").unsupported


@pytest.mark.parametrize(
    ("computed", "ahead", "known", "expected"),
    [(10, 0, 11, 10), (11, 1, 11, 10), (0, 1, 11, 0), (14, 0, 11, 11)],
)
def test_only_known_tokens_count_as_computed(
    computed: int, ahead: int, known: int, expected: int
) -> None:
    request = FakeRequest("r", list(range(known)))
    request.num_computed_tokens, request.num_output_placeholders = computed, ahead
    assert computed_tokens(request) == expected
