"""What `gateway.py` measures: our gateway, and the relays it is compared with."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Ports:
    """Where the load process listens, and where the relay shall."""

    engine: int
    scheduler: int
    listen: int


@dataclass(frozen=True)
class Relay:
    name: str
    text: bool  # re-encodes ids as text
    command: Callable[[Ports, Path], list[str]]
    binary: str = ""  # looked for on PATH; empty: Python
    ready_path: str = ""  # answers 200 once requests can come; empty: it listens
    text_prompt: bool = False  # takes no token ids


def available() -> list[Relay]:
    return [relay for relay in RELAYS if not relay.binary or shutil.which(relay.binary)]


def missing() -> list[str]:
    return [relay.binary for relay in RELAYS if relay.binary and not shutil.which(relay.binary)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(relay: Relay, ports: Ports, folder: Path) -> subprocess.Popen[bytes]:
    """A started relay that accepts connections. Raises `RuntimeError` with its log's end."""
    log = folder / f"{relay.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            relay.command(ports, folder), stdout=output, stderr=output, cwd=folder
        )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if _ready(relay, ports.listen):
            return process
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"{relay.name} did not start:\n{log.read_text()[-2000:]}")


def _ready(relay: Relay, port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            if not relay.ready_path:
                return True
            head = f"GET {relay.ready_path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode())
            return b" 200 " in client.recv(100)
    except OSError:
        return False


def _gateway(ports: Ports, folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "shunter_gateway"),
        *("--scheduler", f"127.0.0.1:{ports.scheduler}"),
        *("--listen", f"127.0.0.1:{ports.listen}", "--grpc-listen", ""),
    ]


def _raw(ports: Ports, folder: Path) -> list[str]:
    return [sys.executable, str(HERE / "raw_relay.py"), str(ports.listen), str(ports.engine)]


def _nginx(ports: Ports, folder: Path) -> list[str]:
    config = folder / "nginx.conf"
    config.write_text(f"""\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  upstream engine {{ server 127.0.0.1:{ports.engine}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{ports.listen} backlog=1024;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
""")
    return ["nginx", "-p", str(folder), "-c", str(config)]


def _envoy(ports: Ports, folder: Path) -> list[str]:
    config = folder / "envoy.yaml"
    manager = (
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
        "HttpConnectionManager"
    )
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    config.write_text(f"""\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {ports.listen}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {manager}
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: engine, timeout: 0s}}}}]
          http_filters:
          - {{name: router, typed_config: {{"@type": {router}}}}}
  clusters:
  - name: engine
    type: STATIC
    connect_timeout: 1s
    circuit_breakers:
      thresholds: [{{max_connections: 8192, max_requests: 8192, max_pending_requests: 8192}}]
    load_assignment:
      cluster_name: engine
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: 127.0.0.1, port_value: {ports.engine}}}}}
""")
    return ["envoy", "-c", str(config), "--concurrency", "1", "--log-level", "error"]


def _sglang(ports: Ports, folder: Path) -> list[str]:
    return [
        *("sglang-router", "launch", "--host", "127.0.0.1", "--port", str(ports.listen)),
        *("--worker-urls", f"http://127.0.0.1:{ports.engine}", "--policy", "round_robin"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
        *("--log-level", "error", "--shutdown-grace-period-secs", "1"),
    ]


RELAYS = (
    Relay("shunter gateway", True, _gateway, ready_path="/ready"),
    Relay("raw asyncio relay", False, _raw),
    Relay("nginx", False, _nginx, "nginx"),
    Relay("envoy", False, _envoy, "envoy"),
    Relay("sglang-router", False, _sglang, "sglang-router", "/readiness", text_prompt=True),
)
