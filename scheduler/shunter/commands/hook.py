"""`shunter hook`: what the chart runs around an upgrade, and before the removal."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shunter_runtime.kube_api import KubeApi

hook = typer.Typer(
    name="hook", hidden=True, no_args_is_help=True, help="What the chart's jobs run on a cluster."
)


@hook.command()
def upgrade() -> None:
    """Apply the CustomResourceDefinitions of this version."""
    from shunter.release import apply_definitions

    _run(apply_definitions)


@hook.command()
def demo(
    namespace: Annotated[str, typer.Option(help="Where the release is installed.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds for the server to take it.")] = 120.0,
) -> None:
    """Apply the demo that the chart has in its ConfigMap."""
    from shunter.release import Pause, apply_demo

    _run(lambda api: apply_demo(api, namespace, wait, Pause()))


@hook.command()
def removal(
    release: Annotated[str, typer.Option(help="Name of the Helm release.")],
    namespace: Annotated[str, typer.Option(help="Where it is installed.")],
    wide: Annotated[
        bool, typer.Option("--wide", help="Its operator works for every namespace.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds for its pools to drain.")] = 120.0,
    webhooks: Annotated[str, typer.Option(help="Name of its webhook configurations.")] = "",
) -> None:
    """Delete the webhooks and the release's own pools, stop the operator, take its finalizer off
    all others."""
    from shunter.release import Pause, Release, prepare_removal

    which = Release(release, namespace, wide, webhooks)
    _run(lambda api: prepare_removal(api, which, wait, Pause()))


def _run(work: "Callable[[KubeApi], Awaitable[None]]") -> None:
    from shunter.failure import Failure
    from shunter_runtime.kube_access import KubeAccessError, find_access
    from shunter_runtime.kube_api import KubeError, kube_api
    from shunter_runtime.logs import configure_logging

    configure_logging()

    async def main() -> None:
        async with kube_api(find_access(os.environ)) as api:
            await work(api)

    try:
        asyncio.run(main())
    except (KubeAccessError, KubeError) as error:
        raise Failure(str(error)) from error
