"""`shunter scheduler`: the process that decides."""

from pathlib import Path
from typing import Annotated

import typer


def scheduler(
    config: Annotated[
        list[Path],
        typer.Option(help="A file or a directory of YAML files; may be given several times."),
    ],
    listen: Annotated[str, typer.Option(help="host:port of the gRPC service.")] = "127.0.0.1:50051",
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics; 0: any free port.")
    ] = 9090,
) -> None:
    """Run the scheduler: it places, queues and moves the requests of all gateways.

    Edits of the files take effect at once; a bad edit is refused, the running configuration stays.

    Example: `shunter scheduler --config pools.yaml --config instances.yaml`
    """
    from shunter_scheduler.__main__ import SchedulerOptions, run

    run(SchedulerOptions(config=tuple(config), listen=listen, metrics_port=metrics_port))
