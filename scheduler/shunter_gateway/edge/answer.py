"""Runs a job and answers it over HTTP, streamed or whole."""

import asyncio
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from shunter_gateway.edge.collect import Collector
from shunter_gateway.edge.errors import RequestError
from shunter_gateway.edge.job import Job
from shunter_gateway.edge.ports import Models
from shunter_gateway.edge.stream import ClientStalled, EventStream, StreamSettings
from shunter_gateway.edge.watch import Watch
from shunter_gateway.request import RequestHandle, RequestRunner

JSON_TYPE = "application/json"
_SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class Answerer:
    """Submits a job's specs and carries their answer to the client."""

    def __init__(self, runner: RequestRunner, models: Models, settings: StreamSettings) -> None:
        self._runner = runner
        self._models = models
        self._settings = settings

    async def whole(self, job: Job, watch: Watch, headers: Mapping[str, str]) -> web.Response:
        """Raises `RequestError` with the first choice's error."""
        loop = asyncio.get_running_loop()
        collector = Collector(job, watch, loop)
        handles: list[RequestHandle] = []
        try:
            for index, spec in enumerate(job.specs):
                handles.append(self._runner.submit(spec, collector.sink(index)))
            error = await collector.done
        finally:
            watch.outcomes = collector.outcomes()
            if len(watch.outcomes) < len(job.specs):
                for handle in handles:
                    handle.cancel()
        if error is not None:
            raise RequestError(error)
        watch.code = 200
        body = collector.body(partial(self._models.token_bytes, job.model))
        return web.Response(
            body=body, headers={**headers, **_decision(watch), "Content-Type": JSON_TYPE}
        )

    async def streamed(
        self, request: web.BaseRequest, job: Job, watch: Watch, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Raises `RequestError` where nothing was sent yet; later errors are events."""
        stream = EventStream(
            job, watch, partial(self._models.token_bytes, job.model), self._settings
        )
        try:
            for index, spec in enumerate(job.specs):
                stream.handles.append(self._runner.submit(spec, stream.sink(index)))
            await stream.wait_first()
            if stream.error is not None and not stream.begun:
                raise RequestError(stream.error)
            return await self._run(request, stream, watch, headers)
        finally:
            watch.outcomes = stream.outcomes
            if len(stream.outcomes) < len(job.specs):
                stream.cancel()

    async def _run(
        self,
        request: web.BaseRequest,
        stream: EventStream,
        watch: Watch,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, **_decision(watch), **_SSE})
        writer = await response.prepare(request)
        transport = request.transport
        if transport is None or writer is None:
            raise ConnectionResetError("the client left before its answer began")
        stream.open(transport, request.version >= (1, 1))
        try:
            await stream.run(writer)
        except ClientStalled:
            transport.abort()
            raise ConnectionResetError("the client stopped reading") from None
        await response.write_eof()
        watch.code = stream.error.status if stream.error is not None else 200
        return response


def _decision(watch: Watch) -> dict[str, str]:
    """Where the first choice runs; not known yet where the head goes out before a placement."""
    return {"x-shunter-decision": watch.decision} if watch.decision else {}
