"""Command lines of the processes that `shunter up` starts."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from shunter.failure import Failure
from shunter.up.child import ChildSpec
from shunter.up.llama import f16_model, llama_server
from shunter.up.plan import EnginePlan, engine_arguments, llama_arguments
from shunter_text.model_files import FetchOptions, ModelFileError, model_file

GATEWAY_GRACE_S = 5  # for answers to finish at the end


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses (host:port) of one system."""

    http: str
    grpc: str
    scheduler: str
    scheduler_metrics: str


@dataclass(frozen=True, slots=True)
class Folders:
    """Of one system. `saved_slots`: of llama-servers, while their requests move."""

    logs: Path
    saved_slots: Path


def scheduler_spec(endpoints: Endpoints, config: Path, logs: Path) -> ChildSpec:
    return ChildSpec(
        name="scheduler",
        role="scheduler",
        argv=_shunter(
            "scheduler",
            *("--config", str(config), "--listen", endpoints.scheduler),
            *("--metrics-port", endpoints.scheduler_metrics.rpartition(":")[2]),
        ),
        address=endpoints.scheduler,
        health_url=f"http://{endpoints.scheduler_metrics}/health",
        log=logs / "scheduler.log",
    )


def gateway_spec(
    endpoints: Endpoints, folders: Folders, api_keys: Path | None, insecure_open: bool
) -> ChildSpec:
    keys = ("--api-keys", str(api_keys)) if api_keys else ()
    insecure = ("--insecure-open",) if insecure_open else ()
    return ChildSpec(
        name="gateway",
        role="gateway",
        argv=_shunter(
            "gateway",
            *("--scheduler", endpoints.scheduler, "--listen", endpoints.http),
            *("--grpc-listen", endpoints.grpc, "--grace", str(GATEWAY_GRACE_S), *keys, *insecure),
            *("--slot-folder", str(folders.saved_slots)),
        ),
        address=endpoints.http,
        health_url=f"http://{reachable(endpoints.http)}/ready",
        log=folders.logs / "gateway.log",
    )


def engine_spec(plan: EnginePlan, port: int, speed: float, folders: Folders) -> ChildSpec:
    """Blocks: a model that `fetch_weights` has not brought is fetched here."""
    if plan.engine_type == "llamacpp":
        server = llama_server()
        model = llama_model(
            plan, server, FetchOptions.from_environ({**os.environ, **dict(plan.env)})
        )
        argv: tuple[str, ...] = (
            str(server),
            *llama_arguments(plan, str(model), port, folders.saved_slots),
        )
    else:
        argv = _shunter("engine", *engine_arguments(plan, port, speed))
    return ChildSpec(
        name=plan.name,
        role="engine",
        argv=argv,
        address=f"127.0.0.1:{port}",
        health_url=f"http://127.0.0.1:{port}/health",
        log=folders.logs / f"{plan.name}.log",
        env=dict(plan.env),
    )


def llama_model(plan: EnginePlan, server: Path, options: FetchOptions) -> Path:
    """A file of the user's own is served as it is; a packaged one as F16. Raises `Failure`."""
    try:
        model = model_file(plan.source, options)
    except ModelFileError as error:
        raise Failure(str(error)) from error
    return model if plan.source.startswith("file://") else f16_model(server, model, options)


def reachable(address: str) -> str:
    """An address to connect to, for one that may say "all interfaces"."""
    host, _, port = address.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    return f"{local.get(host, host)}:{port}"


def _shunter(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "shunter", *arguments)
