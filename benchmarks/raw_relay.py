"""The least that a relay in Python can do: bytes from one socket to the other, nothing looked at.

python benchmarks/raw_relay.py LISTEN_PORT UPSTREAM_PORT
"""

import asyncio
import sys
from typing import Any

import uvloop


class Upstream(asyncio.Protocol):
    def __init__(self, client: "Client") -> None:
        self._client = client

    def connection_made(self, transport: Any) -> None:
        self._client.connected(transport)

    def data_received(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.transport.close()


class Client(asyncio.Protocol):
    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._upstream: Any = None
        self._pending: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(
            loop.create_connection(lambda: Upstream(self), "127.0.0.1", self._upstream_port)
        )

    def connected(self, upstream: Any) -> None:
        self._upstream = upstream
        upstream.write(b"".join(self._pending))

    def data_received(self, data: bytes) -> None:
        if self._upstream is None:
            self._pending.append(data)
        else:
            self._upstream.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._upstream is not None:
            self._upstream.abort()


async def main(port: int, upstream_port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Client(upstream_port), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
