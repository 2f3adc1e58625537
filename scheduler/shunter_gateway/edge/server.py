"""The OpenAI HTTP API on aiohttp's low-level server."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict
from opentelemetry.trace import SpanKind, Tracer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shunter_gateway.edge import errors
from shunter_gateway.edge.answer import JSON_TYPE, Answerer
from shunter_gateway.edge.catalogue import EMBEDDINGS_PATH, embeddings, model_list, one_model
from shunter_gateway.edge.errors import RequestError
from shunter_gateway.edge.identity import caller_of, client_request_id, identify
from shunter_gateway.edge.intake import (
    CHAT_PATH,
    COMPLETION_PATH,
    Intake,
    parse_chat,
    parse_completion,
)
from shunter_gateway.edge.job import Caller, Job, Limits
from shunter_gateway.edge.ports import Models
from shunter_gateway.edge.stream import StreamSettings
from shunter_gateway.edge.watch import Watch
from shunter_gateway.keys import Keys
from shunter_gateway.request import ClientError, RequestRunner
from shunter_gateway.telemetry import GatewayMetrics
from shunter_runtime.tracing import parent_context, traceparent_of

_log = structlog.get_logger(__name__)
MODELS_PATH = "/v1/models"


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    limits: Limits = field(default_factory=Limits)
    stream: StreamSettings = field(default_factory=StreamSettings)
    body_timeout_s: float = 30.0  # for the client to send its whole body
    max_inflight: int = 8192  # requests at once in this process


@dataclass(frozen=True, slots=True)
class EdgeParts:
    """What the edge is built from."""

    runner: RequestRunner
    models: Models
    keys: Keys
    metrics: GatewayMetrics
    tracer: Tracer
    new_id: Callable[[], str]
    ready: Callable[[], bool]


Endpoint = Callable[[web.BaseRequest, Caller, Watch], Awaitable[web.StreamResponse]]


class Edge:
    """Routes, authenticates, answers. `server()` is what listens."""

    def __init__(self, parts: EdgeParts, settings: EdgeSettings) -> None:
        self._parts = parts
        self._settings = settings
        self._intake = Intake(parts.models, settings.limits)
        self._answerer = Answerer(parts.runner, parts.models, settings.stream)
        self._endpoints: dict[tuple[str, str], Endpoint] = {
            ("POST", CHAT_PATH): self._chat,
            ("POST", COMPLETION_PATH): self._completion,
            ("POST", EMBEDDINGS_PATH): self._embeddings,
            ("GET", MODELS_PATH): self._models,
        }
        self.inflight = 0
        self.draining = False
        self._idle = asyncio.Event()

    def server(self) -> web.Server:
        return web.Server(
            self._handle,
            request_factory=self._make_request,
            handler_cancellation=True,
            access_log=None,
        )

    async def drain(self, grace_s: float) -> None:
        """Refuses new requests and waits for those that are being answered, at most `grace_s`."""
        self.draining = True
        self._idle.clear()
        if self.inflight:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._idle.wait()

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        limit = self._settings.limits.max_body_bytes
        loop = asyncio.get_running_loop()
        return web.BaseRequest(
            message, payload, protocol, writer, task, loop, client_max_size=limit
        )

    # ------------------------------------------------------------ every request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        own = self._own_page(request)
        if own is not None:
            return own
        request_id = self._parts.new_id()
        watch = self._watch(request, request_id)
        self.inflight += 1
        try:
            return await self._serve(request, watch)
        except RequestError as error:
            return self._refuse(watch, error.error)
        except web.HTTPRequestEntityTooLarge:
            return self._refuse(
                watch, errors.body_too_large(self._settings.limits.max_body_bytes).error
            )
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            _log.exception("request_failed", request_id=request_id, kind=type(error).__name__)
            return self._refuse(watch, errors.internal())
        finally:
            self.inflight -= 1
            if self.inflight == 0:
                self._idle.set()
            watch.close()

    async def _serve(self, request: web.BaseRequest, watch: Watch) -> web.StreamResponse:
        endpoint = self._route(request)
        if self.draining:
            raise errors.unavailable("This gateway is shutting down.", "shutting_down")
        if self.inflight > self._settings.max_inflight:
            raise errors.overloaded(self._settings.max_inflight)
        key = identify(self._parts.keys, request.headers)
        rule_headers = self._parts.models.rule_headers
        caller = caller_of(watch.request_id, key, request.headers, rule_headers)
        trace_parent = watch.trace_parent or request.headers.get("traceparent", "")
        return await endpoint(request, replace(caller, trace_parent=trace_parent), watch)

    def _watch(self, request: web.BaseRequest, request_id: str) -> Watch:
        span = self._parts.tracer.start_span(
            "gateway.request",
            context=parent_context(request.headers.get("traceparent", "")),
            kind=SpanKind.SERVER,
        )
        if span.is_recording():
            span.set_attribute("url.path", request.path)
            span.set_attribute("http.request.id", client_request_id(request.headers))
        loop = asyncio.get_running_loop()
        watch = Watch(self._parts.metrics, loop, span, request_id)
        watch.trace_parent = traceparent_of(span)
        watch.client_id = client_request_id(request.headers)
        return watch

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

    def _own_page(self, request: web.BaseRequest) -> web.Response | None:
        """Pages that need no key: liveness, readiness and metrics."""
        if request.method not in ("GET", "HEAD"):
            return None
        match request.path:
            case "/health":
                return web.Response(text="ok\n")
            case "/ready":
                fine = self._parts.ready() and not self.draining
                return web.Response(
                    status=200 if fine else 503, text="ready\n" if fine else "not ready\n"
                )
            case "/metrics":
                body = generate_latest(self._parts.metrics.registry)
                return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
        return None

    def _refuse(self, watch: Watch, error: ClientError) -> web.Response:
        watch.code = error.status
        headers = CIMultiDict(_ids(watch))
        headers.update(errors.headers_of(error))
        response = web.Response(status=error.status, body=errors.body_of(error), headers=headers)
        if error.status == 413 or self.draining:
            response.force_close()
        return response

    # ------------------------------------------------------------ endpoints

    async def _chat(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        raw = await self._body(request)
        job = await self._intake.chat(parse_chat(raw), raw, caller, int(time.time()))
        return await self._answer(request, job, watch)

    async def _completion(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        raw = await self._body(request)
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
        raw = await self._body(request)
        watch.model, status, body = await embeddings(self._parts.models, raw)
        watch.code = status
        return web.Response(
            status=status, body=body, headers={**_ids(watch), "Content-Type": JSON_TYPE}
        )

    async def _models(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        return self._json(watch, model_list(self._parts.models))

    async def _one_model(
        self, request: web.BaseRequest, caller: Caller, watch: Watch
    ) -> web.StreamResponse:
        name = request.path.rstrip("/").removeprefix(MODELS_PATH + "/")
        return self._json(watch, one_model(self._parts.models, name))

    def _json(self, watch: Watch, body: bytes) -> web.Response:
        watch.code = 200
        return web.Response(body=body, headers={**_ids(watch), "Content-Type": JSON_TYPE})

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Raises `RequestError` (413, 408)."""
        limit = self._settings.limits.max_body_bytes
        if (request.content_length or 0) > limit:
            raise errors.body_too_large(limit)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                return await request.read()
        except TimeoutError:
            raise errors.body_timeout(self._settings.body_timeout_s) from None


def _ids(watch: Watch) -> dict[str, str]:
    """The gateway's id, and the client's own (else ours again) where OpenAI's clients look."""
    return {
        "x-shunter-request-id": watch.request_id,
        "x-request-id": watch.client_id or watch.request_id,
    }
