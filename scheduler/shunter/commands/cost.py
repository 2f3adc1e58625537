"""`shunter cost`: what a model costs on an accelerator, before anything is bought or started."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from shunter.cost_report import Costs, Misfit
    from shunter_api.accelerators import Accelerator
    from shunter_scheduler.costmodel import ModelShape


def cost(
    model: Annotated[
        str,
        typer.Argument(
            help="A name such as llama-3.1-8b, hf://ORG/NAME, or the path of a config.json; a "
            "suffix such as -AWQ or -FP8 says how weights are stored."
        ),
    ] = "",
    gpu: Annotated[
        str, typer.Argument(help="h100, a100, l4, ...; without one all are compared.")
    ] = "",
    tp: Annotated[
        int, typer.Option("--tp", min=1, max=64, help="Tensor parallel: accelerators per engine.")
    ] = 1,
    config: Annotated[
        Path | None, typer.Option(help="Read the shape from this config.json instead.")
    ] = None,
    dollars_per_hour: Annotated[
        list[str] | None,
        typer.Option(help="Price of one accelerator: 2.50, or h100=2.50 (repeat) to compare."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, times in seconds.")] = False,
) -> None:
    """Predict speed, memory and price of a model on a GPU.

    Prefill is reading a prompt: its rate sets the time to first token. A decode step writes one
    token for every sequence of the batch: its time is what each user sees between tokens, and the
    batch over it is the engine's throughput. The KV cache is what the weights leave of the memory;
    it bounds batch times context. These are the times that the scheduler starts from, before it
    has observed any; how good they are: docs/benchmarks.md.

    Example: `shunter cost llama-3.1-70b h100 --tp 4 --dollars-per-hour 2.50`
    """
    import json

    from shunter.cost_report import compare, costs
    from shunter.failure import Failure
    from shunter.terminal import out
    from shunter_api.accelerators import UnknownAccelerator, accelerator
    from shunter_scheduler.sources.shapes import shape_of

    if not model and config is None:
        raise Failure("name a model", "e.g. shunter cost llama-3.1-8b h100, or --config FILE")
    if config is not None and model and not gpu:  # `shunter cost h100 --config FILE`
        model, gpu = "", model
    try:
        shape = shape_of(str(config) if config is not None else model)
        hardware = accelerator(gpu) if gpu else None
    except UnknownAccelerator as error:
        raise Failure(str(error)) from error
    except OSError as error:
        what = f"cannot read {error.filename}: {error.strerror}"
        raise Failure(what, "a model's name needs no file; else --config FILE") from error
    except ValueError as error:
        raise Failure(str(error), "or give its config.json: --config FILE") from error
    prices = _prices(dollars_per_hour or [], hardware)
    if hardware is None:
        every = compare(shape, prices)
        if as_json:
            out().print_json(json.dumps([_json(one) for one in every]))
        else:
            out().print(comparison(shape, every))
        return
    price = prices.get(hardware.key)
    try:
        told = costs(shape, hardware, tp, None if price is None else price * tp)
    except ValueError as error:
        raise Failure(str(error), _remedy(shape, hardware, model or str(config))) from error
    if as_json:
        out().print_json(json.dumps(told.as_json()))
    else:
        out().print(tables(told))


def _prices(given: list[str], hardware: "Accelerator | None") -> dict[str, float]:
    """By key of the catalogue: dollars per hour of one."""
    from shunter.failure import Failure
    from shunter_api.accelerators import UnknownAccelerator, accelerator

    prices: dict[str, float] = {}
    for text in given:
        name, separator, amount = text.rpartition("=")
        try:
            key = accelerator(name).key if separator else hardware.key if hardware else ""
            prices[key] = float(amount)
        except (UnknownAccelerator, ValueError) as error:
            raise Failure(f"--dollars-per-hour {text}: {error}", "e.g. 2.50 or h100=2.50") from None
        if not key or not 0 <= prices[key] < float("inf"):
            raise Failure(
                f"--dollars-per-hour {text}: a price of which accelerator?"
                if not key
                else f"--dollars-per-hour {text}: not a price",
                "name one, e.g. --dollars-per-hour h100=2.50 --dollars-per-hour l4=0.70",
            )
    return prices


def _remedy(shape: "ModelShape", hardware: "Accelerator", model: str) -> str:
    from shunter.cost_report import fewest

    devices = fewest(shape, hardware)
    if devices is None:
        return f"shunter cost {model} shows which accelerators hold it; fewer bits: {model}-AWQ"
    return f"shunter cost {model} {hardware.key} --tp {devices}"


def _json(one: "Costs | Misfit") -> dict[str, object]:
    from shunter.cost_report import Costs

    if isinstance(one, Costs):
        return one.as_json()
    return {"accelerator": one.accelerator, "does_not_fit": one.because}


def tables(told: "Costs") -> "Group":
    """For 80 columns."""
    from rich.console import Group
    from rich.text import Text

    from shunter.cost_report import BATCHES
    from shunter_api.accelerators import ACCELERATORS

    billions = f"{told.parameters / 1e9:.3g}B"
    head = (
        f"{told.model} ({billions} parameters, {told.weights}) on "
        f"{told.devices} x {ACCELERATORS[told.accelerator].name}\n"
        f"memory: weights {told.weights_gib:.1f} GiB, KV cache {told.kv_gib:.1f} GiB = "
        f"{told.kv_tokens:,} tokens of {told.kv_bytes_per_token / 1024:.4g} KiB"
    )
    hint = "add --dollars-per-hour for prices"
    if told.dollars_per_hour is not None:
        hint = f"prices: {told.dollars_per_hour:g} dollars per hour, the engine doing nothing else"
    return Group(
        Text(head),
        Text("\nprefill", style="bold"),
        _prefill_table(told),
        Text("\ndecode: ms per step by batch and context of each sequence", style="bold"),
        _step_table(told, BATCHES),
        Text(f"\n{hint}"),
    )


def _prefill_table(told: "Costs") -> "Table":
    from shunter.commands.status import plain_table, seconds

    priced = told.dollars_per_hour is not None
    table = plain_table("prompt tokens", "time", "tokens/s", *(["$ per M tokens"] * priced))
    for one in told.prefills:
        row = [f"{one.prompt_tokens:,}", seconds(one.seconds), f"{one.tokens_per_s:,.0f}"]
        table.add_row(*row, *([_dollars(one.dollars_per_million)] * priced))
    return _right(table)


def _step_table(told: "Costs", batches: tuple[int, ...]) -> "Table":
    from shunter.commands.status import plain_table
    from shunter.cost_report import CONTEXTS

    priced = told.dollars_per_hour is not None
    contexts = [c for c in CONTEXTS if told.step(1, c)]
    largest = "tokens/s" if not contexts else f"tokens/s at {contexts[0]:,}"
    table = plain_table(
        "batch", *(f"{c:,}" for c in contexts), largest, *(["$ per M tokens"] * priced)
    )
    for batch in batches:
        steps = [told.step(batch, context) for context in contexts]
        cells = [f"{s.seconds * 1000:.1f}" if s else "no room" for s in steps]
        first = steps[0] if steps else None
        if first is None:
            continue
        price = [_dollars(first.dollars_per_million)] * priced
        table.add_row(f"{batch}", *cells, f"{first.tokens_per_s:,.0f}", *price)
    return _right(table)


def comparison(shape: "ModelShape", every: "list[Costs | Misfit]") -> "Group":
    """One line per accelerator, for 80 columns."""
    from rich.console import Group
    from rich.text import Text

    from shunter.commands.status import plain_table
    from shunter.cost_report import BATCH, CONTEXT, PROMPT, Costs

    fit = [one for one in every if isinstance(one, Costs)]
    priced = any(one.dollars_per_hour is not None for one in fit)
    table = plain_table("accelerator", "tp", "KV tokens", "prefill/s", "ms @1", f"ms @{BATCH}",
                        "decode/s", *(["$/M in", "$/M out"] * priced))  # fmt: skip
    for one in fit:
        prefill = next((p for p in one.prefills if p.prompt_tokens == PROMPT), one.prefills[-1])
        alone, many = one.step(1, CONTEXT), one.step(BATCH, CONTEXT)
        prices = [_dollars(prefill.dollars_per_million)]
        prices.append(_dollars(many.dollars_per_million if many else None))
        table.add_row(
            one.accelerator,
            f"{one.devices}",
            f"{one.kv_tokens:,}",
            f"{prefill.tokens_per_s:,.0f}",
            f"{alone.seconds * 1000:.1f}" if alone else "no room",
            f"{many.seconds * 1000:.1f}" if many else "no room",
            f"{many.tokens_per_s:,.0f}" if many else "",
            *(prices if priced else ()),
        )
    lines = [f"{o.accelerator}: {o.because}" for o in every if not isinstance(o, Costs)]
    billions = f"{shape.parameters / 1e9:.3g}B"
    head = f"{shape.name} ({billions} parameters, {shape.weights.name}) on as few as hold it well"
    note = (
        f"prefill/s: prompt tokens a second, prompts of {PROMPT:,}; ms @1, @{BATCH}: a decode "
        f"step of such a\nbatch with contexts of {CONTEXT:,}; decode/s: tokens a second of the "
        f"latter, all sequences together"
    )
    return Group(Text(head), _right(table), *(Text(line) for line in lines), Text(f"\n{note}"))


def _dollars(amount: float | None) -> str:
    return "" if amount is None else f"{amount:.3g}" if amount < 100 else f"{amount:.0f}"


def _right(table: "Table") -> "Table":
    for column in table.columns[1:]:
        column.justify = "right"
    return table
