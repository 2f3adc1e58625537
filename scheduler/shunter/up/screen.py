"""What `shunter up` shows: one screen when all serves, a line for each thing that happens later."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shunter.state import DEFAULT_STATE_DIR
from shunter.terminal import program
from shunter.up.child import Child
from shunter.up.launch import Endpoints, reachable
from shunter.up.plan import EnginePlan
from shunter_api.validate import Configuration

MAX_WORDS = 100


def starting(children: dict[str, Child]) -> Table:
    """What is there and what is still awaited."""
    table = Table("process", "state", "last words", title="starting", title_justify="left")
    for name, child in children.items():
        words = "" if child.ready else last_words(child.log_tail())
        state = "[green]ready[/]" if child.ready else "[yellow]starting[/]"
        table.add_row(name, state, Text(words))
    return table


def last_words(log: str) -> str:
    """The last line of a log; of one in JSON only what was said."""
    line = log.rpartition("\n")[2]
    try:
        fields = json.loads(line)
    except ValueError:
        return line[:MAX_WORDS]
    if not isinstance(fields, dict):
        return line[:MAX_WORDS]
    said = [f"{value}" for key, value in fields.items() if key in ("event", "what", "reason")]
    if isinstance(fields.get("percent"), int | float):
        said.append(f"{fields['percent']:g} %")
    return ", ".join(said)[:MAX_WORDS]


def show(
    console: Console,
    configuration: Configuration,
    plans: dict[str, EnginePlan],
    system: Endpoints,
    state_dir: Path,
) -> None:
    """Endpoints, pools, instances and a request to try, which is not broken into lines."""
    http = f"http://{reachable(system.http).replace('127.0.0.1', 'localhost')}"
    console.print(_endpoints(http, system))
    console.print(_pools(configuration, plans))
    if configuration.pools:
        model = configuration.pools[0].model_names[0]
        console.print("\ntry:", style="bold")
        console.print(Text(curl(http, model)), soft_wrap=True)
    where = "" if state_dir == DEFAULT_STATE_DIR.absolute() else f" --state-dir {state_dir}"
    console.print("\nmore, from another terminal (Ctrl-C here ends everything):", style="bold")
    for command in ("top", "demo failover"):
        console.print(Text(f"{program()} {command}{where}"), soft_wrap=True)


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
    table = Table("pool", "models", "engine", "instance", "accelerator")
    for pool in configuration.pools:
        instances = [(p.name, p.accelerator) for p in plans.values() if p.pool == pool.name]
        instances += [
            (entry.name, pool.profile(entry.profile).accelerator)
            for entry in configuration.instances
            if entry.pool == pool.name
        ]
        names, accelerators = zip(*instances, strict=True) if instances else (("none",), ())
        models = "\n".join(pool.model_names)
        table.add_row(
            pool.name, models, pool.engine_type, "\n".join(names), "\n".join(accelerators)
        )
    return table


def print_plainly(console: Console, text: str) -> None:
    """A line as it is, whatever brackets it has."""
    console.print(Text(text), soft_wrap=True)
