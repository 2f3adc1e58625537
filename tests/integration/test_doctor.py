"""`shunter doctor --server` against real processes."""

import json
from pathlib import Path

from typer.testing import CliRunner

from shunter.__main__ import build_app
from shunter_system import EngineSpec, System


def doctor(system: System, *more: str) -> tuple[int, dict[tuple[str, str], list[str]]]:
    """The exit code, and messages by check and state."""
    gateway = f"127.0.0.1:{system.ports['gateway']}"
    flags = ("--server", system.scheduler_address, "--gateway", gateway, "--json")
    result = CliRunner().invoke(build_app(), ["doctor", *flags, *more])
    found: dict[tuple[str, str], list[str]] = {}
    for row in json.loads(result.stdout)["findings"]:
        found.setdefault((row["check"], row["state"]), []).append(row["message"])
    return result.exit_code, found


def test_a_running_system_is_sound_until_its_gateway_and_engine_are_gone(tmp_path: Path) -> None:
    system = System(tmp_path, (EngineSpec("a"), EngineSpec("b")))
    try:
        system.start()
        code, found = doctor(system, "--state-dir", str(tmp_path))
        assert code == 0, found
        assert found["engines", "ok"] == [
            "2 engines as promised by type: model, token ids, metrics"
        ]
        assert ("scheduler", "ok") in found and ("gateway", "ok") in found
        system.kill("gateway")
        system.kill("a")
        code, found = doctor(system)
        assert code == 1
        assert ("gateway", "failed") in found
        assert any("engine a" in message for message in found["engines", "failed"])
    finally:
        system.stop()


def test_no_scheduler_there() -> None:
    result = CliRunner().invoke(build_app(), ["doctor", "--server", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "does not answer that it is SERVING" in " ".join(result.output.split())
