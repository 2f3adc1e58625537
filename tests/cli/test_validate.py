from pathlib import Path

from typer.testing import CliRunner, Result

from shunter.__main__ import build_app
from shunter.config import quickstart_path
from shunter.failure import Failure

POOL = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: NAME}
spec:
  model: {source: "sim://llama-3.1-8b", aliases: [default]}
  engine: {type: simulated}
  profiles: [{name: h100, accelerator: h100}]
"""


def validate(*paths: Path) -> Result:
    return CliRunner().invoke(build_app(), ["validate", *map(str, paths)])


def test_the_quick_start_is_valid() -> None:
    result = validate(quickstart_path())
    assert (result.exit_code, result.stderr) == (0, "")
    assert "valid: 3 ModelPool, 1 RoutingPolicy" in result.stdout


def test_files_without_resources_are_not_called_valid(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to serve")
    failure = validate(tmp_path).exception
    assert isinstance(failure, Failure)
    assert f"no resource in {tmp_path}" in str(failure)


def test_every_problem_of_every_file_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL.replace("NAME", "a"))
    (tmp_path / "b.yaml").write_text(POOL.replace("NAME", "b"))
    (tmp_path / "c.yaml").write_text(POOL.replace("NAME", "c").replace("simulated", "simulatd"))
    result = validate(tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml")
    assert result.exit_code == 1
    second, third, end = result.stdout.splitlines()
    assert second.startswith(f"{tmp_path}/b.yaml:5: spec.model.aliases")
    assert "'default' belongs to pool 'a'" in second
    assert third.startswith(f"{tmp_path}/c.yaml:6: spec.engine.type: ")
    assert end == "refused: 2 problems"


def test_a_missing_file(tmp_path: Path) -> None:
    result = validate(tmp_path / "none.yaml")
    assert result.exit_code == 1
    assert "No such file" in result.stdout


def test_a_simulated_model_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL.replace("NAME", "a").replace("llama-3.1", "lama-3.1"))
    result = validate(tmp_path / "a.yaml")
    assert result.exit_code == 1
    assert f"{tmp_path}/a.yaml:5" in result.stdout
    assert "did you mean" in result.stdout


def test_a_simulated_model_that_does_not_fit_its_gpu(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL.replace("NAME", "a").replace("-8b", "-70b"))
    result = validate(tmp_path / "a.yaml")
    assert result.exit_code == 1
    assert f"{tmp_path}/a.yaml:7" in result.stdout
    assert "raise tensorParallel" in " ".join(result.stdout.split())


def test_a_context_that_no_kv_cache_holds(tmp_path: Path) -> None:
    text = POOL.replace("NAME", "a").replace("accelerator: h100", "accelerator: l4")
    (tmp_path / "a.yaml").write_text(text.replace("[default]", "[default], contextLength: 131072"))
    result = validate(tmp_path / "a.yaml")
    assert result.exit_code == 1
    assert f"{tmp_path}/a.yaml:7: spec.profiles[0]: 1 x l4-24gb hold " in result.stdout
    assert "fewer than one request of contextLength 131072" in result.stdout
