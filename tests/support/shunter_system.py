"""A whole system of real processes for the integration tests: engines, scheduler, gateway."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import yaml

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc

START_S = 90.0  # for imports: a machine that does much else takes half a minute
API = "shunter.dev/v1alpha1"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine process: what it serves, on what it pretends to run, and how fast."""

    name: str
    pool: str = "chat"
    profile: str = "h100"
    accelerator: str = "h100-sxm-80gb"
    backend: str = "simulated"
    model: str = "sim://llama-3.1-8b"
    extra: tuple[str, ...] = ("--speed", "1")
    host: str = "127.0.0.1"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def ledger(scheduler_address: str) -> dict[str, int]:
    """Requests in the scheduler's ledger, by instance."""
    with grpc.insecure_channel(scheduler_address) as channel:
        status = pb_grpc.SchedulerStub(channel).Status(pb.StatusRequest(), timeout=5)
    return {instance.name: instance.running for instance in status.instances}


def pool_document(name: str, specs: Sequence[EngineSpec], **spec: object) -> dict[str, object]:
    """A ModelPool that holds the engines of `specs` that name it."""
    mine = [s for s in specs if s.pool == name]
    profiles = {s.profile: s.accelerator for s in mine}
    body: dict[str, object] = {
        "model": {"source": mine[0].model, "name": name, "contextLength": 8192},
        "engine": {"type": mine[0].backend},
        "profiles": [
            {
                "name": profile,
                "accelerator": accelerator,
                "replicas": {"min": 1, "max": 8},
                "costPerHour": "1.00",
            }
            for profile, accelerator in profiles.items()
        ],
    }
    body.update(spec)
    return {"apiVersion": API, "kind": "ModelPool", "metadata": {"name": name}, "spec": body}


@dataclass
class System:
    """Real processes on loopback; `stop()` ends every one of them."""

    folder: Path
    engines: tuple[EngineSpec, ...]
    documents: list[dict[str, object]] = field(default_factory=list)
    gateway_args: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ("scheduler",)  # with a Lease among the arguments: candidates
    scheduler_args: tuple[str, ...] = ()
    scheduler_source: tuple[str, ...] = ()  # empty: the files that are written here
    environment: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    @property
    def scheduler_address(self) -> str:
        """Of the only scheduler, or of the first."""
        return self.address_of(self.schedulers[0])

    def address_of(self, scheduler: str) -> str:
        return f"127.0.0.1:{self.ports[scheduler]}"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    def start(self) -> None:
        self.config.mkdir(parents=True, exist_ok=True)
        for name in (*self.schedulers, "gateway", "gateway-grpc"):
            self.ports[name] = free_port()
        for spec in self.engines:
            self.start_engine(spec)
        self.write_config()
        for name in self.schedulers:
            self.start_scheduler(name)
        self.spawn(
            "gateway",
            "gateway",
            *("--scheduler", ",".join(self.address_of(name) for name in self.schedulers)),
            *("--listen", f"127.0.0.1:{self.ports['gateway']}"),
            *("--grpc-listen", f"127.0.0.1:{self.ports['gateway-grpc']}"),
            *self.gateway_args,
        )
        for spec in self.engines:
            self.wait_http(f"http://{spec.host}:{self.ports[spec.name]}/health", spec.name)
        self.wait_ready()

    def start_engine(self, spec: EngineSpec) -> None:
        self.ports.setdefault(spec.name, free_port())
        self.spawn(
            spec.name,
            "engine",
            *("--backend", spec.backend, "--model", spec.model, "--served-name", spec.pool),
            *("--accelerator", spec.accelerator, "--port", str(self.ports[spec.name])),
            *("--host", spec.host),
            *("--context-length", "8192", "--allow-faults", *spec.extra),
        )

    def start_scheduler(self, name: str = "scheduler") -> None:
        self.spawn(
            name,
            "scheduler",
            *(self.scheduler_source or ("--config", str(self.config))),
            *("--listen", self.address_of(name), "--metrics-port", "0"),
            *self.scheduler_args,
        )

    def write_config(self) -> None:
        pools = {spec.pool for spec in self.engines}
        named = {str(dict(d["metadata"])["name"]) for d in self.documents}  # type: ignore[call-overload]
        documents = list(self.documents)
        documents += [pool_document(p, self.engines) for p in sorted(pools - named)]
        documents.append(
            {
                "apiVersion": API,
                "kind": "InstanceList",
                "metadata": {"name": "test"},
                "items": [
                    {
                        "name": s.name,
                        "pool": s.pool,
                        "profile": s.profile,
                        "address": f"{s.host}:{self.ports[s.name]}",
                    }
                    for s in self.engines
                ],
            }
        )
        partial = self.folder / "pools.partial"
        partial.write_text(yaml.safe_dump_all(documents))
        os.replace(partial, self.config / "pools.yaml")

    def spawn(self, name: str, *arguments: str) -> None:
        self.spawn_python(name, "-m", "shunter", *arguments)

    def spawn_python(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )

    def kill(self, name: str, with_signal: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(with_signal)
        process.wait(timeout=30)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def wait_http(self, url: str, name: str) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for one, process in list(self.processes.items()):  # it may wait for one that has ended
                if process.poll() is not None:
                    raise RuntimeError(f"{one} ended at start:\n{self.log(one)[-3000:]}")
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(url, timeout=2) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"{name} did not answer {url}:\n{self.log(name)[-3000:]}")

    def wait_ready(self) -> None:
        """Wait until the gateway is ready and the scheduler sees every instance as ready."""
        self.wait_http(f"{self.url}/ready", "gateway")
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for name in self.schedulers:
                with contextlib.suppress(grpc.RpcError):
                    states = [one.state for one in self.status(name).instances]
                    if states == ["ready"] * len(self.engines):
                        return
            time.sleep(0.05)
        logs = "\n".join(self.log(name)[-3000:] for name in self.schedulers)
        raise TimeoutError(f"instances not ready:\n{logs}")

    @contextlib.contextmanager
    def scheduler(self, name: str = "") -> Iterator[pb_grpc.SchedulerStub]:
        with grpc.insecure_channel(self.address_of(name or self.schedulers[0])) as channel:
            yield pb_grpc.SchedulerStub(channel)

    def status(self, scheduler: str = "") -> pb.StatusReply:
        """Of the first scheduler where none is named."""
        with self.scheduler(scheduler) as stub:
            return stub.Status(pb.StatusRequest(), timeout=5)

    def running(self) -> dict[str, int]:
        return ledger(self.scheduler_address)

    def wait_idle(self, timeout_s: float = 10.0) -> pb.StatusReply:
        """Wait until the ledger is empty."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            status = self.status()
            if not any(i.running or i.ledger_tokens for i in status.instances):
                return status
            time.sleep(0.05)
        raise TimeoutError(f"ledger not empty: {self.status()}")

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)
        self.processes.clear()
