"""`shunter scheduler`: the process that decides."""

import os
from pathlib import Path
from typing import Annotated

import typer

from shunter_scheduler.domain.decisions import MovePolicyName


def scheduler(
    config: Annotated[
        list[Path] | None,
        typer.Option(help="A file or a directory of YAML files; may be given several times."),
    ] = None,
    kubernetes: Annotated[
        bool,
        typer.Option(
            "--kubernetes",
            help="Read pools, policies and engine pods from the cluster: in a pod by its service "
            "account, else by $KUBECONFIG.",
        ),
    ] = False,
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="With --kubernetes, only there; may be given several times."),
    ] = None,
    lease: Annotated[
        str | None,
        typer.Option(
            help="[NAMESPACE/]NAME of the Lease by which one of several schedulers leads; empty: "
            "none. With --kubernetes the default is shunter-scheduler, else none.",
        ),
    ] = None,
    listen: Annotated[str, typer.Option(help="host:port of the gRPC service.")] = "127.0.0.1:50051",
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics; 0: any free port.")
    ] = 9090,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file; needs --tls-key.", exists=True)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file.", exists=True)] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file; clients must show a certificate of it.", exists=True),
    ] = None,
    moves: Annotated[
        MovePolicyName,
        typer.Option(
            help="What moves running requests besides drains, which always do: what gains more "
            "predicted seconds than it costs (predicted-gain; llumnix is its baseline), or nothing "
            "(drain-only). See docs/moves.md.",
        ),
    ] = "predicted-gain",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the scheduler: it places, queues and moves the requests of all gateways.

    Edits of the files take effect at once; a bad edit is refused, the running configuration stays.
    In a cluster one scheduler leads, and others stand by.

    Example: `shunter scheduler --config pools.yaml --config instances.yaml`

    Example: `shunter scheduler --kubernetes --namespace serving`
    """
    from shunter_runtime.grpc_polling import poll_directly

    poll_directly(os.environ)  # gRPC reads its switches when it is imported
    from shunter.failure import Failure
    from shunter_runtime.tls import TlsError, TlsFiles
    from shunter_scheduler.options import SchedulerOptions, StartError, lease_or_default
    from shunter_scheduler.process import run

    try:
        tls = TlsFiles(tls_cert, tls_key, tls_ca) if tls_cert or tls_key else None
        run(
            SchedulerOptions(
                config=tuple(config or ()),
                kubernetes=kubernetes,
                namespaces=tuple(namespace or ()),
                lease=lease_or_default(lease, kubernetes),
                listen=listen,
                metrics_port=metrics_port,
                tls=tls,
                moves=moves,
                log_level=log_level,
            )
        )
    except (StartError, TlsError) as error:
        raise Failure(str(error)) from error
