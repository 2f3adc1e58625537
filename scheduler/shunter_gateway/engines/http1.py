"""HTTP/1.1 to engines: a small client on `asyncio.Protocol` for streamed answers.

Bytes go from the socket's `data_received` to the caller's handler without a task switch. Idle
connections are kept per address, the last used first. All deadlines are kept by one sweep.
"""

import asyncio
import contextlib

from shunter_gateway.engines.connection import Connection, Exchange, HttpLimits, ResponseHandler

_HEAD = "host: {}\r\nuser-agent: shunter\r\n"


class HttpClient:
    """All engine calls of one gateway. Use inside its event loop; end it with `close()`."""

    def __init__(self, limits: HttpLimits | None = None) -> None:
        self.limits = limits or HttpLimits()
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._idle: dict[str, list[Connection]] = {}
        self._active: set[Exchange] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._prepared: set[str] = set()  # addresses to which one is under way
        self._sweeper = self._loop.call_later(self.limits.sweep_s, self._sweep)
        self._closed = False

    def post(
        self,
        address: str,
        path: str,
        body: bytes,
        handler: ResponseHandler,
        trace_parent: str = "",
        first_byte_s: float = 0.0,
    ) -> Exchange:
        """Starts a POST; the handler hears all that follows, never before this returns."""
        payload = _request_bytes(address, path, body, trace_parent)
        return self._send(address, payload, handler, first_byte_s or self.limits.first_byte_s)

    def get(self, address: str, path: str, handler: ResponseHandler) -> Exchange:
        """Starts a GET, as `post` does."""
        payload = f"GET {path} HTTP/1.1\r\n{_HEAD.format(address)}\r\n".encode("latin-1", "replace")
        return self._send(address, payload, handler, self.limits.first_byte_s)

    def _send(
        self, address: str, payload: bytes, handler: ResponseHandler, first_byte_s: float
    ) -> Exchange:
        exchange = Exchange(self, address, payload, handler, first_byte_s)
        self._active.add(exchange)
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if not connection.closing:
                connection.send(exchange)
                return exchange
        self.reconnect(exchange)
        return exchange

    def prepare(self, address: str) -> None:
        """A call there is to come soon: has a connection ready for it, where none is idle."""
        if self._closed or self._idle.get(address) or address in self._prepared:
            return
        self._prepared.add(address)
        task = self._loop.create_task(self._prepare(address))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    @property
    def active(self) -> int:
        return len(self._active)

    async def close(self) -> None:
        self._closed = True
        self._sweeper.cancel()
        for exchange in list(self._active):
            exchange.abort()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connections in list(self._idle.values()):
            for connection in list(connections):
                connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # transports end their sockets in the next turn of the loop

    # ------------------------------------------------------------ for exchanges and connections

    def forget(self, exchange: Exchange) -> None:
        self._active.discard(exchange)

    def reconnect(self, exchange: Exchange) -> None:
        task = self._loop.create_task(self._connect(exchange))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def release(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.address, [])
        if self._closed or len(idle) >= self.limits.idle_connections_per_address:
            connection.close()
            return
        connection.idle_since = self.time()
        connection.resume()
        idle.append(connection)

    def lost(self, connection: Connection) -> None:
        idle = self._idle.get(connection.address)
        if idle is None:
            return
        with contextlib.suppress(ValueError):
            idle.remove(connection)
        if not idle:
            del self._idle[connection.address]

    async def _connection(self, address: str) -> Connection:
        """Raises `TimeoutError`, `OSError` and, for a host name that is none, `ValueError`."""
        host, port = split_address(address)
        async with asyncio.timeout(self.limits.connect_s):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self, address), host, port
            )
        return connection

    async def _prepare(self, address: str) -> None:
        try:
            with contextlib.suppress(OSError, ValueError):  # the call itself will tell
                connection = await self._connection(address)
                connection.used = True  # idle from now on: the engine may close it
                self.release(connection)
        finally:
            self._prepared.discard(address)

    async def _connect(self, exchange: Exchange) -> None:
        try:
            connection = await self._connection(exchange.address)
        except TimeoutError:
            exchange.fail("timeout", f"no connection within {self.limits.connect_s:g} s")
            return
        except (OSError, ValueError) as error:
            exchange.fail("connection", f"cannot connect: {error}")
            return
        if exchange.handler is None:
            connection.close()
        elif connection.closing:
            exchange.fail("connection", "connection lost at once")
        else:
            connection.send(exchange)

    def _sweep(self) -> None:
        now = self.time()
        limits = self.limits
        for exchange in list(self._active):
            if why := exchange.overdue(now, limits.idle_s):
                exchange.fail("timeout", f"the engine was {why}")
        stale = now - limits.keep_alive_s
        for connections in list(self._idle.values()):
            for connection in list(connections):
                if connection.idle_since < stale:
                    connection.close()
        self._sweeper = self._loop.call_later(limits.sweep_s, self._sweep)


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`. Raises `OSError` for anything else, as connecting would."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise OSError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def _request_bytes(address: str, path: str, body: bytes, trace_parent: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\n{_HEAD.format(address)}"
        f"content-type: application/json\r\naccept: text/event-stream, application/json\r\n"
        f"content-length: {len(body)}\r\n"
    )
    if trace_parent and trace_parent.isprintable():
        head += f"traceparent: {trace_parent}\r\n"
    return head.encode("latin-1", "replace") + b"\r\n" + body
