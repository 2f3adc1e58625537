"""status, top, explain, drain and undrain against a scheduler on a real socket."""

import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from certificates import certificates_in
from shunter.__main__ import build_app
from shunter.commands.status import render
from shunter.failure import Failure
from shunter.scheduler_client import DEFAULT_SCHEDULER, scheduler_address
from shunter.state import State, write_state
from shunter.testing import FakeScheduler, serve_scheduler
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_runtime.tls import TlsFiles, server_credentials

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
    resumed_total=2,
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
    for shown in (
        "chat-h100-0",
        "ready",
        "25%",
        "20 ms",
        "50.0%",
        "7 dispatched",
        "2 resumed after a failure",
        "pools.yaml:3",
    ):
        assert shown in result.output


def test_status_holds_predicted_prefix_hits_and_lengths_against_the_actual() -> None:
    pools = [
        pb.StatusReply.Pool(
            name="chat", prefix_prompt_tokens=1000, prefix_predicted_tokens=250,
            prefix_hit_tokens=200, output_length_error_ratio=0.34,
        ),
        pb.StatusReply.Pool(name="idle"),
    ]  # fmt: skip
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(pb.StatusReply(pools=pools)))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert next(line for line in lines if "chat" in line)[-2:] == ["34%", "20%/25%"]
    assert next(line for line in lines if "idle" in line)[-2:] == ["-", "-"]


@pytest.mark.parametrize("role", ["", "Any", "Prefill"])
def test_status_has_a_column_of_roles_where_there_are_some(role: str) -> None:
    instances = [
        pb.StatusReply.Instance(name="a", pool="chat", profile="p", state="ready", role=role),
        pb.StatusReply.Instance(name="b", pool="chat", profile="d", state="ready", role="Any"),
    ]
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(pb.StatusReply(instances=instances)))
    lines = [line.split() for line in console.export_text().splitlines()]
    head = next(line for line in lines if line[:1] == ["instance"])
    assert ("role" in head) == (role == "Prefill")
    row = next(line for line in lines if line[:1] == ["a"])
    assert row[:4] == ["a", "chat", "p", "Prefill" if role == "Prefill" else "ready"]


def test_status_tells_how_far_predicted_times_are_off() -> None:
    """One line per profile; none for what was not observed."""
    costs = [
        pb.StatusReply.Cost(
            pool="chat", profile="h100", kind="prefill", observations=9, correction=1.25,
            error_ratio=0.07,
        ),
        pb.StatusReply.Cost(pool="chat", profile="h100", kind="decode", correction=1.0),
        pb.StatusReply.Cost(pool="chat", profile="l4", kind="prefill", correction=1.0),
    ]  # fmt: skip
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(pb.StatusReply(costs=costs)))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert [
        "predicted",
        "times",
        "profile",
        "prefill",
        "x",
        "prior",
        "decode",
        "x",
        "prior",
    ] in lines
    assert ["chat", "h100", "7%", "off", "1.25", "-", "-"] in lines
    assert not any("l4" in line for line in lines)


def test_nothing_is_cut_at_80_columns() -> None:
    long = pb.StatusReply(
        pools=[pb.StatusReply.Pool(name="idle", slo_attainment=1.0)],
        instances=[
            pb.StatusReply.Instance(
                name=f"a-pool-with-a-long-name-{n}", pool="a-pool-with-a-long-name",
                profile="h100-eu", state="draining", address="10.20.30.40:8000",
            )
            for n in range(2)
        ],
    )  # fmt: skip
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(long))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "100.0%" not in text, "a pool without requests has no attainment"


def test_a_scheduler_with_tls(fake: FakeScheduler, tmp_path: Path) -> None:
    files = certificates_in(tmp_path)("server")
    server = TlsFiles(cert=files.cert, key=files.key)
    with serve_scheduler(fake, server_credentials(server)) as served:
        address = served.replace("127.0.0.1", "localhost")
        result = shunter("status", "--scheduler", address, "--scheduler-ca", str(files.ca))
        assert "chat-h100-0" in result.output, result.exception
        assert "no scheduler answers" in str(failure(shunter("status", "--scheduler", address)))


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    error = failure(shunter("status", "--scheduler-ca", str(tmp_path / "ca.pem")))
    assert "ca.pem" in str(error)


