"""The OpenAI HTTP API on aiohttp's low-level server."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict
from prometheus_client import CONTENT_TYPE_LATEST

from shunter_gateway.edge import errors
from shunter_gateway.edge.answer import JSON_TYPE, Answerer
from shunter_gateway.edge.catalogue import EMBEDDINGS_PATH, embeddings, model_list, one_model
from shunter_gateway.edge.errors import RequestError
from shunter_gateway.edge.front import Front
from shunter_gateway.edge.intake import CHAT_PATH, COMPLETION_PATH, parse_chat, parse_completion
from shunter_gateway.edge.job import Caller, Job
from shunter_gateway.edge.watch import Watch
from shunter_gateway.request import ClientError

_log = structlog.get_logger(__name__)
MODELS_PATH = "/v1/models"

Endpoint = Callable[[web.BaseRequest, Caller, Watch], Awaitable[web.StreamResponse]]


class HttpEdge:
    """Routes and answers. `server()` is what listens."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._intake = front.intake
        self._models = front.parts.models
        self._limits = front.settings.limits
        self._answerer = Answerer(front.parts.runner, self._models, front.settings.stream)
        self._endpoints: dict[tuple[str, str], Endpoint] = {
            ("POST", CHAT_PATH): self._chat,
            ("POST", COMPLETION_PATH): self._completion,
            ("POST", EMBEDDINGS_PATH): self._embeddings,
            ("GET", MODELS_PATH): self._list_models,
        }

    def server(self) -> web.Server:
        return web.Server(
            self._handle,
            request_factory=self._make_request,
            handler_cancellation=True,
            access_log=None,
        )

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop)

    # ------------------------------------------------------------ every request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        own = await self._own_page(request)
        if own is not None:
            return own
        with self._front.serving(request.headers, request.path) as watch:
            try:
                endpoint = self._route(request)
                caller = self._front.admit(request.headers, watch)
                return await endpoint(request, caller, watch)
            except RequestError as error:
                return self._refuse(watch, error.error)
            except ConnectionError:
                raise
            except Exception as error:
                _log.error("request_failed", request_id=watch.request_id, kind=_kind(error))
                return self._refuse(watch, errors.internal())

    def _route(self, request: web.BaseRequest) -> Endpoint:
        path = request.path.rstrip("/")
        endpoint = self._endpoints.get((request.method, path))
        if endpoint is not None:
            return endpoint
        if request.method == "GET" and path.startswith(MODELS_PATH + "/"):
            return self._one_model
        if any(path == known for _, known in self._endpoints):
            raise errors.method_not_allowed(request.method, path)
        raise errors.not_found(request.method, path)

    async def _own_page(self, request: web.BaseRequest) -> web.Response | None:
        """Pages that need no key: liveness, readiness and metrics."""
        if request.method not in ("GET", "HEAD"):
            return None
        match request.path:
            case "/health":
                return web.Response(text="ok\n")
            case "/ready":
                fine = self._front.ready()
                text = "ready\n" if fine else "not ready\n"
                return web.Response(status=200 if fine else 503, text=text)
            case "/metrics":
                body = await self._front.parts.metrics_page()
                return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
        return None

    def _refuse(self, watch: Watch, error: ClientError) -> web.Response:
        watch.code = error.status
        headers = CIMultiDict(_ids(watch))
        headers.update(errors.headers_of(error))
        response = web.Response(status=error.status, body=errors.body_of(error), headers=headers)
        if error.status == 413 or self._front.draining:
            response.force_close()
        return response

    # ------------------------------------------------------------ endpoints

    async def _chat(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        raw = await self._body(request, watch)
        job = await self._intake.chat(parse_chat(raw), raw, caller, int(time.time()))
        return await self._answer(request, job, watch)

    async def _completion(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        raw = await self._body(request, watch)
        job = await self._intake.completion(parse_completion(raw), raw, caller, int(time.time()))
        return await self._answer(request, job, watch)

    async def _answer(self, request: web.BaseRequest, job: Job, watch: Watch) -> web.StreamResponse:
        watch.model = job.shape.model
        if job.shape.stream:
            return await self._answerer.streamed(request, job, watch, _ids(watch))
        return await self._answerer.whole(job, watch, _ids(watch))

    async def _embeddings(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        raw = await self._body(request, watch)
        watch.model, status, body = await embeddings(self._models, raw)
        watch.code = status
        return web.Response(
            status=status, body=body, headers={**_ids(watch), "Content-Type": JSON_TYPE}
        )

    async def _list_models(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        return self._json(watch, model_list(self._models))

    async def _one_model(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        name = request.path.rstrip("/").removeprefix(MODELS_PATH + "/")
        return self._json(watch, one_model(self._models, name))

    def _json(self, watch: Watch, body: bytes) -> web.Response:
        watch.code = 200
        return web.Response(body=body, headers={**_ids(watch), "Content-Type": JSON_TYPE})

    async def _body(self, request: web.BaseRequest, watch: Watch) -> bytes:
        """Raises `RequestError` (413, 408, 429)."""
        limit = self._limits.max_body_bytes
        if (request.content_length or 0) > limit:
            raise errors.body_too_large(limit)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(self._front.settings.body_timeout_s):
                return await self._pieces(request, watch)
        except TimeoutError:
            raise errors.body_timeout(self._front.settings.body_timeout_s) from None

    async def _pieces(self, request: web.BaseRequest, watch: Watch) -> bytes:
        """Counted as they come: who announces much and sends nothing takes no room from others.
        Raises `RequestError` (413, 429)."""
        limit, size = self._limits.max_body_bytes, 0
        pieces = []
        async for piece in request.content.iter_any():
            size += len(piece)
            if size > limit:
                raise errors.body_too_large(limit)
            self._front.count_body(watch, size)
            pieces.append(piece)
        return b"".join(pieces)


def _kind(error: Exception) -> str:
    """Type and place of a fault of ours; its message and its frames' values may hold a prompt."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f" at {frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}" if frame else ""
    return type(error).__name__ + place


def _ids(watch: Watch) -> dict[str, str]:
    """The gateway's id, and the client's own (else ours again) where OpenAI's clients look."""
    return {
        "Server": "shunter",
        "x-shunter-request-id": watch.request_id,
        "x-request-id": watch.client_id or watch.request_id,
    }
