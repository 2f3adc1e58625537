"""Composition of one bench run: options, client, replay, report."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shunter.bench.client import Endpoint, EndpointError, OpenAiClient
from shunter.bench.plot import save_plot
from shunter.bench.progress import show_progress
from shunter.bench.records import Record, Tally
from shunter.bench.replay import replay
from shunter.bench.report import Report, RunFacts, Scope, build_report
from shunter.bench.requests import RequestStyle, planned_requests
from shunter.bench.table import render
from shunter.failure import Failure
from shunter.terminal import err, out
from shunter_api.durations import parse_duration
from shunter_runtime.loop import run
from shunter_runtime.signals import stop_signals
from shunter_simulator.reports.figures import Slo
from shunter_simulator.workloads import (
    Arrival,
    PromptTokens,
    WorkloadError,
    load_workload,
    scale,
)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """As given on the command line; durations are texts such as `500ms`."""

    url: str
    trace: str
    models: tuple[str, ...] = ()
    start: str = "0s"
    duration: str = "60s"
    speed: float = 1.0
    slo_ttft: str = "500ms"
    slo_tpot: str = "50ms"
    max_request_tokens: int = 0
    chat: bool = False
    natural_length: bool = False
    exact: bool = False
    allow_errors: bool = False
    api_key_env: str = ""
    headers: tuple[str, ...] = ()
    timeout: str = "10m"
    max_in_flight: int = 4096
    seed: int = 0
    data: Path | None = None
    json_out: Path | None = None
    plot_out: Path | None = None


def run_bench(options: BenchOptions) -> int:
    """Runs, prints the table, writes the files. The exit code: 0, or 1 where requests failed.

    Raises `Failure` for options that make no sense and for an endpoint that does not answer.
    """
    slo = Slo(_seconds("--slo-ttft", options.slo_ttft), _seconds("--slo-tpot", options.slo_tpot))
    arrivals = _arrivals(options)
    chosen = _short_enough(arrivals, options.max_request_tokens)
    endpoint = Endpoint(
        _base_url(options.url), _headers(options), _seconds("--timeout", options.timeout)
    )
    outcome = run(_replay(options, endpoint, chosen))
    scope = Scope(
        planned=len(chosen),
        left_out=len(arrivals) - len(chosen),
        interrupted=outcome.interrupted,
        run=_facts(options, endpoint, outcome.models),
    )
    report = build_report(outcome.records, slo, scope)
    out().print(render(report, exact=options.exact))
    _write_files(options, report, outcome.records, slo)
    return exit_code(report, options)


def exit_code(report: Report, options: BenchOptions) -> int:
    if report.interrupted:
        return 130
    failed = report.overall.ended > report.overall.succeeded and not options.allow_errors
    return 1 if failed or (options.exact and report.mismatches_total) else 0


@dataclass(frozen=True, slots=True)
class _Outcome:
    records: list[Record]
    models: list[tuple[str, float]]
    interrupted: bool


async def _replay(
    options: BenchOptions, endpoint: Endpoint, arrivals: Sequence[Arrival]
) -> _Outcome:
    tally = Tally(len(arrivals))
    async with OpenAiClient(endpoint) as client:
        models = await _models(options, client)
        style = RequestStyle(
            models=models,
            prompts=PromptTokens(seed=options.seed),
            chat=options.chat,
            exact_length=not options.natural_length,
            seed=options.seed,
        )
        requests = planned_requests(arrivals, style)
        with stop_signals() as stop:
            async with show_progress(tally, err()):
                records = await replay(requests, client.send, tally, options.max_in_flight, stop)
            return _Outcome(records, models, stop.is_set())


async def _models(options: BenchOptions, client: OpenAiClient) -> list[tuple[str, float]]:
    try:
        served = await client.model_names()
    except EndpointError as error:
        raise Failure(str(error), error.next_step) from error
    if not options.models:
        if not served:
            raise Failure(f"{options.url} serves no model", "give --model")
        return [(served[0], 1.0)]
    return [_weighted(text) for text in options.models]


def _weighted(text: str) -> tuple[str, float]:
    name, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not (name and 0 < value < float("inf")):
        raise Failure(f"--model {text}: the weight must be a positive number", "write NAME=2")
    return name, value


def _arrivals(options: BenchOptions) -> list[Arrival]:
    duration_s = _seconds("--duration", options.duration)
    try:
        arrivals = load_workload(
            options.trace,
            start_s=_seconds("--start", options.start),
            duration_s=duration_s or None,
            seed=options.seed,
            data_folder=options.data,
        )
        return scale(arrivals, options.speed)
    except WorkloadError as error:
        raise Failure(f"--trace: {error}", "see `shunter bench --help`") from error


def _short_enough(arrivals: list[Arrival], max_request_tokens: int) -> list[Arrival]:
    if not max_request_tokens:
        return arrivals
    chosen = [a for a in arrivals if a.prompt_tokens + a.output_tokens <= max_request_tokens]
    if not chosen:
        raise Failure(f"no request has at most {max_request_tokens} tokens")
    return chosen


def _facts(
    options: BenchOptions, endpoint: Endpoint, models: Sequence[tuple[str, float]]
) -> RunFacts:
    return RunFacts(
        url=endpoint.url,
        trace=options.trace,
        start_s=parse_duration(options.start),
        window_s=parse_duration(options.duration),
        speed=options.speed,
        models=dict(models),
        chat=options.chat,
        exact_length=not options.natural_length,
        max_in_flight=options.max_in_flight,
        seed=options.seed,
    )


def _base_url(url: str) -> str:
    base = url.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise Failure(f"--url {url} is no HTTP address", "write http://HOST:PORT")
    return base


def _headers(options: BenchOptions) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in options.headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise Failure(f"--header {text!r} is no header", "write 'NAME: VALUE'")
        headers[name.strip()] = value.strip()
    if options.api_key_env:
        key = os.environ.get(options.api_key_env)
        if not key:
            raise Failure(f"the environment variable {options.api_key_env} is not set")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _seconds(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Failure(f"{option}: {error}") from error


def _write_files(
    options: BenchOptions, report: Report, records: Sequence[Record], slo: Slo
) -> None:
    if options.json_out is not None:
        content = msgspec.json.format(msgspec.json.encode(report))
        try:
            options.json_out.write_bytes(content + b"\n")
        except OSError as error:
            raise Failure(f"cannot write {options.json_out}: {error}") from error
    if options.plot_out is not None:
        save_plot(records, slo, options.plot_out)
