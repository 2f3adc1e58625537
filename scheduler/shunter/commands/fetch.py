"""`shunter fetch`: weights into a folder, once. Engine pods run it before their engine."""

from pathlib import Path
from typing import Annotated

import typer

_REPORT_BYTES = 4000


def fetch(
    source: Annotated[
        str,
        typer.Argument(
            help="hf://ORG/NAME, s3://BUCKET/PREFIX, oci://REGISTRY/REPOSITORY:TAG, ..."
        ),
    ],
    to: Annotated[
        Path, typer.Option(readable=False, help="The folder, which may be a volume of many nodes.")
    ],
    holder: Annotated[
        str,
        typer.Option(
            envvar="SHUNTER_FETCH_HOLDER",
            help="What those who wait are told; default: this host and process.",
        ),
    ] = "",
    parallel: Annotated[int, typer.Option(min=1, max=32, help="Files at once.")] = 4,
    report: Annotated[
        Path | None,
        typer.Option(readable=False, help="Where a failure is written to as `Reason: message`."),
    ] = None,
) -> None:
    """Bring a model's weights into a folder, and print the path for an engine.

    What is there is not brought again, what was broken off goes on, and of several processes, on
    one node or many, one downloads while the others wait. HF_TOKEN and AWS_* give access.

    Example: `shunter fetch hf://HuggingFaceTB/SmolLM2-135M-Instruct --to /mnt/weights`
    """
    import os
    import signal
    import socket
    import sys
    from dataclasses import replace
    from types import FrameType

    from shunter.failure import Failure
    from shunter.fetch_log import FETCH_DEADLINE_S, FetchLog
    from shunter_runtime.logs import configure_logging
    from shunter_text.model_files import FetchOptions, ModelFileError
    from shunter_text.weights_store import StoreOptions, fetch_weights

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    configure_logging()
    signal.signal(signal.SIGTERM, stop)
    options = FetchOptions.from_environ(os.environ, FetchLog())
    store = StoreOptions(
        root=to,
        holder=holder or f"{socket.gethostname()}:{os.getpid()}",
        fetch=replace(options, deadline_s=FETCH_DEADLINE_S),
        parallel=parallel,
    )
    try:
        path = fetch_weights(source, store)
    except ModelFileError as error:
        if report is not None:
            # A kubelet reads 4096 bytes, and of more of them the last.
            said = f"{error.reason}: {error}".encode()[:_REPORT_BYTES].decode(errors="ignore")
            report.write_text(f"{said}\n", encoding="utf-8")
        raise Failure(str(error)) from error
    except SystemExit as end:  # downloads in threads, which nothing else can end
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    sys.stdout.write(f"{path}\n")
