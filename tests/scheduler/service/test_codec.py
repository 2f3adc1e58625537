"""The wire's messages and the core's values say the same."""

import pytest

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.domain import decisions, events
from shunter_scheduler.service.codec import MAX_HEADERS, to_commands, to_events
from shunter_scheduler.service.errors import InvalidArgument

NOW = 1000.0


def decode(*messages: pb.GatewayEvent) -> list[events.Event]:
    return to_events(pb.GatewayEvents(events=messages), "gw-1", NOW)


def submitted(**fields: object) -> pb.GatewayEvent:
    return pb.GatewayEvent(submitted=pb.Submitted(**{"request_id": "r-1", **fields}))  # type: ignore[arg-type]


def test_a_submitted_request_keeps_every_field_and_durations_become_instants() -> None:
    (event,) = decode(
        submitted(
            epoch=3,
            model="chat",
            tenant="acme",
            slo_class="interactive",
            allowed_classes=["interactive", "batch"],
            headers={"x-tier": "gold"},
            prompt_tokens=2048,
            prompt_tokens_exact=True,
            max_output_tokens=200,
            output_tokens=17,
            block_hashes=b"12345678" * 32,
            deadline_in_ms=2500,
            waited_ms=500,
            queued_ms=200,
            excluded_instances=["chat-0"],
            unmovable_reason="n > 1",
            pool="chat",
        )
    )

    assert isinstance(event, events.Submitted)
    request = event.request
    assert (request.request_id, request.gateway_id, request.epoch) == ("r-1", "gw-1", 3)
    assert (request.model, request.tenant, request.pool) == ("chat", "acme", "chat")
    assert (request.slo_class, request.allowed_classes) == (
        "interactive",
        ("interactive", "batch"),
    )
    assert request.headers == {"x-tier": "gold"}
    assert (request.prompt_tokens, request.prompt_tokens_exact) == (2048, True)
    assert (request.max_output_tokens, request.output_tokens) == (200, 17)
    assert request.block_hashes == b"12345678" * 32
    assert (request.arrived_at, request.deadline_at) == (999.5, 1002.5)
    assert request.queued_at == 999.8
    assert request.excluded_instances == ("chat-0",)
    assert request.unmovable_reason == "n > 1"
    assert not request.suspended


def test_a_request_that_lost_its_engine_to_another_says_so() -> None:
    (event,) = decode(submitted(suspended=True))
    assert isinstance(event, events.Submitted) and event.request.suspended


def test_a_stage_of_a_workflow() -> None:
    stage = pb.Workflow(id="w", stage="b", stages_left=["c", "d"], deadline_in_ms=4000)
    (event,) = decode(submitted(workflow=stage))
    assert isinstance(event, events.Submitted)
    request = event.request
    assert (request.workflow, request.stage, request.stages_left) == ("w", "b", ("c", "d"))
    assert request.workflow_deadline_at == 1004.0
    (event,) = decode(submitted())
    assert isinstance(event, events.Submitted)
    assert (event.request.workflow, event.request.workflow_deadline_at) == ("", None)


@pytest.mark.parametrize("stages", [["a"] * 65, ["s" * 300]])
def test_a_workflow_is_bounded(stages: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="at most 64 stages left"):
        decode(submitted(workflow=pb.Workflow(id="w", stages_left=stages)))


def test_no_deadline_on_the_wire_is_none() -> None:
    (event,) = decode(submitted())
    assert isinstance(event, events.Submitted) and event.request.deadline_at is None
    assert event.request.queued_at is None, "it begins to wait"


@pytest.mark.parametrize("told", [None, 0, 64])
def test_cached_tokens_that_were_not_told_are_not_0(told: int | None) -> None:
    (event,) = decode(
        pb.GatewayEvent(first_token=pb.FirstToken(request_id="b", cached_tokens=told))
    )
    assert isinstance(event, events.FirstToken) and event.cached_tokens == told


def test_an_engine_that_refused_a_priority_is_told_of() -> None:
    for told in (False, True):
        message = pb.GatewayEvent(first_token=pb.FirstToken(request_id="b", unordered=told))
        (event,) = decode(message)
        assert isinstance(event, events.FirstToken) and event.unordered is told


