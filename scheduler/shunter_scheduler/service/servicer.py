"""Every call of `scheduler.proto`, and the one place where errors become gRPC statuses."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_scheduler.domain.decisions import Assign
from shunter_scheduler.domain.events import DrainCancelled
from shunter_scheduler.service.codec import fill_assign, fill_reject, to_request
from shunter_scheduler.service.drain import drain
from shunter_scheduler.service.errors import InvalidArgument, NotFound, ServiceError
from shunter_scheduler.service.leadership import check_leading
from shunter_scheduler.service.parts import Context, Parts
from shunter_scheduler.service.replies import to_advice, to_explanation, to_status
from shunter_scheduler.service.stream import GatewayStream
from shunter_scheduler.service.unary import GATEWAY_ID

DEFAULT_DISPATCH_TIMEOUT_S = 30.0
WATCH_INTERVAL_MS = (100, 60_000)

log = structlog.get_logger(__name__)
Request = TypeVar("Request")
Handler = Callable[["SchedulerService", Request, Context], Awaitable[Any]]


def call(handler: Handler[Request]) -> Handler[Request]:
    """Turns the service's errors into gRPC statuses; anything else is a bug: logged, counted and
    answered without its text, which could quote a request."""

    async def wrapped(self: "SchedulerService", request: Request, context: Context) -> Any:
        try:
            check_leading(self.parts.leadership)
            return await handler(self, request, context)
        except ServiceError as error:
            code, message = error.code, str(error)
        except Exception:
            self.parts.telemetry.internal_errors.labels("call").inc()
            log.exception("scheduler.call_failed", call=handler.__name__)
            code, message = grpc.StatusCode.INTERNAL, "internal error; the scheduler's log has it"
        try:
            # Behind what the peer has not read yet: this ends when it reads, or is gone.
            await context.abort(code, message)
        except grpc.aio.AbortError:
            raise
        except grpc.aio.BaseError:
            log.info("scheduler.status_not_read", call=handler.__name__, code=code.name)

    return wrapped


class SchedulerService(pb_grpc.SchedulerServicer):
    """Streaming calls are coroutines that write, which grpc.aio takes beside generators."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @call
    async def Session(self, _: Any, context: Context) -> None:  # type: ignore[override]
        await GatewayStream(self.parts, context).run()

    @call
    async def Dispatch(self, request: pb.DispatchRequest, context: Context) -> pb.DispatchReply:
        parts = self.parts
        parts.spans.submitted(request.request)
        remaining_s = context.time_remaining()
        outcome = await parts.unary.dispatch(
            to_request(request.request, GATEWAY_ID, parts.driver.clock()),
            DEFAULT_DISPATCH_TIMEOUT_S if remaining_s is None else remaining_s,
        )
        reply = pb.DispatchReply()
        if isinstance(outcome, Assign):
            fill_assign(reply.assign, outcome, parts.view.addresses)
        else:
            fill_reject(reply.reject, outcome)
        return reply

    @call
    async def Complete(self, request: pb.CompleteRequest, _: Context) -> pb.CompleteReply:
        self.parts.unary.complete(request.request_id, request.output_tokens)
        return pb.CompleteReply()

    @call
    async def Explain(self, request: pb.ExplainRequest, _: Context) -> pb.ExplainReply:
        driver = self.parts.driver
        now = driver.clock()
        explanation = driver.core.explain(request.request_id, now)
        if explanation is None:
            what = f"request {request.request_id}" if request.request_id else "any request"
            raise NotFound(f"no record of {what}: it never came here, or its record was dropped")
        return to_explanation(explanation, now)

    @call
    async def Status(self, _: pb.StatusRequest, __: Context) -> pb.StatusReply:
        return self._status()

    @call
    async def Watch(self, request: pb.WatchRequest, context: Context) -> None:  # type: ignore[override]
        interval_ms = request.interval_ms or 1000
        low, high = WATCH_INTERVAL_MS
        if not low <= interval_ms <= high:
            raise InvalidArgument(f"interval_ms is {interval_ms}: 0, or {low} to {high}")
        while True:
            check_leading(self.parts.leadership)
            await context.write(self._status())
            await asyncio.sleep(interval_ms / 1000)

    @call
    async def Drain(self, request: pb.DrainRequest, context: Context) -> None:  # type: ignore[override]
        parts = self.parts
        default_s = parts.view.drain_timeout_s(request.instance)
        timeout_s = request.deadline_ms / 1000 if request.deadline_ms else default_s
        if request.instance not in parts.view.draining:
            parts.view.set_draining(request.instance, True)
            parts.sessions.broadcast(parts.view.message)
            log.info("instance.drain", instance=request.instance, timeout_s=timeout_s)
        try:
            async for progress in drain(parts.driver, request.instance, timeout_s):
                await context.write(progress)
        except NotFound:
            check_leading(parts.leadership)  # no drain outlives leadership
            raise

    @call
    async def Undrain(self, request: pb.UndrainRequest, _: Context) -> pb.UndrainReply:
        parts = self.parts
        parts.view.drain_timeout_s(request.instance)
        parts.driver.tell_now(DrainCancelled(request.instance))
        parts.view.set_draining(request.instance, False)
        parts.sessions.broadcast(parts.view.message)
        log.info("instance.undrain", instance=request.instance)
        return pb.UndrainReply()

    @call
    async def AdviseScaling(
        self, request: pb.AdviseScalingRequest, _: Context
    ) -> pb.AdviseScalingReply:
        driver = self.parts.driver
        pools = {pool.name for pool in self.parts.view.topology.pools}
        if request.pool and request.pool not in pools:
            raise NotFound(f"no pool {request.pool!r}; known: {', '.join(sorted(pools)) or 'none'}")
        return to_advice(driver.core.advise_scaling(request.pool, driver.clock()))

    def _status(self) -> pb.StatusReply:
        parts = self.parts
        status = parts.driver.core.status(parts.driver.clock())
        reply = to_status(status, len(parts.sessions), parts.view.config_error)
        reply.term = parts.leadership.term or 0
        return reply
