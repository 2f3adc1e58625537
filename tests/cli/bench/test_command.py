"""The command as a user runs it: its own process, a real socket, files written."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from shunter.bench.report import Report
from shunter.bench.testing import FakeEndpoint

ROWS = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{46 + i / 50:09.6f}0,{20 + i},{3 + i % 4}\n" for i in range(20)
)
RUN = """
import sys, typer
from shunter.bench.command import bench
from shunter.failure import Failure
app = typer.Typer()
app.command()(bench)
try:
    app()
except Failure as failure:
    sys.exit(f"error: {failure}; {failure.next_step}")
"""


async def bench(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        async with asyncio.timeout(60):
            out, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def test_a_trace_is_replayed_and_reported(tmp_path: Path) -> None:
    trace, report_path, plot_path = (tmp_path / n for n in ("t.csv", "r.json", "p.png"))
    trace.write_text(ROWS)
    async with FakeEndpoint().serving() as fake:
        code, out, error = await bench(
            *("--url", f"{fake.url}/v1", "--trace", f"azure:{trace}", "--speed", "4"),
            *("--model", "good", "--exact", "--json", str(report_path), "--plot", str(plot_path)),
            *("--api-key-env", "BENCH_KEY", "--header", "x-shunter-class: batch"),
            BENCH_KEY="secret-1",
        )
    assert (code, error) == (0, "")
    assert "20 of 20 requests succeeded" in out
    assert sorted(len(r["prompt"]) for r in fake.requests) == list(range(20, 40))
    assert fake.headers[0]["Authorization"] == "Bearer secret-1"
    assert fake.headers[0]["x-shunter-class"] == "batch"
    report = msgspec.json.decode(report_path.read_bytes(), type=Report)
    assert report.overall.output_tokens == sum(3 + i % 4 for i in range(20))
    assert report.mismatches_total == 0
    assert report.generator.lateness_s is not None
    assert "secret-1" not in report_path.read_text() + out
    assert plot_path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("model", "options", "code", "shown"),
    [
        ("busy", [], 1, "HTTP 429"),
        ("busy", ["--allow-errors"], 0, "come back later"),
        ("short", [], 0, "another length than asked: "),
        ("short", ["--exact"], 1, "output tokens 3, asked 4"),
        ("short", ["--exact", "--natural-length"], 0, "requests succeeded"),
    ],
)
async def test_the_exit_code_says_whether_requests_failed(
    model: str, options: list[str], code: int, shown: str
) -> None:
    async with FakeEndpoint().serving() as fake:
        found, out, _ = await bench(
            *("--url", fake.url, "--model", model, "--duration", "1s"),
            *("--trace", "poisson:rate=10,input=8,output=4", *options),
        )
    assert found == code
    assert shown in out


async def test_load_is_spread_over_models_and_the_first_is_the_default() -> None:
    async with FakeEndpoint().serving() as fake:
        load = ("--trace", "poisson:rate=40,input=8,output=2", "--duration", "1s")
        await bench("--url", fake.url, *load, "--model", "good=3", "--model", "short=1", "--chat")
        models = [r["model"] for r in fake.requests]
        assert models.count("good") > models.count("short") > 0
        fake.requests.clear()
        await bench("--url", fake.url, *load)
        assert {r["model"] for r in fake.requests} == {"good"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--url", "http://127.0.0.1:9"], "no answer from http://127.0.0.1:9"),
        (["--url", "127.0.0.1:9"], "is no HTTP address; write http://HOST:PORT"),
        (["--slo-ttft", "fast"], "--slo-ttft: a duration is"),
        (["--trace", "azure:nowhere.csv"], "--trace: nowhere.csv does not exist"),
        (["--api-key-env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE is not set"),
        (["--header", "novalue"], "--header 'novalue' is no header"),
    ],
)
async def test_wrong_options_are_refused_with_the_remedy(options: list[str], message: str) -> None:
    code, _, error = await bench(*options)
    assert code == 1
    assert message in error
    assert "Traceback" not in error
