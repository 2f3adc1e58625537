"""Calls to the scheduler from the command line, with errors that say what to do."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shunter.failure import Failure
from shunter.state import DEFAULT_STATE_DIR, read_state

if TYPE_CHECKING:
    import grpc

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


def _pem_file(name: str, text: str) -> object:
    variable = f"SHUNTER_{name.removeprefix('--').replace('-', '_').upper()}"
    return typer.Option(name, envvar=variable, exists=True, dir_okay=False, help=text)


SchedulerCaOption = Annotated[
    Path | None, _pem_file("--scheduler-ca", "PEM file: TLS to the scheduler, checked with it.")
]
SchedulerCertOption = Annotated[
    Path | None, _pem_file("--scheduler-cert", "PEM file, where it asks for a certificate.")
]
SchedulerKeyOption = Annotated[Path | None, _pem_file("--scheduler-key", "PEM file.")]


def scheduler_address(scheduler: str, state_dir: Path = DEFAULT_STATE_DIR) -> str:
    """Raises `Failure` where a directory was named and no `shunter up` runs in it: another's
    scheduler is not meant."""
    if scheduler:
        return scheduler
    state = read_state(state_dir)
    if state is None and state_dir != DEFAULT_STATE_DIR:
        raise Failure(
            f"no `shunter up` runs in the state directory {state_dir}",
            "name that of one that runs, or its scheduler with --scheduler HOST:PORT",
        )
    return state.scheduler if state else DEFAULT_SCHEDULER


@dataclass(frozen=True, slots=True)
class SchedulerTls:
    """PEM files as the options give them; all None: no TLS."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@contextmanager
def scheduler_stub(address: str, tls: SchedulerTls = SchedulerTls()) -> Iterator["SchedulerStub"]:
    """A stub; errors of its calls leave as `Failure`."""
    import grpc

    from shunter_proto.v1.scheduler_pb2_grpc import SchedulerStub

    with _channel(address, tls) as channel:
        try:
            yield SchedulerStub(channel)
        except grpc.RpcError as error:
            raise _failure(address, error.code(), error.details() or "") from error


def chosen_scheduler(
    scheduler: str, state_dir: Path, tls: SchedulerTls
) -> AbstractContextManager["SchedulerStub"]:
    """A stub of the scheduler that a command's options name."""
    return scheduler_stub(scheduler_address(scheduler, state_dir), tls)


def _channel(address: str, tls: SchedulerTls) -> "grpc.Channel":
    import grpc

    from shunter_runtime.tls import TlsError, TlsFiles, channel_credentials

    if tls == SchedulerTls():
        return grpc.insecure_channel(address)
    try:
        credentials = channel_credentials(TlsFiles(cert=tls.cert, key=tls.key, ca=tls.ca))
    except TlsError as error:
        raise Failure(str(error)) from error
    return grpc.secure_channel(address, credentials)


def _failure(address: str, code: object, details: str) -> Failure:
    import grpc

    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Failure(
            f"no scheduler answers at {address}",
            "start one with `shunter up`, or name another with --scheduler HOST:PORT"
            " (and --scheduler-ca FILE where it serves TLS)",
        )
    if code == grpc.StatusCode.NOT_FOUND:
        return Failure(
            f"the scheduler at {address} says: {details}",
            "`shunter status` lists the instances that there are; "
            "--state-dir names another `shunter up`",
        )
    return Failure(f"{address}: {details or code}")