def test_the_other_events_come_in_the_batchs_order() -> None:
    got = decode(
        pb.GatewayEvent(running=pb.Running(request=pb.Submitted(request_id="a"), instance="i-0")),
        pb.GatewayEvent(
            first_token=pb.FirstToken(request_id="b", epoch=1, ttft_ms=250, cached_tokens=64)
        ),
        pb.GatewayEvent(
            progress=pb.Progress(
                items=[
                    pb.Progress.Item(request_id="c", epoch=1, output_tokens=5),
                    pb.Progress.Item(request_id="d", epoch=2, output_tokens=6),
                ]
            )
        ),
        pb.GatewayEvent(
            finished=pb.Finished(request_id="e", epoch=1, output_tokens=9, finish_reason="stop")
        ),
        pb.GatewayEvent(
            failed=pb.Failed(
                request_id="f", epoch=2, instance="i-1", reason="timeout", output_tokens=4
            )
        ),
        pb.GatewayEvent(
            move_done=pb.MoveDone(
                request_id="g", epoch=3, instance="i-2", moved=True, rung="replay", stall_ms=40
            )
        ),
        pb.GatewayEvent(),
    )

    assert isinstance(got[0], events.Running)
    assert (got[0].request.request_id, got[0].instance) == ("a", "i-0")
    assert got[1:] == [
        events.FirstToken("b", 1, 0.25, 64),
        events.Progress("c", 1, 5),
        events.Progress("d", 2, 6),
        events.Finished("e", 1, 9, "stop"),
        events.Failed("f", 2, "i-1", "timeout", 4),
        events.MoveDone("g", 3, "i-2", True, "replay", "", 0.04),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request_id": ""}, "request_id must have 1 to 256"),
        ({"request_id": "x" * 257}, "request_id must have 1 to 256"),
        ({"block_hashes": b"123456789"}, "block_hashes of r-1 has 9 bytes"),
        ({"headers": {str(i): "v" for i in range(MAX_HEADERS + 1)}}, "65 headers, at most 64"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"event 1 of the message: .*{message}"):
        decode(submitted(), submitted(**fields))


def test_hello_is_for_the_start_only() -> None:
    with pytest.raises(InvalidArgument, match="first event only"):
        decode(pb.GatewayEvent(hello=pb.Hello(gateway_id="gw-1")))


def test_decisions_become_commands_in_order_with_addresses() -> None:
    batch = to_commands(
        [
            decisions.Assign("a", "gw", 1, "i-0", "chat", "standard", 2, 0.25),
            decisions.Hold("b", "gw", 2, 4, 1.5, "starting"),
            decisions.Reject("c", "gw", 3, "overloaded", "the queue is full", 0.5),
            decisions.Move("d", "gw", 4, "i-0", "i-1", "replay", "drain"),
            decisions.Cancel("e", "gw", 5, "drain deadline"),
            decisions.Suspend("f", "gw", 6, "room for interactive"),
        ],
        {"i-0": "10.0.0.1:8000", "i-1": "10.0.0.2:8000"},
    )

    a, b, c, d, e, f = batch.commands
    assert a.assign == pb.Assign(
        request_id="a",
        epoch=1,
        instance="i-0",
        pool="chat",
        slo_class="standard",
        priority=2,
        predicted_ttft_s=0.25,
        address="10.0.0.1:8000",
    )
    assert b.hold == pb.Hold(request_id="b", epoch=2, position=4, eta_ms=1500, phase="starting")
    assert c.reject == pb.Reject(
        request_id="c",
        epoch=3,
        reason="overloaded",
        message="the queue is full",
        retry_after_ms=500,
    )
    assert d.move == pb.Move(
        request_id="d",
        epoch=4,
        destination="i-1",
        address="10.0.0.2:8000",
        rung="replay",
        reason="drain",
    )
    assert e.cancel == pb.Cancel(request_id="e", epoch=5, reason="drain deadline")
    assert f.suspend == pb.Suspend(request_id="f", epoch=6, reason="room for interactive")


@pytest.mark.parametrize("eta_s", [float("inf"), float("nan"), 1e12])
def test_an_unknown_wait_fits_the_wire(eta_s: float) -> None:
    (command,) = to_commands([decisions.Hold("b", "gw", 2, 0, eta_s)], {}).commands
    assert command.hold.eta_ms == 0xFFFFFFFF
