"""What `shunter cost` tells: predictions of the cost model for one model on some accelerators."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shunter_api.accelerators import ACCELERATORS, Accelerator
from shunter_scheduler.costmodel import CostModel, ModelShape, cost_model

PROMPTS = (512, 2048, 8192, 32_768, 131_072)
BATCHES = (1, 8, 32, 128)
CONTEXTS = (512, 2048, 8192, 32_768)
DEGREES = (1, 2, 4, 8, 16)
GIB = 1024**3
# For comparisons: a prompt of 2,048 tokens, and a batch of 32 with as long a context.
PROMPT, BATCH, CONTEXT = 2048, 32, 2048


@dataclass(frozen=True, slots=True)
class Prefill:
    prompt_tokens: int
    seconds: float
    tokens_per_s: float
    dollars_per_million: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """One decode step of a batch that the KV cache holds."""

    batch: int
    context_tokens: int  # of each sequence
    seconds: float
    tokens_per_s: float
    dollars_per_million: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one engine: a model on `devices` accelerators of a kind."""

    model: str
    weights: str
    accelerator: str
    devices: int
    parameters: int
    weights_gib: float
    kv_gib: float
    kv_bytes_per_token: int
    kv_tokens: int
    dollars_per_hour: float | None
    prefills: tuple[Prefill, ...]
    steps: tuple[Step, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def step(self, batch: int, context_tokens: int) -> Step | None:
        at = (batch, context_tokens)
        return next((s for s in self.steps if (s.batch, s.context_tokens) == at), None)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why there is no such engine, and how many accelerators would do, where any do."""

    accelerator: str
    because: str
    enough: int | None


def costs(
    shape: ModelShape, hardware: Accelerator, devices: int, dollars_per_hour: float | None
) -> Costs:
    """`dollars_per_hour` is of all devices together. Raises `ValueError` where the model does not
    fit or its heads cannot be split so."""
    model = cost_model(shape, hardware, devices)
    longest = min(shape.context_length, model.kv_capacity_tokens)
    prompts = [n for n in PROMPTS if n <= longest] or [longest]
    return Costs(
        model=shape.name,
        weights=shape.weights.name,
        accelerator=hardware.key,
        devices=devices,
        parameters=shape.parameters,
        weights_gib=model.weights_bytes / GIB,
        kv_gib=(model.usable_bytes - model.weights_bytes) / GIB,
        kv_bytes_per_token=model.kv_bytes_per_token,
        kv_tokens=model.kv_capacity_tokens,
        dollars_per_hour=dollars_per_hour,
        prefills=tuple(_prefill(model, n, dollars_per_hour) for n in prompts),
        steps=tuple(
            _step(model, batch, context, dollars_per_hour)
            for context in CONTEXTS
            for batch in BATCHES
            if context <= longest and batch * context <= model.kv_capacity_tokens
        ),
    )


def _prefill(model: CostModel, tokens: int, dollars_per_hour: float | None) -> Prefill:
    took_s = model.prefill_s(tokens)
    rate = tokens / took_s
    return Prefill(tokens, took_s, rate, _per_million(rate, dollars_per_hour))


def _step(model: CostModel, batch: int, context: int, dollars_per_hour: float | None) -> Step:
    took_s = model.decode_step_s(batch, batch * context)
    rate = batch / took_s
    return Step(batch, context, took_s, rate, _per_million(rate, dollars_per_hour))


def _per_million(tokens_per_s: float, dollars_per_hour: float | None) -> float | None:
    """Were the engine to do nothing else."""
    return None if dollars_per_hour is None else dollars_per_hour / 3600 / tokens_per_s * 1e6


def fewest(shape: ModelShape, hardware: Accelerator, kv_tokens: int = 1) -> int | None:
    """Accelerators that hold the model and so many tokens; None where not even the most do."""
    for devices in DEGREES:
        try:
            model = cost_model(shape, hardware, devices)
        except ValueError:
            continue
        if model.kv_capacity_tokens >= kv_tokens:
            return devices
    return None


def compare(
    shape: ModelShape, prices: Mapping[str, float], keys: Iterable[str] = ACCELERATORS
) -> list[Costs | Misfit]:
    """The model on the fewest of each accelerator that hold it and a batch of 32, if any do; the
    fastest first. `prices`: dollars per hour of one."""
    fit: list[Costs] = []
    misfits: list[Misfit] = []
    for key in keys:
        hardware = ACCELERATORS[key]
        devices = fewest(shape, hardware, BATCH * CONTEXT) or fewest(shape, hardware)
        if devices is None:
            misfits.append(Misfit(key, f"not even {DEGREES[-1]} hold it", None))
            continue
        price = prices.get(key)
        fit.append(costs(shape, hardware, devices, None if price is None else price * devices))
    fit.sort(key=lambda one: one.prefills[0].seconds)
    return [*fit, *misfits]
