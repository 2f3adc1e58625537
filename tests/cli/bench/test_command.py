"""The command as a user runs it: its own process, a real socket, files written."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from shunter.bench.records import Record
from shunter.bench.report import Report, Scope, build_report
from shunter.bench.run import BenchOptions, exit_code, run_bench
from shunter.bench.testing import FakeEndpoint
from shunter.failure import Failure
from shunter_simulator.reports.figures import Slo

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


async def start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )


async def bench(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await start(*arguments, **environment)
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
    assert (report.run.trace, report.run.models) == (f"azure:{trace}", {"good": 1.0})
    assert report.generator.lateness_s is not None
    assert "secret-1" not in report_path.read_text() + out
    assert plot_path.read_bytes().startswith(b"\x89PNG")


async def test_failed_requests_are_shown_and_set_the_exit_code() -> None:
    load = ("--trace", "poisson:rate=80,input=8,output=4", "--duration", "250ms")
    async with FakeEndpoint().serving() as fake:
        code, out, _ = await bench(
            "--url", fake.url, *load, "--model", "busy", "--model", "short", "--exact"
        )
    assert code == 1
    for part in ("HTTP 429", "come back later", "output tokens 3, asked 4"):
        assert part in out


def ended(error: str = "", output_tokens: int = 4) -> Record:
    record = Record(0, "m", 0.0, 8, 4, end_s=1.0, error=error)
    record.prompt_tokens, record.output_tokens = 8, output_tokens
    return record


@pytest.mark.parametrize(
    ("record", "options", "code"),
    [
        (ended(), {}, 0),
        (ended("timeout"), {}, 1),
        (ended("timeout"), {"allow_errors": True}, 0),
        (ended(output_tokens=3), {}, 0),
        (ended(output_tokens=3), {"exact": True}, 1),
        (ended(output_tokens=3), {"exact": True, "allow_errors": True}, 1),
    ],
)
def test_the_exit_code_says_whether_requests_failed(
    record: Record, options: dict[str, bool], code: int
) -> None:
    report = build_report([record], Slo(1.0, 1.0), Scope(planned=1))
    assert exit_code(report, BenchOptions("http://x", "azure", **options)) == code  # type: ignore[arg-type]


def test_an_interrupted_run_says_so() -> None:
    report = build_report([ended()], Slo(1.0, 1.0), Scope(planned=2, interrupted=True))
    assert exit_code(report, BenchOptions("http://x", "azure")) == 130


async def test_an_interrupt_ends_the_run_with_what_there_is() -> None:
    load = ("--trace", "poisson:rate=20,input=8,output=1", "--duration", "60s")
    async with FakeEndpoint().serving() as fake:
        process = await start("--url", fake.url, "--model", "good", *load)
        async with asyncio.timeout(30):
            while len(fake.requests) < 5:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, error = await process.communicate()
    assert (process.returncode, error) == (130, b"")
    assert b"(interrupted)" in out


async def test_requests_too_long_for_the_model_can_be_left_out() -> None:
    load = ("--trace", "poisson:rate=160,input=1-20,output=1", "--duration", "250ms")
    async with FakeEndpoint().serving() as fake:
        code, out, _ = await bench("--url", fake.url, *load, "--max-request-tokens", "11")
    assert code == 0
    assert "too long ones left out" in out
    assert max(len(r["prompt"]) for r in fake.requests) == 10


async def test_load_is_spread_over_models_and_the_first_is_the_default() -> None:
    async with FakeEndpoint().serving() as fake:
        load = ("--trace", "poisson:rate=160,input=8,output=2", "--duration", "250ms")
        await bench("--url", fake.url, *load, "--model", "good=3", "--model", "short=1", "--chat")
        models = [r["model"] for r in fake.requests]
        assert models.count("good") > models.count("short") > 0
        fake.requests.clear()
        await bench("--url", fake.url, *load)
        assert {r["model"] for r in fake.requests} == {"good"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://127.0.0.1:9"}, "no answer from http://127.0.0.1:9"),
        ({"url": "127.0.0.1:9"}, "is no HTTP address"),
        ({"slo_ttft": "fast"}, "--slo-ttft: a duration is"),
        ({"trace": "azure:nowhere.csv"}, "--trace: nowhere.csv does not exist"),
        ({"speed": 0.0}, "--trace: speed must be positive"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is not set"),
        ({"headers": ("novalue",)}, "--header 'novalue' is no header"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    values = {"url": "http://127.0.0.1:9", "trace": "poisson:rate=5", **options}
    with pytest.raises(Failure, match=re.escape(message)):
        run_bench(BenchOptions(**values))  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["a=0", "a=much", "=2"])
async def test_a_model_without_a_usable_weight_is_refused(model: str) -> None:
    async with FakeEndpoint().serving() as fake:
        options = BenchOptions(fake.url, "poisson:rate=5", models=(model,))
        with pytest.raises(Failure, match=f"--model {model}: the weight must be a positive"):
            await asyncio.to_thread(run_bench, options)
