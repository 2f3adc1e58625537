"""What `shunter up` shows: one screen when all serves, a line for each thing that happens later."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shunter.commands.demo import DEMO_MODEL
from shunter.state import DEFAULT_STATE_DIR
from shunter.terminal import program
from shunter.up.child import Child
from shunter.up.launch import Endpoints, reachable
from shunter.up.plan import EnginePlan
from shunter_api.validate import Configuration

MAX_WORDS = 100


@dataclass(frozen=True, slots=True)
class Served:
    """Where a system is found, and whether its gateway asks for keys."""

    endpoints: Endpoints
    state_dir: Path
    keyed: bool


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
    console: Console, configuration: Configuration, plans: dict[str, EnginePlan], served: Served
) -> None:
    """Endpoints, pools, instances and commands to try, which are not broken into lines."""
    http = f"http://{reachable(served.endpoints.http).replace('127.0.0.1', 'localhost')}"
    console.print(_endpoints(http, served.endpoints))
    console.print(_pools(configuration, plans))
    names = [name for pool in configuration.pools for name in pool.model_names]
    if names:
        console.print("\ntry:", style="bold")
        console.print(Text(curl(http, names[0], served.keyed)), soft_wrap=True)
    console.print("\nmore, from another terminal (Ctrl-C here ends everything):", style="bold")
    for command in _commands(names, served):
        console.print(Text(command), soft_wrap=True)


def _commands(names: list[str], served: Served) -> Iterator[str]:
    default = served.state_dir == DEFAULT_STATE_DIR.absolute()
    where = "" if default else f" --state-dir {served.state_dir}"
    yield f"{program()} top{where}"
    if names:
        model = "" if DEMO_MODEL in names else f" --model {names[0]}"
        key = "SHUNTER_API_KEY=$KEY " if served.keyed else ""
        yield f"{key}{program()} demo failover{model}{where}"


def curl(http: str, model: str, keyed: bool = False) -> str:
    """A command that streams an answer; the key, where one is needed, is in `$KEY`."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    key = '-H "authorization: Bearer $KEY" ' if keyed else ""
    return (
        f"curl -N {http}/v1/chat/completions -H 'content-type: application/json' {key}"
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
