"""`shunter cost`: what it prints agrees with the cost model, and what it refuses has a remedy."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hf_configs import LLAMA_31_8B
from shunter.__main__ import build_app
from shunter.cost_report import Costs, Misfit, compare, costs
from shunter.failure import Failure
from shunter_api.accelerators import ACCELERATORS, accelerator
from shunter_scheduler.costmodel import cost_model, model_shape
from shunter_scheduler.costmodel.catalogue import SHAPES


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    folder = tmp_path / "My-Llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_31_8B))
    return folder / "config.json"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), ["cost", *arguments], env={"COLUMNS": "80"})
    if isinstance(result.exception, Failure):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_json_says_what_the_model_predicts() -> None:
    told = run_json("llama-3.1-70b", "h100", "--tp", "4", "--dollars-per-hour", "2.5")
    model = cost_model(model_shape("llama-3.1-70b"), accelerator("h100"), 4)
    assert told["kv_tokens"] == model.kv_capacity_tokens
    assert told["dollars_per_hour"] == 10.0
    for one in told["prefills"]:
        tokens = one["prompt_tokens"]
        assert one["seconds"] == pytest.approx(model.prefill_s(tokens))
        assert one["tokens_per_s"] == pytest.approx(tokens / one["seconds"])
    for one in told["steps"]:
        batch, context = one["batch"], one["context_tokens"]
        assert batch * context <= model.kv_capacity_tokens
        assert one["seconds"] == pytest.approx(model.decode_step_s(batch, batch * context))
        seconds_per_million = one["seconds"] / batch * 1e6
        assert one["dollars_per_million"] == pytest.approx(10.0 / 3600 * seconds_per_million)


def test_tables_show_the_same_and_fit_80_columns() -> None:
    output = run("llama-3.1-8b", "h100", "--dollars-per-hour", "2.50")
    told = costs(model_shape("llama-3.1-8b"), accelerator("h100"), 1, 2.5)
    assert f"{told.kv_tokens:,} tokens" in output
    for prefill in told.prefills:
        assert f"{prefill.tokens_per_s:,.0f}" in output
    for step in told.steps:
        assert f"{step.seconds * 1000:.1f}" in output
    assert "no room" in output  # 128 sequences of 32,768 tokens
    assert max(map(len, output.splitlines())) <= 80


def test_without_prices_none_are_shown() -> None:
    output = run("llama-3.1-8b", "l4")
    assert "$" not in output
    assert "add --dollars-per-hour" in output


def test_all_accelerators_are_compared_on_as_many_as_hold_the_model() -> None:
    told = run_json("llama-3.1-70b", "--dollars-per-hour", "h100=2", "--dollars-per-hour", "l4=1")
    by_key = {one["accelerator"]: one for one in told}
    assert set(by_key) == set(ACCELERATORS)
    assert by_key["h200-141gb"]["devices"] == 2
    assert by_key["h100-sxm-80gb"]["dollars_per_hour"] == 2 * by_key["h100-sxm-80gb"]["devices"]
    assert by_key["l4-24gb"]["dollars_per_hour"] == by_key["l4-24gb"]["devices"] == 8
    assert by_key["cpu"]["does_not_fit"]
    fastest = [one["prefills"][0]["seconds"] for one in told if "prefills" in one]
    assert fastest == sorted(fastest)
    output = run("llama-3.1-70b", "--dollars-per-hour", "h100=2")
    assert "cpu: not even 16 hold it" in output
    assert "$/M out" in output


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_model_of_the_catalogue_is_held_somewhere(name: str) -> None:
    every = compare(SHAPES[name], {})
    assert any(isinstance(one, Costs) for one in every)
    assert len(every) == len(ACCELERATORS)
    assert all(one.steps for one in every if isinstance(one, Costs))
    assert all(one.because for one in every if isinstance(one, Misfit))


@pytest.mark.parametrize("given", ["file", "folder", "option", "file://"])
def test_a_config_file_is_read(given: str, config_file: Path) -> None:
    arguments = {
        "file": [str(config_file), "h100"],
        "folder": [str(config_file.parent), "h100"],
        "option": ["h100", "--config", str(config_file)],
        "file://": [f"file://{config_file}", "h100"],
    }[given]
    told = run_json(*arguments)
    known = run_json("llama-3.1-8b", "h100")
    assert told.pop("model") == "my-llama"
    known.pop("model")
    assert told == known


@pytest.mark.parametrize(
    ("arguments", "message", "next_step"),
    [
        (["llama-3.1-70b", "l4"], "131.4 GiB of weights", "--tp 8"),
        (["deepseek-v3", "l4"], "626.8 GiB of weights", "which accelerators hold it"),
        (["lama-3.1-8b", "h100"], "did you mean llama-3.1-8b", "--config FILE"),
        (["llama-3.1-8b", "h10"], "did you mean h100", ""),
        (["llama-3.1-8b", "h100", "--tp", "3"], "does not divide the 32 attention heads", "--tp 1"),
        (["./none/config.json", "h100"], "none/config.json", "--config FILE"),
        (["llama-3.1-8b", "--dollars-per-hour", "2.5"], "a price of which", "h100=2.50"),
        (["llama-3.1-8b", "h100", "--dollars-per-hour", "much"], "much", "2.50"),
        (["llama-3.1-8b", "h100", "--dollars-per-hour", "-1"], "not a price", "2.50"),
        ([], "name a model", "--config FILE"),
    ],
)
def test_what_is_refused_has_a_remedy(arguments: list[str], message: str, next_step: str) -> None:
    with pytest.raises(Failure) as failure:
        run(*arguments)
    assert message in str(failure.value)
    assert next_step in failure.value.next_step
