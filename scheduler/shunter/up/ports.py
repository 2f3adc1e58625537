"""Free ports of this machine."""

import errno
import socket

from shunter.failure import Failure


class Ports:
    """Hands out each port once: what it gave is not listened on yet, so the system might give it
    again."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def free(self, host: str = "127.0.0.1") -> int:
        """A port that was free a moment ago, chosen by the system."""
        while (port := _bound(host, 0)) in self._given:
            pass
        self._given.add(port)
        return port

    def wanted(self, host: str, port: int, option: str) -> int:
        """`port`, or a free one for 0. Raises `Failure` where it is taken, and for a host that is
        not this machine's."""
        try:
            if port == 0:
                return self.free(host)
            self._given.add(_bound(host, port))
        except OSError as error:
            remedy = f"give another port with {option}, or {option} 0 for any free one"
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                remedy = "--host is an address of this machine; 0.0.0.0 means all of them"
            where = join_address(host, port)
            raise Failure(f"cannot listen on {where}: {error.strerror}", remedy) from error
        return port


def join_address(host: str, port: int) -> str:
    """`host:port`, `[host]:port` for IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound(host: str, port: int) -> int:
    """The port that a listener there would get. Raises `OSError`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        return int(sock.getsockname()[1])
