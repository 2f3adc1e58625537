"""`shunter drain` and `shunter undrain`: take an instance out of service and back."""

from typing import TYPE_CHECKING, Annotated

import typer

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
    from shunter_proto.v1.scheduler_pb2 import DrainProgress, DrainRequest
    from shunter_proto.v1.scheduler_pb2_grpc import SchedulerStub

MAX_DRAIN_S = 24 * 3600.0  # the longest --timeout
# A drain ends by its own deadline; this is for a scheduler that does not answer any more.
WATCH_S = MAX_DRAIN_S + 60.0


def drain(
    instance: Annotated[str, typer.Argument(help="As `shunter status` names it.")],
    timeout: Annotated[
        str, typer.Option(help="Such as 30s; default: the pool's migration.drainTimeout.")
    ] = "",
    scheduler: SchedulerOption = "",
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    ca: SchedulerCaOption = None,
    cert: SchedulerCertOption = None,
    key: SchedulerKeyOption = None,
) -> None:
    """Give an instance no new work and move what runs there; clients do not notice.

    The instance stays out of service until `shunter undrain`. Ctrl-C stops watching, not draining.

    Example: `shunter drain chat-h100-0`
    """
    from shunter.terminal import out
    from shunter_proto.v1.scheduler_pb2 import DrainRequest

    request = DrainRequest(instance=instance, deadline_ms=_milliseconds(timeout))
    with chosen_scheduler(scheduler, state_dir, SchedulerTls(ca, cert, key)) as stub:
        last = _watch(stub, request)
    told = f"{last.moved} moved, {last.finished} finished, {last.failed} failed"
    if not last.done or last.remaining:
        reason = last.message or "the deadline has passed"
        raise Failure(
            f"{instance} still has {last.remaining} requests ({told}): {reason}",
            f"wait, or run `shunter drain {instance} --timeout 10m`",
        )
    out().print(f"{instance} is drained: {told}")


def _watch(stub: "SchedulerStub", request: "DrainRequest") -> "DrainProgress":
    """The last of the progress, which is shown. Raises `Failure` where the user stops watching."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from shunter.terminal import err
    from shunter_proto.v1.scheduler_pb2 import DrainProgress

    instance = request.instance
    last = DrainProgress(instance=instance)
    columns = (TextColumn("draining {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err(), transient=True) as progress:
        task = progress.add_task(instance, total=None)
        try:
            for last in stub.Drain(request, timeout=WATCH_S):
                gone = last.moved + last.finished + last.failed
                progress.update(task, completed=gone, total=gone + last.remaining)
        except KeyboardInterrupt:
            raise Failure(
                f"stopped watching; {instance} goes on draining",
                f"take it back with `shunter undrain {instance}`",
            ) from None
    return last


def undrain(
    instance: Annotated[str, typer.Argument(help="As `shunter status` names it.")],
    scheduler: SchedulerOption = "",
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    ca: SchedulerCaOption = None,
    cert: SchedulerCertOption = None,
    key: SchedulerKeyOption = None,
) -> None:
    """Take an instance back into service.

    Example: `shunter undrain chat-h100-0`
    """
    from shunter.terminal import out
    from shunter_proto.v1.scheduler_pb2 import UndrainRequest

    with chosen_scheduler(scheduler, state_dir, SchedulerTls(ca, cert, key)) as stub:
        stub.Undrain(UndrainRequest(instance=instance), timeout=CALL_TIMEOUT_S)
    out().print(f"{instance} takes requests again")


def _milliseconds(timeout: str) -> int:
    from shunter_api.durations import parse_duration

    try:
        milliseconds = int(parse_duration(timeout) * 1000) if timeout else None
    except ValueError as error:
        raise Failure(f"--timeout: {error}") from error
    if milliseconds is None:
        return 0
    if not 1 <= milliseconds <= MAX_DRAIN_S * 1000:
        raise Failure(
            f"--timeout: a drain takes between 1ms and 24h; found {timeout}",
            "give a longer or a shorter one, or none for the pool's migration.drainTimeout",
        )
    return milliseconds
