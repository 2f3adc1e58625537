"""How a gateway process is configured."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from shunter_runtime.tls import TlsFiles


class StartError(Exception):
    """The gateway cannot start with these options; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Address:
    """`host:port`; port 0: the system's choice."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """Addresses are `host:port`; `scheduler` may be several with a comma between. An empty
    `grpc_listen` serves no gRPC."""

    scheduler: str = "127.0.0.1:50051"
    listen: str = "127.0.0.1:8080"
    grpc_listen: str = "127.0.0.1:8081"
    api_keys: Path | None = None
    insecure_open: bool = False  # listen beyond loopback without API keys
    workers: int = 1  # processes that share the ports (SO_REUSEPORT)
    max_body_bytes: int = 8 << 20
    max_inflight: int = 8192  # requests at once, per worker
    max_inflight_bytes: int = 256 << 20  # of their bodies, per worker
    keep_alive_s: float = 5.0  # a stream that says nothing for this long gets a comment
    grace_s: float = 30.0  # for answers to finish at the end
    tls: TlsFiles | None = None  # of both listeners
    scheduler_tls: TlsFiles | None = None
    moves_tls: TlsFiles | None = None  # to where engines serve moves of KV caches
    slot_folder: Path | None = None  # where llama-servers save slots, as it is mounted here
    log_level: str = "info"
    worker_dir: Path | None = None  # where workers meet; set by their parent

    @property
    def http_address(self) -> Address:
        return parse_address(self.listen, "--listen")

    @property
    def grpc_address(self) -> Address | None:
        return parse_address(self.grpc_listen, "--grpc-listen") if self.grpc_listen else None

    def check(self) -> None:
        """Raises `StartError`."""
        addresses = [("--listen", self.http_address)]
        if self.grpc_address is not None:
            addresses.append(("--grpc-listen", self.grpc_address))
        for scheduler in self.scheduler.split(","):
            parse_address(scheduler, "--scheduler")
        for flag, address in addresses:
            if not (address.is_loopback or self.api_keys or self.insecure_open):
                raise StartError(
                    f"{flag} {address} is open to the network and no API keys are given: give "
                    "--api-keys FILE, or --insecure-open where something in front of the gateway "
                    "authenticates"
                )
            if self.workers > 1 and address.port == 0:
                raise StartError(f"{flag}: several workers share a port, so it cannot be 0")
        if self.slot_folder is not None and not self.slot_folder.is_dir():
            raise StartError(
                f"--slot-folder {self.slot_folder}: no such folder; give the one that "
                "llama-servers have as --slot-save-path, or leave the option out"
            )
        if self.workers < 1:
            raise StartError(f"--workers {self.workers}: at least 1")
        if self.max_body_bytes < 1024:
            raise StartError(f"--max-body-bytes {self.max_body_bytes}: at least 1024")
        if self.keep_alive_s <= 0:
            raise StartError(f"--keep-alive {self.keep_alive_s:g}: more than 0")
        if self.max_inflight_bytes < self.max_body_bytes:
            raise StartError(
                f"--max-inflight-bytes {self.max_inflight_bytes}: at least --max-body-bytes, "
                f"{self.max_body_bytes}"
            )


def parse_address(text: str, flag: str) -> Address:
    """Raises `StartError`."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit():
        raise StartError(f"{flag} {text!r} is not host:port")
    if int(port) > 65535:
        raise StartError(f"{flag} {text!r}: a port is at most 65535")
    return Address(host.strip("[]"), int(port))
