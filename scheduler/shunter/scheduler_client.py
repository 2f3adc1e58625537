"""Calls to the scheduler from the command line, with errors that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shunter.failure import Failure
from shunter.state import DEFAULT_STATE_DIR, read_state

if TYPE_CHECKING:
    from shunter_proto.v1.scheduler_pb2_grpc import SchedulerStub

DEFAULT_SCHEDULER = "127.0.0.1:50051"
CALL_TIMEOUT_S = 10.0

SchedulerOption = Annotated[
    str,
    typer.Option(
        "--scheduler",
        envvar="SHUNTER_SCHEDULER",
        help="host:port of the scheduler; default: that of the `shunter up` in --state-dir, "
        f"else {DEFAULT_SCHEDULER}.",
        show_default=False,
    ),
]
StateDirOption = Annotated[Path, typer.Option(help="State directory of `shunter up`.")]


def scheduler_address(scheduler: str, state_dir: Path = DEFAULT_STATE_DIR) -> str:
    if scheduler:
        return scheduler
    state = read_state(state_dir)
    return state.scheduler if state else DEFAULT_SCHEDULER


@contextmanager
def scheduler_stub(address: str) -> Iterator["SchedulerStub"]:
    """A stub; errors of its calls leave as `Failure`."""
    import grpc

    from shunter_proto.v1.scheduler_pb2_grpc import SchedulerStub

    with grpc.insecure_channel(address) as channel:
        try:
            yield SchedulerStub(channel)
        except grpc.RpcError as error:
            raise _failure(address, error.code(), error.details() or "") from error


def _failure(address: str, code: object, details: str) -> Failure:
    import grpc

    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Failure(
            f"no scheduler answers at {address}",
            "start one with `shunter up`, or name another with --scheduler HOST:PORT",
        )
    if code == grpc.StatusCode.NOT_FOUND:
        return Failure(details, "`shunter status` lists the instances that there are")
    return Failure(f"{address}: {details or code}")
