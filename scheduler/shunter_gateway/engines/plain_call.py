"""One engine call whose answer is awaited whole: status and body."""

import asyncio
from collections.abc import Mapping

from shunter_gateway.engines.connection import FaultReason
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.streaming import MAX_BODY_BYTES
from shunter_gateway.ports import EngineUnavailable


class _PlainCall:
    """Collects one whole response for a caller that awaits it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._status = 0
        self._body = bytearray()

    def on_response(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            self._set_error(f"the answer exceeds {MAX_BODY_BYTES} bytes")

    def on_complete(self) -> None:
        if not self.future.done():
            self.future.set_result((self._status, bytes(self._body)))

    def on_fault(self, reason: FaultReason, message: str) -> None:
        self._set_error(message)

    def _set_error(self, message: str) -> None:
        if not self.future.done():
            self.future.set_exception(EngineUnavailable(message))


async def plain_call(
    client: HttpClient, address: str, path: str, body: bytes, timeout_s: float = 60.0
) -> tuple[int, bytes]:
    """One POST: status and body. Raises `EngineUnavailable`, for a 5xx too."""
    status, answer = await whole_answer(client, address, path, body, timeout_s)
    if status >= 500:
        raise EngineUnavailable(f"{address}{path}: status {status}")
    return status, answer


async def whole_answer(
    client: HttpClient, address: str, path: str, body: bytes | None, timeout_s: float
) -> tuple[int, bytes]:
    """A POST, or a GET where `body` is None: status, whatever it is, and body. Raises
    `EngineUnavailable`."""
    call = _PlainCall(asyncio.get_running_loop())
    if body is None:
        exchange = client.get(address, path, call)
    else:
        exchange = client.post(address, path, body, call)
    try:
        async with asyncio.timeout(timeout_s):
            return await call.future
    except TimeoutError:
        raise EngineUnavailable(f"{address}{path}: no answer within {timeout_s:g} s") from None
    except EngineUnavailable as error:
        raise EngineUnavailable(f"{address}{path}: {error}") from error
    finally:
        exchange.abort()
