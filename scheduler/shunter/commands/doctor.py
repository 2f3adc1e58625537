"""`shunter doctor`: what is wrong with an installation, and how to mend it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shunter.failure import Failure
from shunter.scheduler_client import (
    SchedulerCaOption,
    SchedulerCertOption,
    SchedulerKeyOption,
    StateDirOption,
)
from shunter.state import DEFAULT_STATE_DIR, read_state

if TYPE_CHECKING:
    from shunter.doctor.report import Findings
    from shunter_runtime.tls import TlsFiles


def doctor(
    server: Annotated[
        str,
        typer.Option(
            "--server",
            "--scheduler",
            help="host:port of a scheduler: look at one machine, not at a cluster.",
        ),
    ] = "",
    gateway: Annotated[
        str,
        typer.Option(help="host:port of its gateway; default: that of the running `shunter up`."),
    ] = "",
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            "-n",
            help="Of the release on a cluster; default: the context's, else the only one found.",
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    ca: SchedulerCaOption = None,
    cert: SchedulerCertOption = None,
    key: SchedulerKeyOption = None,
) -> None:
    """Check an installation and say how to mend what is wrong; exit 1 where a check fails.

    On a cluster: resources, rights, clocks, processes and who leads, webhooks, GPUs, nodes for
    every profile, runtime classes, and what engines can do. On one machine (--server, or a
    `shunter up` that runs in --state-dir): scheduler, gateway, pools, engines and tokenizers.
    What may not be looked at is skipped.

    Example: `shunter doctor --namespace serving`

    Example: `kubectl -n serving exec deploy/shunter-operator -- shunter doctor`
    """
    from shunter.doctor.report import as_json, failures, render
    from shunter.terminal import out
    from shunter_runtime.tls import TlsError, TlsFiles

    try:
        files = TlsFiles(cert, key, ca)
        tls = None if files == TlsFiles() else files
        state = None if server or namespace else read_state(state_dir)
        if server or state is not None:
            scheduler = server or (state.scheduler if state else "")
            config = state_dir / "config" if state else None
            what, findings = _of_machine(
                scheduler, gateway or (state.http if state else ""), config, tls
            )
        else:
            what, findings = _of_cluster(namespace, tls)
    except TlsError as error:
        raise Failure(str(error)) from error
    if json:
        sys.stdout.write(as_json(what, findings) + "\n")
    else:
        out().print(render(what, findings))
    if failures(findings):
        raise typer.Exit(1)


def _of_machine(
    scheduler: str, gateway: str, config: Path | None, tls: "TlsFiles | None"
) -> tuple[str, "Findings"]:
    import asyncio

    from shunter.doctor.gather_machine import Machine, gather
    from shunter.doctor.table import judge

    facts = asyncio.run(gather(Machine(scheduler, gateway, config, tls)))
    return f"scheduler {scheduler}", list(judge(facts))


def _of_cluster(namespace: str, tls: "TlsFiles | None") -> tuple[str, "Findings"]:
    import asyncio
    from importlib.metadata import version

    from shunter.doctor.findings import failed
    from shunter.doctor.gather_cluster import Cluster, gather
    from shunter.doctor.table import judge
    from shunter_runtime.kube_access import KubeAccessError, find_access
    from shunter_runtime.kube_api import KubeError, Refused

    try:
        access = find_access(os.environ)
    except KubeAccessError as error:
        raise Failure(
            str(error),
            "for one machine, ask where `shunter up` was started, or name its scheduler: "
            "shunter doctor --server 127.0.0.1:50051",
        ) from error
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and not os.environ.get("KUBECONFIG")
    cluster = Cluster(access, version("shunter"), namespace, inside, tls)
    try:
        facts = asyncio.run(gather(cluster))
    except Refused as error:
        said = failed(
            f"{access.server} does not let this user in: {error}",
            "try `kubectl auth can-i --list`; have the kubeconfig's credentials run out?",
        )
        return access.server, [("server", said)]
    except KubeError as error:
        said = failed(
            f"{access.server} does not answer: {error}",
            "try `kubectl cluster-info`; is the network or the VPN up, and the kubeconfig right?",
        )
        return access.server, [("server", said)]
    assert facts.cluster is not None
    place = facts.cluster.place
    scope = "every namespace" if place.wide else "this namespace alone"
    return (
        f"release in namespace {place.namespace} (for {scope}) at {access.server}",
        list(judge(facts)),
    )
