"""`Inference.Generate`: the same requests over gRPC, run by the same lifecycle."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import msgspec
import structlog

from shunter_gateway.edge import errors
from shunter_gateway.edge.errors import RequestError
from shunter_gateway.edge.front import Front
from shunter_gateway.edge.intake import CHAT_PATH, COMPLETION_PATH, parse_chat, parse_completion
from shunter_gateway.edge.job import Caller, Job
from shunter_gateway.edge.watch import Watch
from shunter_gateway.request import ClientError, Delta, Outcome, RequestHandle
from shunter_proto.v1 import inference_pb2 as pb
from shunter_proto.v1 import inference_pb2_grpc as pb_grpc

_log = structlog.get_logger(__name__)
_PATH = "/shunter.v1.Inference/Generate"
_PAUSE_AT = 256  # replies that the client has not taken yet
_CODES: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_OPTIONAL = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")

Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateReply]


class InferenceService(pb_grpc.InferenceServicer):
    """Cancelling the call aborts the engine's work."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateReply]:
        headers = _headers(context)
        if request.deadline_in_ms:  # counts as the header does: from keys that may set it
            headers["x-shunter-deadline-ms"] = str(request.deadline_in_ms)
        with self._front.serving(headers, _PATH) as watch:
            try:
                caller = self._front.admit(headers, watch)
                self._front.count_body(watch, request.ByteSize())
                job = await self._job(request, caller)
                watch.model = job.shape.model
                async for reply in self._replies(job, watch):
                    yield reply
            except RequestError as error:
                await _abort(context, watch, error.error)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                kind = type(error).__name__
                _log.error("request_failed", request_id=watch.request_id, kind=kind)
                await _abort(context, watch, errors.internal())

    async def _job(self, request: pb.GenerateRequest, caller: Caller) -> Job:
        """Through the very JSON that HTTP clients send: one set of rules for both."""
        body, path = _body_of(request)
        raw = msgspec.json.encode(body)
        now = int(time.time())
        if path == CHAT_PATH:
            return await self._front.intake.chat(parse_chat(raw), raw, caller, now)
        completion = parse_completion(raw)
        return await self._front.intake.completion(completion, raw, caller, now, default_tokens=0)

    async def _replies(self, job: Job, watch: Watch) -> AsyncIterator[pb.GenerateReply]:
        queue = ReplyQueue(job, watch, self._front.settings.stream.stall_timeout_s)
        handle = self._front.parts.runner.submit(job.specs[0], queue)
        queue.handle = handle
        try:
            async for reply in queue.replies():
                yield reply
        finally:
            if watch.outcomes == ():
                handle.cancel()
        if queue.error is not None:
            raise RequestError(queue.error)
        watch.code = 200


