"""Free ports of this machine."""

import socket

from shunter.failure import Failure


class Ports:
    """Hands out each port once: what it gave is not listened on yet, so the system might give it
    again."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def free(self, host: str = "127.0.0.1") -> int:
        """A port that was free a moment ago, chosen by the system."""
        while True:
            with socket.socket(_family(host)) as sock:
                sock.bind((host, 0))
                port = int(sock.getsockname()[1])
            if port not in self._given:
                self._given.add(port)
                return port

    def wanted(self, host: str, port: int, option: str) -> int:
        """`port`, or a free one for 0. Raises `Failure` where it is taken."""
        if port == 0:
            return self.free(host)
        with socket.socket(_family(host)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
            except OSError as error:
                raise Failure(
                    f"cannot listen on {host}:{port}: {error.strerror}",
                    f"give another port with {option}, or {option} 0 for any free one",
                ) from error
        self._given.add(port)
        return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
