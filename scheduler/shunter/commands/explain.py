"""`shunter explain`: why a request is where it is."""

from typing import TYPE_CHECKING, Annotated

import typer

from shunter.commands.status import seconds
from shunter.failure import Failure
from shunter.scheduler_client import (
    CALL_TIMEOUT_S,
    SchedulerOption,
    StateDirOption,
    scheduler_address,
    scheduler_stub,
)
from shunter.state import DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from rich.table import Table

    from shunter_proto.v1.scheduler_pb2 import ExplainReply


def explain(
    request_id: Annotated[
        str, typer.Argument(help="From the header x-shunter-request-id; empty: the latest.")
    ] = "",
    scheduler: SchedulerOption = "",
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show where a request went, against which candidates, and why.

    The terms of a score are predicted seconds and add up to it; the lowest wins.

    Example: `shunter explain chatcmpl-5f2a`
    """
    import grpc

    from shunter.terminal import out
    from shunter_proto.v1.scheduler_pb2 import ExplainRequest

    with scheduler_stub(scheduler_address(scheduler, state_dir)) as stub:
        try:
            reply = stub.Explain(ExplainRequest(request_id=request_id), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            raise Failure(
                f"no record of request {request_id or '(latest)'}",
                "the id is in the response header x-shunter-request-id; old records are dropped",
            ) from error
    console = out()
    console.print(_head(reply))
    for decision in reply.decisions:
        console.print(_decision(decision))


def _head(reply: "ExplainReply") -> str:
    rule = reply.rule or "none (the model name decided)"
    return (
        f"request {reply.request_id}: {reply.state}\n"
        f"model {reply.model}, pool {reply.pool}, class {reply.slo_class}, rule {rule}, "
        f"{reply.prompt_tokens} prompt tokens, {reply.output_tokens} output tokens"
    )


def _decision(decision: "ExplainReply.Decision") -> "Table":
    from rich.table import Table

    names = list(dict.fromkeys(term.name for c in decision.candidates for term in c.terms))
    winner = f" -> {decision.winner}" if decision.winner else ""
    reason = f", {decision.reason}" if decision.reason else ""
    title = (
        f"{decision.kind}{winner} (epoch {decision.epoch}, {seconds(decision.age_ms / 1000)} ago, "
        f"queued {decision.queued_ms} ms, {decision.cached_tokens} tokens cached, "
        f"policy {decision.policy}{reason})"
    )
    table = Table("candidate", "profile", *names, "score", title=title, title_justify="left")
    for candidate in decision.candidates:
        if candidate.excluded_because:
            blanks = [""] * len(names)
            table.add_row(
                candidate.instance, candidate.profile, *blanks, candidate.excluded_because
            )
            continue
        terms = {term.name: f"{term.seconds * 1000:.1f} ms" for term in candidate.terms}
        style = "bold" if candidate.instance == decision.winner else ""
        score = f"{candidate.score_s * 1000:.1f} ms"
        row = [terms.get(name, "") for name in names]
        table.add_row(candidate.instance, candidate.profile, *row, score, style=style)
    shown = len(decision.candidates)
    if decision.candidates_total > shown:
        table.caption = f"{decision.candidates_total - shown} more candidates not shown"
    return table
