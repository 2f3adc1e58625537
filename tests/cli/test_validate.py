import subprocess
import sys
from pathlib import Path

from shunter.config import quickstart_path

POOL = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: NAME}
spec:
  model: {source: "sim://llama-3.1-8b", aliases: [default]}
  engine: {type: simulated}
  profiles: [{name: h100, accelerator: h100}]
"""


def validate(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shunter", "validate", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_quick_start_is_valid() -> None:
    result = validate(quickstart_path())
    assert (result.returncode, result.stderr) == (0, "")
    assert "valid: 2 pools" in result.stdout


def test_every_problem_of_every_file_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL.replace("NAME", "a"))
    (tmp_path / "b.yaml").write_text(POOL.replace("NAME", "b"))
    (tmp_path / "c.yaml").write_text(POOL.replace("NAME", "c").replace("simulated", "simulatd"))
    result = validate(tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml")
    assert result.returncode == 1
    assert f"{tmp_path}/b.yaml:5" in result.stdout
    assert "'default' belongs to pool 'a'" in " ".join(result.stdout.split())
    assert f"{tmp_path}/c.yaml:6" in result.stdout
    assert "spec.engine.type" in result.stdout


def test_a_missing_file(tmp_path: Path) -> None:
    result = validate(tmp_path / "none.yaml")
    assert result.returncode == 1
    assert "No such file" in result.stdout


def test_a_simulated_model_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL.replace("NAME", "a").replace("llama-3.1", "lama-3.1"))
    result = validate(tmp_path / "a.yaml")
    assert result.returncode == 1
    assert f"{tmp_path}/a.yaml:5" in result.stdout
    assert "did you mean" in result.stdout


def test_a_simulated_model_that_does_not_fit_its_gpu(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL.replace("NAME", "a").replace("-8b", "-70b"))
    result = validate(tmp_path / "a.yaml")
    assert result.returncode == 1
    assert f"{tmp_path}/a.yaml:7" in result.stdout
    assert "raise tensorParallel" in " ".join(result.stdout.split())
