"""What one engine process is told at its start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BackendName = Literal["simulated", "numpy"]
ArrayModule = Literal["numpy", "torch"]
DEFAULT_KV_TOKENS = 16384  # 720 MiB for SmolLM2-135M: 30 layers, 3 heads of 64, keys and values

DEFAULT_KV_BANDWIDTH_GB_S = 3.0  # half of 50 Gbit/s, what the scheduler reckons with


@dataclass(frozen=True, slots=True)
class EngineOptions:
    backend: BackendName = "simulated"
    model: str = "sim://llama-3.1-8b"
    served_name: str = ""  # empty: the last part of `model`
    accelerator: str = "h100-sxm-80gb"  # simulated: a key of the catalogue
    tensor_parallel: int = 1
    context_length: int = 8192  # at most the model's own counts
    host: str = "127.0.0.1"
    port: int = 8000  # 0: the system chooses
    port_file: Path | None = None  # gets the bound port once the server listens
    speed: float = 1.0  # simulated: times real time; 0 or inf: without waiting
    allow_faults: bool = False
    deterministic: bool = False  # numpy: logits do not depend on batch mates
    max_num_seqs: int = 256
    max_waiting: int = 1024
    yield_steps: int = 0  # in which lower priorities' answers wait for higher ones' prompts
    block_tokens: int = 16
    kv_tokens: int = DEFAULT_KV_TOKENS  # numpy: tokens that its KV memory holds, taken as used
    blas_threads: int = 1  # numpy: of one matrix product
    array_module: ArrayModule = "numpy"  # numpy: what computes; torch on a GPU where there is one
    kv_events_config: str = ""  # JSON, as vLLM's option of that name; empty: no events
    seed: int = 0  # of requests that bring none
    moves_port: int = -1  # of the gRPC service EngineMoves; 0: any free one; -1: no moves of KV
    max_moves: int = 8  # in and out, at one time
    kv_bandwidth_gb_s: float = DEFAULT_KV_BANDWIDTH_GB_S  # simulated: 10^9 bytes a second
    moves_tls_cert: Path | None = None
    moves_tls_key: Path | None = None
    moves_tls_ca: Path | None = None  # makes clients' certificates mandatory

    @property
    def model_name(self) -> str:
        return self.served_name or self.model.rstrip("/").rpartition("/")[2]
