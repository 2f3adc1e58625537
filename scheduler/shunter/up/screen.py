"""What `shunter up` shows: one screen when all serves, a line for each thing that happens later."""

import json

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from shunter.up.child import Child
from shunter.up.launch import Endpoints, reachable
from shunter.up.plan import EnginePlan
from shunter_api.validate import Configuration


def starting(children: dict[str, Child]) -> Table:
    """What is there and what is still awaited."""
    table = Table("process", "state", "last words", title="starting", title_justify="left")
    for name, child in children.items():
        words = "" if child.ready else child.log_tail().rpartition("\n")[2][:100]
        state = "[green]ready[/]" if child.ready else "[yellow]starting[/]"
        table.add_row(name, state, Text(words))
    return table


def summary(
    configuration: Configuration, plans: dict[str, EnginePlan], endpoints: Endpoints
) -> RenderableType:
    """Endpoints, pools, instances and a request to try."""
    http = f"http://{reachable(endpoints.http).replace('127.0.0.1', 'localhost')}"
    parts: list[RenderableType] = [_endpoints(http, endpoints), _pools(configuration, plans)]
    if configuration.pools:
        model = configuration.pools[0].model_names[0]
        parts += [Text("\ntry:", style="bold"), Text(curl(http, model), overflow="fold")]
    parts.append(Text("\nshunter top · shunter demo failover · Ctrl-C ends it", style="dim"))
    return Group(*parts)


def curl(http: str, model: str) -> str:
    """A command that streams an answer."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    return (
        f"curl -N {http}/v1/chat/completions -H 'content-type: application/json' "
        f"-d '{json.dumps(body, separators=(',', ':'))}'"
    )


def _endpoints(http: str, endpoints: Endpoints) -> Table:
    table = Table("endpoint", "address")
    table.add_row("OpenAI HTTP", f"{http}/v1")
    table.add_row("gRPC Inference", endpoints.grpc)
    table.add_row("scheduler", endpoints.scheduler)
    table.add_row("metrics", f"{http}/metrics, http://{endpoints.scheduler_metrics}/metrics")
    return table


def _pools(configuration: Configuration, plans: dict[str, EnginePlan]) -> Table:
    table = Table("pool", "models", "engine", "instances")
    for pool in configuration.pools:
        names = [plan.name for plan in plans.values() if plan.pool == pool.name]
        names += [entry.name for entry in configuration.instances if entry.pool == pool.name]
        table.add_row(
            pool.name, ", ".join(pool.model_names), pool.engine_type, "\n".join(names) or "none"
        )
    return table


def print_plainly(console: Console, text: str) -> None:
    """A line as it is, whatever brackets it has."""
    console.print(Text(text))
