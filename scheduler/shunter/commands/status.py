"""`shunter status` and `shunter top`: pools, instances and queues, once or live."""

from typing import TYPE_CHECKING, Annotated

import typer

from shunter.scheduler_client import (
    CALL_TIMEOUT_S,
    SchedulerCaOption,
    SchedulerCertOption,
    SchedulerKeyOption,
    SchedulerOption,
    SchedulerTls,
    StateDirOption,
    chosen_scheduler,
)
from shunter.state import DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from shunter_proto.v1.scheduler_pb2 import StatusReply


def status(
    scheduler: SchedulerOption = "",
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    ca: SchedulerCaOption = None,
    cert: SchedulerCertOption = None,
    key: SchedulerKeyOption = None,
) -> None:
    """Show pools, instances and queues once.

    Example: `shunter status --scheduler 127.0.0.1:50051`
    """
    from shunter.terminal import out
    from shunter_proto.v1.scheduler_pb2 import StatusRequest

    with chosen_scheduler(scheduler, state_dir, SchedulerTls(ca, cert, key)) as stub:
        reply = stub.Status(StatusRequest(), timeout=CALL_TIMEOUT_S)
    out().print(render(reply))


def top(
    scheduler: SchedulerOption = "",
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    ca: SchedulerCaOption = None,
    cert: SchedulerCertOption = None,
    key: SchedulerKeyOption = None,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between looks.")] = 1.0,
) -> None:
    """Watch pools, instances and queues live; Ctrl-C ends it.

    Example: `shunter top --interval 0.5`
    """
    from rich.live import Live

    from shunter.terminal import out
    from shunter_proto.v1.scheduler_pb2 import WatchRequest

    request = WatchRequest(interval_ms=int(interval * 1000))
    with (
        chosen_scheduler(scheduler, state_dir, SchedulerTls(ca, cert, key)) as stub,
        Live(console=out(), auto_refresh=False) as live,
    ):
        try:
            for reply in stub.Watch(request):
                live.update(render(reply), refresh=True)
        except KeyboardInterrupt:
            return


def render(reply: "StatusReply") -> "Group":
    """Tables and a line of totals, for 80 columns."""
    from rich.console import Group
    from rich.text import Text

    totals = (
        f"{counted(reply.gateways, 'gateway')}, {reply.dispatched_total} dispatched, "
        f"{reply.moved_total} moved live, {reply.resumed_total} resumed after a failure, "
        f"configuration {reply.topology_version}"
    )
    parts: list[RenderableType] = [_pools(reply), "", _instances(reply), ""]
    if any(cost.observations for cost in reply.costs):
        parts += [_costs(reply), ""]
    parts.append(Text(totals))
    if reply.config_error:
        parts.append(Text(f"refused edit: {reply.config_error}", style="red"))
    return Group(*parts)


def _pools(reply: "StatusReply") -> "Table":
    table = plain_table(
        "pool", "ready", "running", "waiting", "TTFT p95", "tok/s", "SLO", "len err", "hits/pred"
    )
    for pool in reply.pools:
        # A pool that has answered nothing lately has no times, and its SLO says nothing.
        heard = pool.ttft_p95_s > 0
        table.add_row(
            pool.name,
            str(pool.ready_instances),
            str(pool.running),
            str(pool.waiting),
            seconds(pool.ttft_p95_s) if heard else "-",
            f"{pool.output_tokens_per_s:.0f}",
            f"{pool.slo_attainment:.1%}" if heard or pool.slo_attainment < 1 else "-",
            f"{error:.0%}" if (error := pool.output_length_error_ratio) else "-",
            _hits(pool),
        )
    return table


def _hits(pool: "StatusReply.Pool") -> str:
    """Prompt tokens found in prefix caches, and predicted to be, of all."""
    if not pool.prefix_prompt_tokens:
        return "-"
    hit, predicted = pool.prefix_hit_tokens, pool.prefix_predicted_tokens
    return "/".join(f"{one / pool.prefix_prompt_tokens:.0%}" for one in (hit, predicted))


def _instances(reply: "StatusReply") -> "Table":
    heads = ["instance", "pool", "profile", "state", "running", "KV", "wait", "address"]
    roles = any(instance.role not in ("", "Any") for instance in reply.instances)
    table = plain_table(*heads[:3], *(["role"] if roles else []), *heads[3:])
    colours = {"ready": "green", "failed": "red", "draining": "yellow", "drained": "yellow"}
    for instance in reply.instances:
        used = instance.ledger_tokens / max(1, instance.kv_capacity_tokens)
        colour = colours.get(instance.state, "cyan")
        table.add_row(
            instance.name,
            instance.pool,
            instance.profile,
            *([instance.role] if roles else []),
            f"[{colour}]{instance.state}[/]",
            str(instance.running),
            f"{used:.0%}",
            seconds(instance.predicted_wait_s),
            instance.address,
        )
    return table


def _costs(reply: "StatusReply") -> "Table":
    """Of profiles whose times were observed: how far off predictions lately were, and how much
    longer times are than the prior had them."""
    kinds = ("prefill", "decode")
    table = plain_table(
        "predicted times", "profile", *(head for kind in kinds for head in (kind, "x prior"))
    )
    rows: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for cost in reply.costs:
        if cost.observations:
            cells = f"{cost.error_ratio:.0%} off", f"{cost.correction:.2f}"
            rows.setdefault((cost.pool, cost.profile), {})[cost.kind] = cells
    for (pool, profile), told in rows.items():
        table.add_row(pool, profile, *(cell for k in kinds for cell in told.get(k, ("-", "-"))))
    return table


def plain_table(*columns: str) -> "Table":
    """Columns without lines between them; a word too long for its column is broken, never cut."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def counted(number: int, what: str) -> str:
    """`1 gateway`, `2 gateways`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def seconds(value: float) -> str:
    """A time for people: milliseconds below one second."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
