"""The HTTP side: sends one request, times its tokens."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from shunter.bench.records import PlannedRequest, Record
from shunter.bench.sse import EventReader, StreamError, error_message

_ERROR_BODY_BYTES = 2000
_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`url` without `/v1`."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 600.0


class EndpointError(Exception):
    """The endpoint cannot be used at all; `next_step` says what may help."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


class OpenAiClient:
    """One connection pool to one endpoint. Use as an async context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session = aiohttp.ClientSession(
            base_url=endpoint.url,
            headers={**endpoint.headers, "Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                total=endpoint.timeout_s, sock_connect=_CONNECT_TIMEOUT_S
            ),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def model_names(self) -> list[str]:
        """Raises `EndpointError`."""
        url = self._endpoint.url
        try:
            async with self._session.get("/v1/models", timeout=_models_timeout()) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            remedy = "start one with `shunter up`, or give --url"
            raise EndpointError(f"no answer from {url}: {_text(error)}", remedy) from error
        if response.status != 200:
            said = f"{url}/v1/models answers {response.status}: {error_message(body)}"
            key = "name the variable that holds your key with --api-key-env"
            raise EndpointError(said, key if response.status in (401, 403) else "check --url")
        try:
            models = msgspec.json.decode(body, type=_Models)
        except msgspec.MsgspecError as error:
            what = f"{url}/v1/models is no list of models: {error}"
            raise EndpointError(what, "check --url") from error
        return [model.id for model in models.data]

    async def send(self, request: PlannedRequest, record: Record, due_at: float) -> None:
        """Fills in `record`; a failure becomes its `error`. `due_at` is on `perf_counter`."""
        try:
            await self._stream(request, record, due_at)
        except StreamError as error:
            record.error, record.detail = error.kind, str(error)
        except TimeoutError:
            record.error, record.detail = "timeout", f"after {self._endpoint.timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            record.error, record.detail = "connection", _text(error)
        record.end_s = perf_counter() - due_at

    async def _stream(self, request: PlannedRequest, record: Record, due_at: float) -> None:
        reader = EventReader()
        async with self._session.post(request.path, data=request.body) as response:
            if response.status != 200:
                body = await response.content.read(_ERROR_BODY_BYTES)
                raise StreamError(f"HTTP {response.status}", error_message(body))
            async for data in response.content.iter_any():
                if tokens := reader.feed(data):
                    _note_tokens(record, perf_counter() - due_at, tokens)
        if not reader.done:
            raise StreamError("truncated stream", f"ended after {record.token_events} token events")
        if reader.usage is not None:
            record.prompt_tokens = reader.usage.prompt_tokens
            record.output_tokens = reader.usage.completion_tokens


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def _note_tokens(record: Record, at_s: float, events: int) -> None:
    if record.last_token_s is None:
        record.first_token_s = at_s
    else:
        record.gaps_s.append(at_s - record.last_token_s)
    # Events that came in one read came at one time.
    record.gaps_s.extend(array("d", bytes(8 * (events - 1))))
    record.last_token_s = at_s
    record.token_events += events


def _models_timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_CONNECT_TIMEOUT_S)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
