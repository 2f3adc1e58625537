"""`shunter gateway`: the process that clients talk to."""

import os
from pathlib import Path
from typing import Annotated

import typer

PemFile = Annotated[Path | None, typer.Option(help="PEM file.", exists=True)]


def gateway(
    scheduler: Annotated[
        str, typer.Option(help="host:port of the scheduler; several with a comma between.")
    ] = "127.0.0.1:50051",
    listen: Annotated[str, typer.Option(help="host:port of the HTTP edge.")] = "127.0.0.1:8080",
    grpc_listen: Annotated[
        str, typer.Option(help="host:port of the gRPC Inference service; empty: none.")
    ] = "127.0.0.1:8081",
    api_keys: Annotated[
        Path | None, typer.Option(help="YAML file of hashed API keys, reloaded when it changes.")
    ] = None,
    insecure_open: Annotated[
        bool,
        typer.Option(
            "--insecure-open",
            help="Listen beyond loopback without API keys: something in front authenticates.",
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that share the ports.")
    ] = 1,
    max_body_bytes: Annotated[int, typer.Option(min=1024, help="Of one request.")] = 8 << 20,
    max_inflight: Annotated[int, typer.Option(min=1, help="Requests at once, per worker.")] = 8192,
    max_inflight_bytes: Annotated[
        int, typer.Option(min=1024, help="Of the bodies of those requests, per worker.")
    ] = 256 << 20,
    keep_alive: Annotated[
        float, typer.Option(min=0.1, help="Seconds of silence after which a stream gets a comment.")
    ] = 5.0,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for answers to finish at the end.")
    ] = 30.0,
    tls_cert: PemFile = None,
    tls_key: PemFile = None,
    tls_ca: PemFile = None,
    scheduler_ca: PemFile = None,
    scheduler_cert: PemFile = None,
    scheduler_key: PemFile = None,
    moves_tls_ca: PemFile = None,
    moves_tls_cert: PemFile = None,
    moves_tls_key: PemFile = None,
    slot_folder: Annotated[
        Path | None,
        typer.Option(
            help="Where llama-servers save slots (--slot-save-path), as it is mounted here."
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a gateway: the OpenAI HTTP edge, which keeps and moves the streams.

    With --tls-cert and --tls-key it serves TLS, with --tls-ca it asks for client certificates;
    --scheduler-ca means TLS to the scheduler, --moves-tls-ca to engines' --moves-port.

    Example: `shunter gateway --scheduler 127.0.0.1:50051 --listen 127.0.0.1:8080`
    """
    from shunter_runtime.grpc_polling import poll_directly

    poll_directly(os.environ)  # gRPC reads its switches when it is imported
    from shunter.failure import Failure
    from shunter_gateway.command import GatewayOptions, StartError, run
    from shunter_runtime.tls import TlsError, TlsFiles

    try:
        tls = TlsFiles(tls_cert, tls_key, tls_ca)
        scheduler_tls = TlsFiles(scheduler_cert, scheduler_key, scheduler_ca)
        moves_tls = TlsFiles(moves_tls_cert, moves_tls_key, moves_tls_ca)
        run(
            GatewayOptions(
                scheduler=scheduler,
                listen=listen,
                grpc_listen=grpc_listen,
                api_keys=api_keys,
                insecure_open=insecure_open,
                workers=workers,
                max_body_bytes=max_body_bytes,
                max_inflight=max_inflight,
                max_inflight_bytes=max_inflight_bytes,
                keep_alive_s=keep_alive,
                grace_s=grace,
                tls=tls if tls != TlsFiles() else None,
                scheduler_tls=scheduler_tls if scheduler_tls != TlsFiles() else None,
                moves_tls=moves_tls if moves_tls != TlsFiles() else None,
                slot_folder=slot_folder,
                log_level=log_level,
            )
        )
    except (StartError, TlsError, ValueError) as error:
        raise Failure(str(error)) from error
