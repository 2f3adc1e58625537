"""Constants of the smooth roofline, per chip.

Fitted to the profiles that the vidur project publishes (github.com/microsoft/vidur, `mlp.csv`,
20,091 rows, 8 models, tensor parallel 1 to 8, 1 to 4,096 tokens). Mean absolute error leaving one
model out: A100 3.8 %, H100 5.4 %, A40 4.3 %. All-reduce bandwidth is from the same project's
64 MB runs. Chips without profiles use `DEFAULT`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Attention kernels, fitted to the same project's A100 attention profiles of Llama-2-70B.
DECODE_ATTENTION_MEMORY_EFFICIENCY = 0.78
DECODE_ATTENTION_LAUNCH_S = 15.7e-6
PREFILL_ATTENTION_FLOPS_EFFICIENCY = 0.26
PREFILL_ATTENTION_LAUNCH_S = 18e-6

# Ring all-reduce: start-up and per-hop latency (GenZ, arXiv 2406.01698); 7 to 19 us for 2 to 8 GPUs
# lies inside the 4 to 24 us of the profiles.
ALL_REDUCE_START_S = 5e-6
ALL_REDUCE_HOP_S = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """Shares of the data sheet's peaks that a serving engine's kernels reach, in (0, 1].

    `smoothing` is the exponent k of (compute^k + memory^k)^(1/k): how gently one bound passes into
    the other. `layer_overhead_s` is the launch time of one layer's kernels. `all_reduce_efficiency`
    is a ring's bandwidth over that of the link, both directions together.
    """

    flops_efficiency: float
    memory_efficiency: float
    activation_efficiency: float
    layer_overhead_s: float
    smoothing: float
    all_reduce_efficiency: float


A100 = Calibration(0.73, 0.79, 0.57, 35e-6, 1.5, 0.275)
H100 = Calibration(0.73, 0.95, 0.64, 36e-6, 1.3, 0.35)
A40 = Calibration(0.80, 0.75, 0.59, 0.0, 1.6, 0.30)
# Activation efficiency and overhead are the means of the three fits.
DEFAULT = Calibration(0.73, 0.80, 0.60, 24e-6, 1.5, 0.30)

# A800 and H200 are the same dies as A100 and H100 with other links or memory.
_BY_CHIP: Mapping[str, Calibration] = {
    "a100": A100,
    "a800": A100,
    "h100": H100,
    "h200": H100,
    "a40": A40,
}


def calibration(accelerator_key: str) -> Calibration:
    """The constants for a key of the accelerator catalogue, which begins with the chip's name."""
    return _BY_CHIP.get(accelerator_key.partition("-")[0], DEFAULT)
