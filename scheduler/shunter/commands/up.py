"""`shunter up`: engines, scheduler and gateway on this machine, from the same YAML as a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from shunter.state import DEFAULT_STATE_DIR


def up(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="YAML files or directories; default: the quick start, two models on simulated "
            "GPUs and a small real one.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Interface of the gateway.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0: any free one.")] = 8080,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, help="gRPC port of the gateway; 0: any free one.")
    ] = 8081,
    scheduler_port: Annotated[
        int, typer.Option(min=0, max=65535, help="gRPC port of the scheduler; 0: any free one.")
    ] = 50051,
    state_dir: Annotated[
        Path, typer.Option(help="For logs and addresses; one per running `shunter up`.")
    ] = DEFAULT_STATE_DIR,
    for_seconds: Annotated[
        float | None,
        typer.Option("--for", min=0, help="End well after so many seconds of service."),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.001, help="How many times faster than real simulated GPUs are.")
    ] = 1.0,
    api_keys: Annotated[
        Path | None, typer.Option(help="YAML file of hashed API keys.", exists=True)
    ] = None,
    insecure_open: Annotated[
        bool,
        typer.Option(
            "--insecure-open", help="Serve beyond this machine (--host) without API keys."
        ),
    ] = False,
    start_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until everything must serve.")
    ] = 180.0,
) -> None:
    """Serve models on this machine: engines, scheduler and gateway in one go.

    Edits of the files take effect at once; a bad edit is refused and the running configuration
    stays. A process that dies is restarted. Ctrl-C ends everything.

    Example: `shunter up manifests/smollm.yaml`
    """
    from shunter.config import quickstart_path
    from shunter.up.run import UpOptions, run

    run(
        UpOptions(
            paths=tuple(files) if files else (quickstart_path(),),
            host=host,
            port=port,
            grpc_port=grpc_port,
            scheduler_port=scheduler_port,
            state_dir=state_dir,
            duration_s=for_seconds,
            speed=speed,
            api_keys=api_keys,
            insecure_open=insecure_open,
            start_timeout_s=start_timeout,
        )
    )
