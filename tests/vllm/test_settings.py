"""What users give the connector, and what it reads from vLLM and from the model's files."""

import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shunter_vllm.facts import engine_facts
from shunter_vllm.identity import tokenizer_digest, weights_digest
from shunter_vllm.layout import UnknownLayout, WorkerCache, with_caches
from shunter_vllm.ports import computed_tokens
from shunter_vllm.published import publish, published, withdraw
from shunter_vllm.settings import SettingsError, parse_settings
from shunter_vllm.testing import FACTS, FakeRequest
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
        dtype=changes.get("dtype", "torch.bfloat16"),
        seed=changes.get("seed", 0),
        quantization=changes.get("quantization"),
        quantization_config=changes.get("quantization_config"),
        hf_config=SimpleNamespace(
            to_dict=lambda: {"model_type": "llama", **changes.get("hf_config", {})}
        ),
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
        load_config=SimpleNamespace(load_format=changes.get("load_format", "auto")),
        speculative_config=changes.get("speculative"),
    )


def test_facts_are_read_from_vllms_configuration(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    facts = engine_facts(vllm_config(tmp_path, tensor_parallel_size=2))
    assert (facts.dtype, facts.block_tokens, facts.layers) == ("bfloat16", 16, 2)
    assert (facts.kv_heads, facts.head_dim, facts.tensor_parallel) == (4, 64, 2)
    assert facts.unsupported == ""
    assert engine_facts(vllm_config(tmp_path, cache_dtype="fp8")).dtype == "fp8"


ROPE = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_dtype": "fp8"},
        {"dtype": "torch.float16", "cache_dtype": "fp8"},
        {"tensor_parallel_size": 2},
        {"hf_config": ROPE},
        {"hf_config": {"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}},
        {"quantization": "fp8"},
        {"quantization": "online", "quantization_config": {"linear": "int8"}},
        {"load_format": "dummy"},
        {"load_format": "dummy", "seed": 1},
    ],
    ids=str,
)
def test_what_shapes_keys_and_values_is_in_the_word(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_tiny_llama(tmp_path)
    plain = {"cache_dtype": "fp8"} if "dtype" in changes else {}
    for other in (plain, {"hf_config": ROPE, "quantization": "gptq"}):
        with_it = engine_facts(vllm_config(tmp_path, **changes)).word()
        assert with_it != engine_facts(vllm_config(tmp_path, **other)).word()


def test_where_a_model_lies_is_not_in_the_word(tmp_path: Path) -> None:
    words = set()
    for name in ("a", "b"):
        write_tiny_llama(tmp_path / name)
        where = {"_name_or_path": f"/models/{name}", "transformers_version": name}
        words.add(engine_facts(vllm_config(tmp_path / name, hf_config=where)).word())
    assert len(words) == 1


CACHE = WorkerCache("cuda H100 FLASH_ATTN 1x8x16x256 torch.bfloat16", 65536)


@pytest.mark.parametrize(
    "form",
    [
        "rocm H100 FLASH_ATTN 1x8x16x256 torch.bfloat16",
        "cuda A100 FLASH_ATTN 1x8x16x256 torch.bfloat16",
        "cuda H100 FLASHINFER 1x8x16x256 torch.bfloat16",
        "cuda H100 FLASH_ATTN 2x8x8x256 torch.bfloat16",
    ],
)
def test_what_workers_found_is_in_the_word(form: str) -> None:
    words = {with_caches(FACTS, [replace(CACHE, form=made)]).word() for made in (CACHE.form, form)}
    assert len(words) == 2


@pytest.mark.parametrize(
    ("caches", "named"),
    [
        ([CACHE], "2 workers with 1"),
        ([CACHE, replace(CACHE, form="other")], "2 workers with 2"),
        ([CACHE, WorkerCache(problem="3 tensors of 1 forms")], "3 tensors"),
        ([], "2 workers with 0"),
    ],
)
def test_workers_have_to_agree(caches: list[WorkerCache], named: str) -> None:
    with pytest.raises(UnknownLayout, match=named):
        with_caches(replace(FACTS, tensor_parallel=2), caches)
    assert with_caches(replace(FACTS, tensor_parallel=2), [CACHE, CACHE]).block_bytes == 65536


def test_the_word_goes_by_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "8200"
    assert published(folder) == ""
    for word in ("vllm-1", "vllm-2"):
        publish(folder, word)
        assert published(folder) == word
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    withdraw(folder)
    withdraw(folder)
    assert published(folder) == "" and not list(tmp_path.iterdir())


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
    assert named in engine_facts(vllm_config(tmp_path, **changes)).unsupported


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
