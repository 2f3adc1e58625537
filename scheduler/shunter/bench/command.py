"""`shunter bench`: replay a trace against an OpenAI endpoint and report what its clients see."""

from pathlib import Path
from typing import Annotated

import typer

from shunter.report_options import DataFolder, JsonFile


def bench(
    url: Annotated[
        str, typer.Option(help="The endpoint, with or without /v1.")
    ] = "http://127.0.0.1:8080",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME=WEIGHT, repeatable: requests are spread by weight. "
            "Default: the endpoint's first model.",
            show_default=False,
        ),
    ] = None,
    trace: Annotated[
        str,
        typer.Option(
            help="azure:FILE, mooncake:FILE, poisson:rate=R[,input=L][,output=L] or "
            "gamma:...,cv=C. Lengths L: 512, 100-2000, exp/300, lognormal/1155/0.96."
        ),
    ] = "poisson:rate=2",
    start: Annotated[str, typer.Option(help="Begin so far into the trace.")] = "0s",
    duration: Annotated[
        str, typer.Option(help="Replay so much of the trace; 0s: to its end.")
    ] = "60s",
    speed: Annotated[
        float, typer.Option(min=0.001, help="How many times faster than the trace.")
    ] = 1.0,
    slo_ttft: Annotated[str, typer.Option(help="Target time to first token.")] = "500ms",
    slo_tpot: Annotated[str, typer.Option(help="Target time per output token.")] = "50ms",
    max_request_tokens: Annotated[
        int, typer.Option(min=0, help="Leave out longer requests, answer included; 0: none.")
    ] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send words as a chat message, not token ids.")
    ] = False,
    natural_length: Annotated[
        bool,
        typer.Option(
            "--natural-length",
            help="Let answers end by themselves; for endpoints without min_tokens and ignore_eos.",
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="List each answer of another length than asked, and fail."),
    ] = False,
    allow_errors: Annotated[
        bool, typer.Option("--allow-errors", help="Exit with 0 although requests failed.")
    ] = False,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the API key.")
    ] = "",
    header: Annotated[
        list[str] | None,
        typer.Option(help="NAME: VALUE, repeatable, such as 'x-shunter-class: batch'."),
    ] = None,
    timeout: Annotated[str, typer.Option(help="Of one request.")] = "10m",
    max_in_flight: Annotated[int, typer.Option(min=1)] = 4096,
    seed: Annotated[int, typer.Option(min=0, help="Of generated load, prompts and models.")] = 0,
    data: DataFolder = None,
    json_out: JsonFile = None,
    plot_out: Annotated[
        Path | None, typer.Option("--plot", help="Draw distributions and load as PNG or SVG.")
    ] = None,
) -> None:
    """Replay a trace, open loop, against any OpenAI endpoint.

    Requests leave at the trace's times whether or not earlier ones have been answered. Reports
    TTFT, TPOT, inter-token and end-to-end latency, goodput under the targets, errors, and whether
    every answer has exactly its row's length.

    Example: `shunter bench --trace azure:conv.csv.gz --start 10m --duration 5m --model chat=3
    --model code=1 --plot bench.png`
    """
    from shunter.bench.run import BenchOptions, run_bench

    exit_code = run_bench(
        BenchOptions(
            url=url,
            models=tuple(model or ()),
            trace=trace,
            start=start,
            duration=duration,
            speed=speed,
            slo_ttft=slo_ttft,
            slo_tpot=slo_tpot,
            max_request_tokens=max_request_tokens,
            chat=chat,
            natural_length=natural_length,
            exact=exact,
            allow_errors=allow_errors,
            api_key_env=api_key_env,
            headers=tuple(header or ()),
            timeout=timeout,
            max_in_flight=max_in_flight,
            seed=seed,
            data=data,
            json_out=json_out,
            plot_out=plot_out,
        )
    )
    if exit_code:
        raise typer.Exit(exit_code)
