"""`shunter gateway`: the process that clients talk to."""

from pathlib import Path
from typing import Annotated

import typer


def gateway(
    scheduler: Annotated[str, typer.Option(help="host:port of the scheduler.")] = "127.0.0.1:50051",
    listen: Annotated[str, typer.Option(help="host:port of the HTTP edge.")] = "127.0.0.1:8080",
    grpc_listen: Annotated[
        str, typer.Option(help="host:port of the gRPC Inference service; empty: none.")
    ] = "127.0.0.1:8081",
    api_keys: Annotated[
        Path | None, typer.Option(help="YAML file of hashed API keys, reloaded when it changes.")
    ] = None,
) -> None:
    """Run a gateway: the OpenAI HTTP edge, which keeps and moves the streams.

    Example: `shunter gateway --scheduler 127.0.0.1:50051 --listen 0.0.0.0:8080`
    """
    from shunter_gateway.__main__ import GatewayOptions, run

    run(
        GatewayOptions(
            scheduler=scheduler, listen=listen, grpc_listen=grpc_listen, api_keys=api_keys
        )
    )
