"""The gateway: the OpenAI HTTP edge and gRPC, in one process or in several that share the ports."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shunter_gateway.config import GatewayOptions, StartError
from shunter_gateway.process import run_one
from shunter_gateway.workers import run_workers
from shunter_runtime.logs import configure_logging
from shunter_runtime.tls import TlsError, TlsFiles

__all__ = ["GatewayOptions", "StartError", "main", "run"]


def run(options: GatewayOptions) -> None:
    """Serves until SIGTERM or SIGINT. Raises `StartError`."""
    configure_logging(options.log_level)
    options.check()
    if options.workers > 1:
        run_workers(options, run_one)
    else:
        run_one(options)


def parse_arguments(arguments: Sequence[str] | None = None) -> GatewayOptions:
    """Raises `TlsError`; argparse ends the process for anything else that is wrong."""
    defaults = GatewayOptions()
    parser = argparse.ArgumentParser(prog="shunter gateway", description=__doc__)
    add = parser.add_argument
    add("--scheduler", default=defaults.scheduler, metavar="HOST:PORT[,HOST:PORT]")
    add("--listen", default=defaults.listen, metavar="HOST:PORT", help="HTTP, with /metrics")
    add("--grpc-listen", default=defaults.grpc_listen, metavar="HOST:PORT", help="empty: no gRPC")
    add("--api-keys", type=Path, metavar="FILE", help="YAML of hashed keys; see docs/api.md")
    add(
        "--insecure-open",
        action="store_true",
        help="listen beyond loopback without API keys: something in front authenticates",
    )
    add("--workers", type=int, default=1, help="processes that share the ports")
    add("--max-body-bytes", type=int, default=defaults.max_body_bytes)
    add("--max-inflight", type=int, default=defaults.max_inflight, help="requests per worker")
    add(
        "--max-inflight-bytes",
        type=int,
        default=defaults.max_inflight_bytes,
        help="of their bodies, per worker",
    )
    add(
        "--keep-alive",
        dest="keep_alive_s",
        type=float,
        default=defaults.keep_alive_s,
        help="seconds of silence after which a stream gets a comment",
    )
    add(
        "--grace",
        dest="grace_s",
        type=float,
        default=defaults.grace_s,
        help="seconds for answers to finish",
    )
    add("--tls-cert", type=Path, help="PEM file of both listeners; needs --tls-key")
    add("--tls-key", type=Path)
    add("--tls-ca", type=Path, help="clients must show a certificate signed by it")
    add("--scheduler-ca", type=Path, help="PEM file: TLS to the scheduler")
    add("--scheduler-cert", type=Path, help="our certificate for it; needs --scheduler-key")
    add("--scheduler-key", type=Path)
    add("--moves-tls-ca", type=Path, help="PEM file: TLS to where engines serve moves of KV")
    add("--moves-tls-cert", type=Path, help="our certificate for them; needs --moves-tls-key")
    add("--moves-tls-key", type=Path)
    add(
        "--slot-folder",
        type=Path,
        metavar="DIR",
        help="where llama-servers save slots (--slot-save-path), as it is mounted here",
    )
    add("--log-level", default=defaults.log_level)
    given = vars(parser.parse_args(arguments))
    tls = _tls(given.pop("tls_cert"), given.pop("tls_key"), given.pop("tls_ca"))
    scheduler_tls = _tls(
        given.pop("scheduler_cert"), given.pop("scheduler_key"), given.pop("scheduler_ca")
    )
    moves_tls = _tls(
        given.pop("moves_tls_cert"), given.pop("moves_tls_key"), given.pop("moves_tls_ca")
    )
    return GatewayOptions(**given, tls=tls, scheduler_tls=scheduler_tls, moves_tls=moves_tls)


def _tls(cert: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    return TlsFiles(cert, key, ca) if cert or key or ca else None


def main() -> int:
    try:
        run(parse_arguments())
    except (StartError, TlsError, ValueError) as error:
        sys.stderr.write(f"shunter gateway: {error}\n")
        return 2
    return 0