class ReplyQueue:
    """A `ClientSink` whose deltas are taken by the call's own task; bounded by pausing.

    A client that takes nothing for `stall_timeout_s` loses its engine's slot, and then its call.
    """

    def __init__(self, job: Job, watch: Watch, stall_timeout_s: float) -> None:
        self.error: ClientError | None = None
        self.handle: RequestHandle | None = None
        self._shape = job.shape
        self._watch = watch
        self._queue: deque[pb.GenerateReply] = deque()
        self._ended = False
        self._paused = False
        self._stall_timeout_s = stall_timeout_s
        self._loop = asyncio.get_running_loop()
        self._stalled: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._first = True

    def on_assigned(self, instance: str, pool: str) -> None:
        self._watch.on_assigned(instance, pool)

    def on_delta(self, delta: Delta) -> None:
        self._watch.on_first_delta()
        text = _raw_text(delta.raw) if delta.raw else delta.text
        ids = delta.token_ids if self._shape.token_ids else ()
        if text or ids:
            self._put(pb.GenerateReply(text=text, token_ids=ids))

    def on_done(self, outcome: Outcome) -> None:
        self._watch.outcomes = (outcome,)
        usage = pb.Usage(
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.output_tokens,
            cached_tokens=outcome.cached_tokens,
        )
        self._ended = True
        self._put(pb.GenerateReply(finish_reason=outcome.finish_reason, usage=usage))

    def on_error(self, error: ClientError) -> None:
        self.error = error
        self._ended = True
        self._wake.set()

    async def replies(self) -> AsyncIterator[pb.GenerateReply]:
        try:
            async for reply in self._taken():
                yield reply
        finally:
            self._end_stall()

    async def _taken(self) -> AsyncIterator[pb.GenerateReply]:
        while True:
            while self._queue:
                yield self._queue.popleft()
                self._restart_stall()
            self._end_stall()
            if self._paused and self.handle is not None:
                self._paused = False
                self.handle.resume()
            if self._ended and not self._queue:
                return
            self._wake.clear()
            await self._wake.wait()

    def _put(self, reply: pb.GenerateReply) -> None:
        if self._first:
            self._first = False
            reply.request_id = self._watch.request_id
        self._queue.append(reply)
        if len(self._queue) >= _PAUSE_AT and not self._paused and self.handle is not None:
            self._paused = True
            self._watch.on_pause()
            self.handle.pause()
            self._restart_stall()
        self._wake.set()

    def _restart_stall(self) -> None:
        """The clock of a paused stream runs from the last reply that the client took."""
        self._end_stall()
        if self._paused:
            self._stalled = self._loop.call_later(self._stall_timeout_s, self._give_up)

    def _end_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        if self.handle is not None:
            self.handle.cancel()
        self._queue.clear()
        message = f"Nothing was read for {self._stall_timeout_s:g} s."
        self.on_error(ClientError(408, message, "timeout_error", "client_stalled"))


def _body_of(request: pb.GenerateRequest) -> tuple[dict[str, Any], str]:
    """The JSON body of the same request. Raises `RequestError` (400)."""
    body: dict[str, Any] = {"model": request.model, "stream": True}
    if request.return_token_ids:
        body["return_token_ids"] = True
    body.update(_sampling(request.sampling))
    match request.WhichOneof("input"):
        case "chat":
            messages = [{"role": m.role, "content": m.content} for m in request.chat.messages]
            return {**body, "messages": messages}, CHAT_PATH
        case "prompt":
            body["prompt"] = request.prompt
        case "prompt_token_ids":
            body["prompt"] = list(request.prompt_token_ids.ids)
        case None:
            raise errors.invalid(
                "One of `prompt`, `prompt_token_ids` and `chat` is needed.", "input"
            )
    return body, COMPLETION_PATH


def _sampling(sampling: pb.SamplingParams) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in _OPTIONAL:
        if sampling.HasField(name):  # type: ignore[arg-type]
            value = getattr(sampling, name)
            # A proto float has 24 bits of mantissa: 0.7 arrives as 0.699999988.
            fields[name] = round(value, 6) if isinstance(value, float) else value
    if sampling.max_tokens:
        fields["max_tokens"] = sampling.max_tokens
    if sampling.min_tokens:
        fields["min_tokens"] = sampling.min_tokens
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.ignore_eos:
        fields["ignore_eos"] = True
    return fields


def _headers(context: Context) -> dict[str, str]:
    metadata = context.invocation_metadata() or ()
    return {key: value for key, value in metadata if isinstance(value, str)}


async def _abort(context: Context, watch: Watch, error: ClientError) -> None:
    watch.code = error.status
    trailers: list[tuple[str, str]] = [("x-shunter-request-id", watch.request_id)]
    if error.param:
        trailers.append(("x-shunter-param", error.param))
    retry_after = errors.headers_of(error).get("Retry-After")
    if retry_after:
        trailers.append(("retry-after", retry_after))
    code = _CODES.get(error.status, grpc.StatusCode.INTERNAL)
    await context.abort(code, error.message, tuple(trailers))


class _Piece(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Piece | None = None
    message: _Piece | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []


_event_decoder = msgspec.json.Decoder(_Event)


def _raw_text(raw: bytes) -> str:
    """The text of a text-level engine's own event; its first choice is all that gRPC asks for."""
    try:
        choices = _event_decoder.decode(raw).choices
    except msgspec.DecodeError:
        return ""
    if not choices:
        return ""
    piece = choices[0].delta or choices[0].message
    return choices[0].text or (piece.content if piece is not None else None) or ""
