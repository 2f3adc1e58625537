"""Real vLLM servers on a tiny model, from an environment of their own ($SHUNTER_VLLM_PYTHON).

vLLM is no dependency: it brings 2.7 GB and pins what it needs. `make test-vllm` installs it.
"""

import contextlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from healthy import wait_until_healthy
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.service.engine_metrics import parse_metrics
from shunter_system import free_port
from tiny_llama import LlamaShape, write_tiny_llama

PYTHON = os.environ.get("SHUNTER_VLLM_PYTHON", "")
MISSING = "needs $SHUNTER_VLLM_PYTHON, a Python that has vLLM: make test-vllm"
START_S = 600.0  # 30 s of CPU; on a crowded machine many times that
BLOCK_TOKENS = 32  # vLLM on a CPU takes multiples of it only
_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": f"{_ROOT / 'scheduler'}{os.pathsep}{_ROOT / 'proto'}",
}


@dataclass(frozen=True, slots=True)
class VllmOptions:
    shape: LlamaShape = field(default_factory=LlamaShape)
    connector: bool = True
    arguments: tuple[str, ...] = ()


@dataclass(slots=True)
class VllmServer:
    process: "subprocess.Popen[bytes]"
    address: str
    store: Path  # of blocks that have come, or go

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """With its engine and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def page(self) -> str:
        """Its metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            return str(answer.read(), "utf-8")

    def prompt_tokens(self, source: str) -> float:
        """Since its start, by where they came from: `local_compute`, `external_kv_transfer`."""
        found = (line.rpartition(" ") for line in self.page().splitlines())
        name = "vllm:prompt_tokens_by_source_total{"
        return sum(
            float(value)
            for labels, _, value in found
            if labels.startswith(name) and f'source="{source}"' in labels
        )

    def blocks(self) -> list[Path]:
        return sorted(self.store.iterdir()) if self.store.exists() else []


@contextlib.contextmanager
def vllm_servers(
    folder: Path, names: Iterable[str], options: VllmOptions | None = None
) -> Iterator[dict[str, VllmServer]]:
    """By name, once they are healthy. `folder` holds their model, logs and stores."""
    options = options or VllmOptions()
    model = folder / "model"
    write_tiny_llama(model, options.shape)
    servers: dict[str, VllmServer] = {}
    try:
        for name in names:
            servers[name] = _start(folder, name, options)
        for name, server in servers.items():
            wait_until_healthy(server.process, server.url, folder / f"{name}.log", START_S)
        yield servers
    finally:
        for server in servers.values():
            with contextlib.suppress(ProcessLookupError):
                server.kill()
            server.process.wait(10)


def _start(folder: Path, name: str, options: VllmOptions) -> VllmServer:
    port, moves_port = free_port(), free_port()
    command = [
        *(PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "chat"),
        *("--dtype", "float32", "--block-size", str(BLOCK_TOKENS), "--enforce-eager"),
        *("--max-model-len", str(options.shape.context_length), "--max-num-seqs", "16"),
        *options.arguments,
    ]
    if options.connector:
        command += ["--kv-transfer-config", json.dumps(_connector(folder / "kv", moves_port))]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,
        )
    return VllmServer(process, f"127.0.0.1:{port}", folder / "kv" / str(moves_port))


def _connector(store: Path, port: int) -> dict[str, object]:
    return {
        "kv_connector": "ShunterConnector",
        "kv_connector_module_path": "shunter_vllm.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"port": port, "host": "127.0.0.1", "folder": str(store)},
    }


def vllm_topology(servers: Mapping[str, VllmServer], folder: Path) -> pb.Topology:
    """As the scheduler makes it of what the servers publish."""
    model = f"file://{folder / 'model'}"
    pool = pb.Topology.Pool(
        name="chat",
        model_names=["chat"],
        model_source=model,
        revision=model,
        engine_type="vllm",
        context_length=LlamaShape().context_length,
        max_retries=5,
    )
    instances = []
    for name, server in servers.items():
        seen = parse_metrics(server.page())
        host = server.address.rpartition(":")[0]
        instances.append(
            pb.Topology.Instance(
                name=name,
                pool="chat",
                address=server.address,
                engine_type="vllm",
                kv_transport=seen.kv_transport,
                moves_address=f"{host}:{seen.moves_port}" if seen.kv_transport else "",
            )
        )
    return pb.Topology(version=1, pools=[pool], instances=instances)
