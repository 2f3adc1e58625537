"""The engine's HTTP server: OpenAI and token-level calls in front of a backend."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from shunter_engine.backend import Backend
from shunter_engine.bodies import MAX_BODY_BYTES, read_body
from shunter_engine.errors import ApiError
from shunter_engine.faults import FaultBody, Faults
from shunter_engine.generate_handlers import GenerateHandlers
from shunter_engine.generation import Surroundings, TakeOver, never_taken_over
from shunter_engine.metrics import BackendCollector, EngineMetrics
from shunter_engine.running import RunningCalls
from shunter_engine.text_handlers import Embedder, TextHandlers
from shunter_text.tokenizer import Tokenizer

# Long enough to end responses, short enough that a stopped engine does not linger.
SHUTDOWN_S = 0.5

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class EngineParts:
    """A loaded engine. `embedder` is None where the backend has no embeddings."""

    backend: Backend
    tokenizer: Tokenizer
    embedder: Embedder | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    parts: EngineParts
    generate: GenerateHandlers
    text: TextHandlers
    faults: Faults


class EngineServer:
    """Listens from the start; serves once `load` was called. `now_s` is a monotonic clock."""

    def __init__(
        self,
        model_name: str,
        default_seed: int = 0,
        allow_faults: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model_name = model_name
        self.registry = CollectorRegistry()
        self.calls = RunningCalls()
        self._metrics = EngineMetrics(self.registry, model_name)
        self._default_seed = default_seed
        self._allow_faults = allow_faults
        self._now_s = now_s
        self._created = int(time.time())
        self._loaded: _Loaded | None = None
        self._log = structlog.get_logger("shunter.engine")

    def load(self, parts: EngineParts, take_over: TakeOver = never_taken_over) -> None:
        """The backend has started: from here on requests are served."""
        faults = Faults(parts.backend, self._now_s)
        around = Surroundings(
            parts.backend,
            parts.tokenizer,
            self._metrics,
            self._now_s,
            faults.on_token,
            take_over,
        )
        self._loaded = _Loaded(
            parts,
            GenerateHandlers(around, self.calls, faults, self.model_name, self._default_seed),
            TextHandlers(self.model_name, parts.backend, parts.tokenizer, parts.embedder),
            faults,
        )
        config = {"enable_prefix_caching": "True"}
        self.registry.register(BackendCollector(parts.backend.stats, self.model_name, config))

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        router = app.router
        router.add_get("/health", self._health)
        router.add_get("/metrics", self._scrape)
        for path, pick in _CALLS.items():
            router.add_post(path, self._when_loaded(pick))
        router.add_get("/v1/models", self._when_loaded(lambda _: self._models))
        if self._allow_faults:
            router.add_post("/faults", self._when_loaded(lambda _: self._fault))
        return app

    def _when_loaded(self, pick: Callable[[_Loaded], Handler]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            return await pick(self._need_loaded())(request)

        return handler

    def _need_loaded(self) -> _Loaded:
        if self._loaded is None:
            raise ApiError(503, "the model is still loading", retry_after_s=1)
        return self._loaded

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The outermost place: every error becomes an answer in OpenAI's shape."""
        try:
            return await handler(request)
        except ApiError as error:
            return _error_response(error)
        except web.HTTPException as error:
            message = f"{request.method} {request.path}: {error.reason}"
            return _error_response(ApiError(error.status, message))
        except ConnectionError:
            raise  # the client has gone: nobody to answer
        except Exception:
            self._log.exception("request failed", path=request.path)
            self._metrics.internal_errors.inc()
            return _error_response(ApiError(500, "internal error of the engine"))

    async def _models(self, _: web.Request) -> web.StreamResponse:
        model = {
            "id": self.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "shunter",
            "max_model_len": self._need_loaded().parts.backend.context_length,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _health(self, _: web.Request) -> web.StreamResponse:
        if self._loaded is None:
            return web.Response(status=503, text="loading\n")
        return web.Response(status=200)

    async def _scrape(self, _: web.Request) -> web.StreamResponse:
        return web.Response(
            body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _fault(self, request: web.Request) -> web.StreamResponse:
        fault = await read_body(request, FaultBody)
        self._log.warning("fault injected", kind=fault.kind)
        self._need_loaded().faults.apply(fault)
        return web.json_response({"kind": fault.kind})


_CALLS: dict[str, Callable[[_Loaded], Handler]] = {
    "/v1/completions": lambda loaded: loaded.generate.completions,
    "/v1/chat/completions": lambda loaded: loaded.generate.chat,
    "/inference/v1/abort_requests": lambda loaded: loaded.generate.abort,
    "/v1/embeddings": lambda loaded: loaded.text.embeddings,
    "/tokenize": lambda loaded: loaded.text.tokenize,
    "/detokenize": lambda loaded: loaded.text.detokenize,
}


async def listen(server: EngineServer, host: str, port: int) -> web.AppRunner:
    """Starts to listen; end it with `cleanup()`. Raises `OSError` where the port is taken."""
    runner = web.AppRunner(
        server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=4096).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


def _error_response(error: ApiError) -> web.Response:
    headers = {}
    if error.retry_after_s:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return web.Response(
        status=error.status, body=error.body(), content_type="application/json", headers=headers
    )
