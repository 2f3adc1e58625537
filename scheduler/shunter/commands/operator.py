"""`shunter operator`: the process that turns ModelPools into engine pods on a cluster."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated

import typer


def operator(
    engine_image: Annotated[
        str, typer.Option(help="Image of simulated and numpy engines: the one of this process.")
    ],
    image: Annotated[
        list[str] | None,
        typer.Option(help="TYPE=IMAGE of another engine type, such as vllm=...; repeatable."),
    ] = None,
    image_pull_policy: Annotated[str, typer.Option(help="Of engine pods.")] = "IfNotPresent",
    priority_class: Annotated[
        list[str] | None,
        typer.Option(
            help="LEVEL=NAME of engine pods' PriorityClass: low, standard (scaling.priority 100 "
            "and more) or high (200 and more); repeatable."
        ),
    ] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Watch this namespace only; repeatable. Default: all.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(help="host:port of the scheduler.")
    ] = "shunter-scheduler:50051",
    endpoint: Annotated[str, typer.Option(help="The gateway's URL, for the pools' status.")] = "",
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics and /health; 0: any free port.")
    ] = 9090,
    leader_election: Annotated[
        bool, typer.Option(help="Of several operators one acts, by the Lease shunter-operator.")
    ] = True,
    lease_namespace: Annotated[
        str, typer.Option(help="Of that Lease; default: the process's own.")
    ] = "",
    notice_taint: Annotated[
        list[str] | None,
        typer.Option(
            help="Key of a taint, beside the known ones, that announces a node's end; repeatable."
        ),
    ] = None,
    webhooks: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Serve the admission webhooks; both configurations have this name."
        ),
    ] = "",
    webhook_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the webhooks; 0: any free port.")
    ] = 9443,
    webhook_host: Annotated[
        str,
        typer.Option(
            help="Where the API server reaches this process; default: the Service shunter-webhook."
        ),
    ] = "",
    scheduler_ca: Annotated[Path | None, typer.Option(help="PEM file.", exists=True)] = None,
    scheduler_cert: Annotated[Path | None, typer.Option(help="PEM file.", exists=True)] = None,
    scheduler_key: Annotated[Path | None, typer.Option(help="PEM file.", exists=True)] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the operator: it makes and scales the engine pods of ModelPools, and says why not.

    It finds the cluster by $KUBECONFIG, by its pod's service account, or by ~/.kube/config.

    Example: `shunter operator --engine-image shunter:dev --scheduler 127.0.0.1:50051`
    """
    from shunter.failure import Failure

    try:
        from shunter_operator.__main__ import OperatorOptions, StartError, run
        from shunter_operator.admission.service import WebhookOptions
        from shunter_operator.nodes import NOTICE_TAINTS
        from shunter_operator.priorities import LEVELS
    except ImportError as error:
        raise Failure(
            f"the operator needs more packages: {error}",
            "install them with `pip install 'shunter[kubernetes]'`",
        ) from error
    from shunter_runtime.tls import TlsError, TlsFiles
    from shunter_scheduler.sources.files import KNOWN

    try:
        tls = TlsFiles(scheduler_cert, scheduler_key, scheduler_ca)
        run(
            OperatorOptions(
                image=engine_image,
                engine_images=dict(_pair("image", "TYPE=IMAGE", text) for text in image or ()),
                image_pull_policy=image_pull_policy,
                priority_classes=_priority_classes(priority_class or (), LEVELS),
                namespaces=tuple(namespace or ()),
                scheduler=scheduler,
                scheduler_tls=tls if tls != TlsFiles() else None,
                endpoint=endpoint,
                metrics_port=metrics_port,
                leader_election=leader_election,
                lease_namespace=lease_namespace,
                known=KNOWN,
                webhooks=(
                    WebhookOptions(webhooks, webhook_host, port=webhook_port) if webhooks else None
                ),
                notice_taints=(*NOTICE_TAINTS, *(notice_taint or ())),
                log_level=log_level,
            )
        )
    except (StartError, TlsError, ValueError) as error:
        raise Failure(str(error)) from error


def _priority_classes(texts: Iterable[str], levels: Collection[str]) -> dict[str, str]:
    found = dict(_pair("priority-class", "LEVEL=NAME", text) for text in texts)
    if unknown := sorted(found.keys() - set(levels)):
        known = ", ".join(levels)
        raise ValueError(f"--priority-class takes a level of {known}; found {unknown[0]!r}")
    return found


def _pair(option: str, form: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--{option} takes {form}; found {text!r}")
    return name, value
