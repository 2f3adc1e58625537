"""status, top, explain, drain and undrain against a scheduler on a real socket."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shunter.__main__ import build_app
from shunter.failure import Failure
from shunter.scheduler_client import DEFAULT_SCHEDULER, scheduler_address
from shunter.state import State, write_state
from shunter.testing import FakeScheduler, serve_scheduler
from shunter_proto.v1 import scheduler_pb2 as pb

READY = pb.StatusReply(
    pools=[pb.StatusReply.Pool(name="chat", running=3, ready_instances=1, slo_attainment=0.5)],
    instances=[
        pb.StatusReply.Instance(
            name="chat-h100-0", pool="chat", profile="h100", state="ready", running=3,
            ledger_tokens=250, kv_capacity_tokens=1000, predicted_wait_s=0.02,
        )
    ],
    gateways=1,
    dispatched_total=7,
    config_error="pools.yaml:3: spec.x: unknown field",
)  # fmt: skip


@pytest.fixture
def fake() -> FakeScheduler:
    return FakeScheduler(status=READY)


@pytest.fixture
def address(fake: FakeScheduler) -> Iterator[str]:
    with serve_scheduler(fake) as served:
        yield served


def shunter(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), arguments)


def failure(result: Result) -> Failure:
    assert isinstance(result.exception, Failure), result.exception
    return result.exception


@pytest.mark.parametrize("command", ["status", "top"])
def test_status_and_top_show_pools_instances_and_refused_edits(command: str, address: str) -> None:
    result = shunter(command, "--scheduler", address)
    assert result.exit_code == 0, result.exception
    for shown in ("chat-h100-0", "ready", "25%", "20 ms", "50.0%", "7 dispatched", "pools.yaml:3"):
        assert shown in result.output


def test_explain_shows_terms_that_add_up(fake: FakeScheduler, address: str) -> None:
    terms = [
        pb.ExplainReply.Term(name="queue", seconds=0.010),
        pb.ExplainReply.Term(name="prefill", seconds=0.032),
    ]
    winner = pb.ExplainReply.Candidate(instance="a", profile="h100", score_s=0.042, terms=terms)
    out = pb.ExplainReply.Candidate(instance="b", profile="l4", excluded_because="draining")
    decision = pb.ExplainReply.Decision(
        kind="dispatch", winner="a", policy="predicted-cost", candidates=[winner, out],
        candidates_total=5,
    )  # fmt: skip
    fake.explanations["r1"] = pb.ExplainReply(
        request_id="r1", model="chat", pool="chat", state="finished", decisions=[decision]
    )
    result = shunter("explain", "r1", "--scheduler", address)
    assert result.exit_code == 0, result.exception
    for shown in ("finished", "10.0 ms", "32.0 ms", "42.0 ms", "draining", "3 more candidates"):
        assert shown in result.output


def test_explain_of_an_unknown_request_says_where_ids_come_from(address: str) -> None:
    error = failure(shunter("explain", "nope", "--scheduler", address))
    assert "nope" in str(error)
    assert "x-shunter-request-id" in error.next_step


def test_drain_reports_what_became_of_the_requests(fake: FakeScheduler, address: str) -> None:
    fake.drains["a"] = [
        pb.DrainProgress(instance="a", remaining=3),
        pb.DrainProgress(instance="a", moved=2, finished=1, done=True),
    ]
    result = shunter("drain", "a", "--timeout", "90s", "--scheduler", address)
    assert "a is drained: 2 moved, 1 finished, 0 failed" in result.output
    assert fake.drained[0].deadline_ms == 90_000


def test_a_drain_that_is_not_complete_fails(fake: FakeScheduler, address: str) -> None:
    fake.drains["a"] = [pb.DrainProgress(instance="a", remaining=2, moved=1, done=True)]
    error = failure(shunter("drain", "a", "--scheduler", address))
    assert "a still has 2 requests" in str(error)


def test_drain_of_an_unknown_instance_points_to_status(address: str) -> None:
    error = failure(shunter("drain", "b", "--scheduler", address))
    assert "shunter status" in error.next_step


def test_a_bad_timeout_is_refused(address: str) -> None:
    error = failure(shunter("drain", "a", "--timeout", "90", "--scheduler", address))
    assert "--timeout" in str(error)


def test_undrain(fake: FakeScheduler, address: str) -> None:
    result = shunter("undrain", "a", "--scheduler", address)
    assert result.exit_code == 0
    assert fake.undrained == ["a"]


def test_no_scheduler_says_how_to_start_one() -> None:
    error = failure(shunter("status", "--scheduler", "127.0.0.1:1"))
    assert "no scheduler answers at 127.0.0.1:1" in str(error)
    assert "shunter up" in error.next_step


def test_the_address_comes_from_a_running_up(tmp_path: Path) -> None:
    assert scheduler_address("", tmp_path) == DEFAULT_SCHEDULER
    write_state(tmp_path, State(os.getpid(), True, "h:1", "h:2", "h:3", ()))
    assert scheduler_address("", tmp_path) == "h:3"
    assert scheduler_address("other:1", tmp_path) == "other:1"
