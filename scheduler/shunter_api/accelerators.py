"""The accelerator catalogue: what the data sheets say about each GPU."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device. `link_gb_s` is the bandwidth to its neighbours, both directions together, as
    data sheets state it (NVLink, Infinity Fabric, else PCIe)."""

    key: str
    name: str
    memory_gib: float
    bf16_tflops: float  # dense, without sparsity
    memory_gb_s: float
    link_gb_s: float
    source: str


class UnknownAccelerator(ValueError):
    """The catalogue has no such key; the message names the nearest ones."""


_CATALOGUE = (
    Accelerator(
        "h100-sxm-80gb",
        "NVIDIA H100 SXM 80GB",
        80,
        989.4,
        3350,
        900,
        "NVIDIA H100 Tensor Core GPU data sheet",
    ),
    Accelerator(
        "h100-pcie-80gb",
        "NVIDIA H100 PCIe 80GB",
        80,
        756,
        2000,
        600,
        "NVIDIA H100 PCIe GPU product brief",
    ),
    Accelerator(
        "h200-141gb",
        "NVIDIA H200 SXM 141GB",
        141,
        989.4,
        4800,
        900,
        "NVIDIA H200 Tensor Core GPU data sheet",
    ),
    Accelerator(
        "a100-80gb",
        "NVIDIA A100 SXM 80GB",
        80,
        312,
        2039,
        600,
        "NVIDIA A100 Tensor Core GPU data sheet",
    ),
    Accelerator(
        "a100-40gb",
        "NVIDIA A100 SXM 40GB",
        40,
        312,
        1555,
        600,
        "NVIDIA A100 Tensor Core GPU data sheet",
    ),
    Accelerator(
        "a800-80gb",
        "NVIDIA A800 SXM 80GB",
        80,
        312,
        2039,
        400,
        "NVIDIA A800 Tensor Core GPU data sheet",
    ),
    Accelerator("l40-48gb", "NVIDIA L40 48GB", 48, 181.05, 864, 64, "NVIDIA L40 GPU data sheet"),
    Accelerator("l40s-48gb", "NVIDIA L40S 48GB", 48, 362.05, 864, 64, "NVIDIA L40S GPU data sheet"),
    Accelerator(
        "l4-24gb", "NVIDIA L4 24GB", 24, 121, 300, 64, "NVIDIA L4 Tensor Core GPU data sheet"
    ),
    Accelerator(
        "a10-24gb",
        "NVIDIA A10 24GB",
        24,
        125,
        600,
        64,
        "NVIDIA A10 Tensor Core GPU data sheet",
    ),
    Accelerator("a40-48gb", "NVIDIA A40 48GB", 48, 149.7, 696, 112.5, "NVIDIA A40 GPU data sheet"),
    Accelerator(
        "a6000-48gb",
        "NVIDIA RTX A6000 48GB",
        48,
        154.85,
        768,
        112.5,
        "NVIDIA RTX A6000 data sheet (309.7 TFLOPS with sparsity, halved)",
    ),
    Accelerator(
        "mi300x-192gb",
        "AMD Instinct MI300X 192GB",
        192,
        1307.4,
        5300,
        896,
        "AMD Instinct MI300X data sheet (7 peer links of 128 GB/s)",
    ),
    Accelerator(
        "cpu",
        "one core of a server CPU",
        8,
        0.113,
        20.6,
        20.6,
        "measured: SmolLM2-135M F16 under llama.cpp, one thread: 420 prompt tokens/s "
        "(x 0.27 GFLOP), 76 output tokens/s (x 271 MB)",
    ),
)

ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType({a.key: a for a in _CATALOGUE})

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "h100": "h100-sxm-80gb",
        "h200": "h200-141gb",
        "a100": "a100-80gb",
        "a800": "a800-80gb",
        "l40": "l40-48gb",
        "l40s": "l40s-48gb",
        "l4": "l4-24gb",
        "a10": "a10-24gb",
        "a40": "a40-48gb",
        "a6000": "a6000-48gb",
        "mi300x": "mi300x-192gb",
    }
)


def accelerator(key: str) -> Accelerator:
    """The catalogue's entry of a key or a short name. Raises `UnknownAccelerator`."""
    found = ACCELERATORS.get(ALIASES.get(key, key))
    if found is None:
        near = difflib.get_close_matches(key.lower(), [*ACCELERATORS, *ALIASES], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else ""
        known = f"known: {', '.join(sorted(ACCELERATORS))}"
        raise UnknownAccelerator(f"unknown accelerator {key!r}; {hint or known}")
    return found