def test_explain_shows_terms_that_add_up(fake: FakeScheduler, address: str) -> None:
    terms = [
        pb.ExplainReply.Term(name="queue", seconds=0.010),
        pb.ExplainReply.Term(name="prefill", seconds=0.032),
        pb.ExplainReply.Term(name="slo", seconds=0.0),  # zero for all: not shown
    ]
    winner = pb.ExplainReply.Candidate(instance="a", profile="h100", score_s=0.042, terms=terms)
    out = pb.ExplainReply.Candidate(instance="b", profile="l4", excluded_because="draining")
    decision = pb.ExplainReply.Decision(
        kind="dispatch", winner="a", policy="predicted-cost", candidates=[winner, out],
        candidates_total=5, ttft_s=0.042, ttft_at_most_s=0.0621,
    )  # fmt: skip
    fake.explanations["r1"] = pb.ExplainReply(
        request_id="r1", model="chat", pool="chat", state="finished", decisions=[decision]
    )
    result = shunter("explain", "r1", "--scheduler", address)
    assert result.exit_code == 0, result.exception
    lines = [line.split() for line in result.output.splitlines()]
    assert ["candidate", "profile", "queue", "prefill", "score", "ms"] in lines
    assert ["a", "h100", "10.0", "32.0", "42.0"] in lines
    for shown in ("finished", "b (l4): draining", "3 more not shown"):
        assert shown in result.output
    assert "predicted first token after 42 ms, 9 in 10 within 62 ms" in result.output


def test_explain_says_whose_it_is_and_why_it_waited(fake: FakeScheduler, address: str) -> None:
    hold = pb.ExplainReply.Decision(kind="hold", reason="higher classes go first", slack_s=-1.25)
    fake.explanations["r2"] = pb.ExplainReply(
        request_id="r2", model="chat", pool="chat", slo_class="batch", state="waiting",
        tenant="acme", level=1, workflow="wf-7", stage="revise", decisions=[hold],
        prompt_tokens=512,
    )  # fmt: skip
    result = shunter("explain", "r2", "--scheduler", address)
    for shown in ("tenant acme, level 1, workflow wf-7, stage revise", "slack -1.2 s"):
        assert shown in result.output
    assert "hold: higher classes go first" in result.output
    assert "512 prompt tokens, 0 output tokens\n" in result.output


def test_explain_says_what_a_move_took(fake: FakeScheduler, address: str) -> None:
    moves = [
        pb.ExplainReply.Decision(
            kind="move", winner="b", reason="drain", rung="kv", stall_s=0.014,
            copied_bytes=12_340_000,
        ),
        pb.ExplainReply.Decision(kind="move", winner="a", rung="replay", stall_s=0.25),
        pb.ExplainReply.Decision(kind="move", winner="c", reason="imbalance"),
    ]  # fmt: skip
    fake.explanations["r4"] = pb.ExplainReply(request_id="r4", decisions=moves)
    output = shunter("explain", "r4", "--scheduler", address).output
    assert "moved by kv, 12.3 MB copied, its client waited 14 ms\n" in output
    assert "moved by replay, its client waited 250 ms\n" in output
    assert output.count("moved by") == 2, "the last is still under way"


def test_explain_holds_predictions_against_what_came(fake: FakeScheduler, address: str) -> None:
    dispatch = pb.ExplainReply.Decision(kind="dispatch", winner="a", cached_tokens=448)
    fake.explanations["r3"] = pb.ExplainReply(
        request_id="r3", model="chat", pool="chat", state="finished", prompt_tokens=512,
        output_tokens=31, expected_output_tokens=90.4, cached_tokens=0, revision="4f2a",
        decisions=[dispatch],
    )  # fmt: skip
    result = shunter("explain", "r3", "--scheduler", address)
    assert "model chat, revision 4f2a, pool chat" in result.output
    assert "512 prompt tokens (0 cached), 31 output tokens (90 expected)" in result.output
    assert "448 cached tokens expected" in result.output


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
    assert address in str(error), "another one may know it"
    assert "shunter status" in error.next_step and "--state-dir" in error.next_step


@pytest.mark.parametrize("timeout", ["90", "0s", "0.5ms", "25h", "24h1ms"])
def test_a_bad_timeout_is_refused(fake: FakeScheduler, address: str, timeout: str) -> None:
    error = failure(shunter("drain", "a", "--timeout", timeout, "--scheduler", address))
    assert "--timeout" in str(error) and timeout in str(error)
    assert fake.drained == []


def test_undrain(fake: FakeScheduler, address: str) -> None:
    result = shunter("undrain", "a", "--scheduler", address)
    assert result.exit_code == 0
    assert fake.undrained == ["a"]


def test_no_scheduler_says_how_to_start_one() -> None:
    error = failure(shunter("status", "--scheduler", "127.0.0.1:1"))
    assert "no scheduler answers at 127.0.0.1:1" in str(error)
    assert "shunter up" in error.next_step


def test_the_address_comes_from_a_running_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert scheduler_address("") == DEFAULT_SCHEDULER
    with pytest.raises(Failure, match=f"no `shunter up` runs .* {tmp_path}") as failed:
        scheduler_address("", tmp_path)
    assert "--scheduler" in failed.value.next_step
    write_state(tmp_path, State(os.getpid(), True, "h:1", "h:2", "h:3", ()))
    assert scheduler_address("", tmp_path) == "h:3"
    assert scheduler_address("other:1", tmp_path) == "other:1"
