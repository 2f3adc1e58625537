"""Free ports of this machine."""

import socket
from contextlib import ExitStack

from shunter.failure import Failure


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that were free together a moment ago, chosen by the system."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(_family(host))) for _ in range(count)]
        for sock in sockets:
            sock.bind((host, 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def port_or_free(host: str, port: int, option: str) -> int:
    """`port`, or a free one for 0. Raises `Failure` where it is taken."""
    if port == 0:
        return free_ports(1, host)[0]
    with socket.socket(_family(host)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise Failure(
                f"cannot listen on {host}:{port}: {error.strerror}",
                f"give another port with {option}, or {option} 0 for any free one",
            ) from error
    return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
