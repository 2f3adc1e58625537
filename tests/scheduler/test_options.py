"""What a scheduler is told on its command line."""

from pathlib import Path

import pytest

from shunter_scheduler.options import SchedulerOptions, StartError
from shunter_scheduler.process import parse_arguments, settings_of


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SchedulerOptions(), "either --config FILE... or --kubernetes"),
        (SchedulerOptions(config=(Path("a"),), kubernetes=True), "either --config FILE... or"),
        (
            SchedulerOptions(config=(Path("a"),), namespaces=("x",)),
            "--namespace needs --kubernetes",
        ),
    ],
)
def test_what_does_not_go_together(options: SchedulerOptions, message: str) -> None:
    with pytest.raises(StartError, match=message):
        options.check()


@pytest.mark.parametrize(
    ("arguments", "lease"),
    [
        (["--kubernetes"], "shunter-scheduler"),
        (["--kubernetes", "--lease", ""], ""),
        (["--kubernetes", "--lease", "here/mine"], "here/mine"),
        (["--config", "a.yaml"], ""),
        (["--config", "a.yaml", "--lease", "mine"], "mine"),
    ],
)
def test_a_cluster_has_a_lease_unless_told_otherwise(arguments: list[str], lease: str) -> None:
    options = parse_arguments(arguments)
    options.check()
    assert options.lease == lease


def test_several_namespaces() -> None:
    options = parse_arguments(["--kubernetes", "--namespace", "a", "--namespace", "b"])
    assert options.namespaces == ("a", "b")


def test_what_gains_moves_unless_only_drains_are_to_move_requests() -> None:
    options = parse_arguments(["--config", "a.yaml"])
    assert settings_of(options).moves.policy == "predicted-gain"
    assert settings_of(SchedulerOptions()).moves.policy == "predicted-gain"
    asked = parse_arguments(["--config", "a.yaml", "--moves", "drain-only"])
    assert settings_of(asked).moves.policy == "drain-only"
