"""`shunter explain`: why a request is where it is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from shunter.commands.status import plain_table, seconds
from shunter.failure import Failure
from shunter.scheduler_client import (
    CALL_TIMEOUT_S,
    SchedulerCaOption,
    SchedulerCertOption,
    SchedulerKeyOption,
    SchedulerOption,
    SchedulerTls,
    StateDirOption,
    chosen_scheduler,
)
from shunter.state import DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from shunter_proto.v1.scheduler_pb2 import ExplainReply


def explain(
    request_id: Annotated[
        str, typer.Argument(help="From the header x-shunter-request-id; empty: the latest.")
    ] = "",
    scheduler: SchedulerOption = "",
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    ca: SchedulerCaOption = None,
    cert: SchedulerCertOption = None,
    key: SchedulerKeyOption = None,
) -> None:
    """Show where a request went, against which candidates, and why.

    The terms of a score add up to it; the lowest wins. They are predicted seconds, or what else the
    policy compares: the table's head names it.

    Example: `shunter explain chatcmpl-5f2a`
    """
    import grpc

    from shunter.terminal import out
    from shunter_proto.v1.scheduler_pb2 import ExplainRequest

    with chosen_scheduler(scheduler, state_dir, SchedulerTls(ca, cert, key)) as stub:
        try:
            reply = stub.Explain(ExplainRequest(request_id=request_id), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            raise Failure(
                f"no record of request {request_id or '(latest)'}",
                "the id is in the response header x-shunter-request-id; old records are dropped",
            ) from error
    out().print(render(reply))


def render(reply: "ExplainReply") -> "Group":
    """The request, then each decision about it, oldest first; for 80 columns."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(_head(reply))]
    for decision in reply.decisions:
        parts += ["", Text(_title(decision), style="bold"), Text(_circumstances(decision))]
        if any(not c.excluded_because for c in decision.candidates):
            parts.append(_candidates(decision))
        parts += [Text(line) for line in _left_out(decision)]
    return Group(*parts)


def _head(reply: "ExplainReply") -> str:
    rule = reply.rule or "none (the model name decided)"
    workflow = f", workflow {reply.workflow}" if reply.workflow else ""
    stage = f", stage {reply.stage}" if reply.stage else ""
    revision = f", revision {reply.revision}" if reply.revision else ""
    cached = f" ({reply.cached_tokens} cached)" if reply.HasField("cached_tokens") else ""
    tokens = reply.expected_output_tokens
    expected = f" ({tokens:.0f} expected)" if tokens else ""
    return (
        f"request {reply.request_id}: {reply.state}\n"
        f"model {reply.model}{revision}, pool {reply.pool}, class {reply.slo_class}, rule {rule}\n"
        f"tenant {reply.tenant or '(none)'}, level {reply.level}{workflow}{stage}\n"
        f"{reply.prompt_tokens} prompt tokens{cached}, "
        f"{reply.output_tokens} output tokens{expected}"
    )


def _title(decision: "ExplainReply.Decision") -> str:
    winner = f" -> {decision.winner}" if decision.winner else ""
    return f"{decision.kind}{winner}{': ' if decision.reason else ''}{decision.reason}"


def _circumstances(decision: "ExplainReply.Decision") -> str:
    slack = f", slack {decision.slack_s:.1f} s" if decision.HasField("slack_s") else ""
    policy = f", policy {decision.policy}" if decision.policy else ""
    ttft = ""
    if decision.HasField("ttft_s"):
        at_most = seconds(decision.ttft_at_most_s)
        ttft = f"\npredicted first token after {seconds(decision.ttft_s)}, 9 in 10 within {at_most}"
    return (
        f"{seconds(decision.age_ms / 1000)} ago, epoch {decision.epoch}, "
        f"queued {decision.queued_ms} ms, "
        f"{decision.cached_tokens} cached tokens expected{slack}{policy}"
        f"{ttft}{_moved(decision)}"
    )


def _moved(decision: "ExplainReply.Decision") -> str:
    if not decision.rung:
        return ""
    copied = f", {decision.copied_bytes / 1e6:.1f} MB copied" if decision.copied_bytes else ""
    return f"\nmoved by {decision.rung}{copied}, its client waited {seconds(decision.stall_s)}"


def _candidates(decision: "ExplainReply.Decision") -> "Table":
    """Seconds as milliseconds. Terms that are zero for every candidate are left out."""
    unit = decision.score_unit or "s"
    unit, scale, digits = ("ms", 1000.0, 1) if unit == "s" else (unit, 1.0, 3)
    scored = [c for c in decision.candidates if not c.excluded_because]
    every = (term for c in scored for term in c.terms)
    names = list(dict.fromkeys(term.name for term in every if term.seconds))
    table = plain_table(
        "candidate", "profile", *(n.replace("_", " ") for n in names), f"score {unit}"
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for candidate in scored:
        terms = {term.name: term.seconds for term in candidate.terms}
        cells = [f"{terms.get(name, 0.0) * scale:.{digits}f}" for name in names]
        style = "bold" if candidate.instance == decision.winner else ""
        score = f"{candidate.score_s * scale:.{digits}f}"
        table.add_row(candidate.instance, candidate.profile, *cells, score, style=style)
    return table


def _left_out(decision: "ExplainReply.Decision") -> Iterator[str]:
    for candidate in decision.candidates:
        if candidate.excluded_because:
            yield f"{candidate.instance} ({candidate.profile}): {candidate.excluded_because}"
    more = decision.candidates_total - len(decision.candidates)
    if more > 0:
        yield f"{more} more not shown"
