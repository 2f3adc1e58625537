"""The HTTPS server that the API server calls: `POST /validate` and `POST /default`."""

import asyncio
import os
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from aiohttp import web

from shunter_api.validate import Known
from shunter_operator.admission.certificates import Pair
from shunter_operator.admission.checks import Cell, advice, examine, lenient
from shunter_operator.admission.defaults import defaults
from shunter_operator.admission.review import (
    Object,
    Request,
    ReviewError,
    parse,
    patched,
    verdict,
)
from shunter_operator.telemetry import Telemetry
from shunter_runtime.kube_api import KubeError

# An object of etcd's 1.5 MiB, before and after, escaped.
MAX_BODY_BYTES = 16 * 1024 * 1024
FRESH_S = 2.0  # of the 5 s that the API server waits
READ_S = 5.0  # for a request's head, and for its body: anybody may connect and say nothing

log = structlog.get_logger(__name__)


class Cells(Protocol):
    @property
    def cell(self) -> Cell | None:
        """As it was last seen; None where it was never seen."""

    async def fresh(self) -> Cell:
        """As it is. Raises `KubeError`."""


class Reviewer:
    """Answers reviews; which replica it is makes no difference."""

    def __init__(self, cells: Cells, known: Known, telemetry: Telemetry) -> None:
        self._cells = cells
        self._known = known
        self._telemetry = telemetry

    async def validate(self, request: Request) -> Object:
        """Looks again before anything is refused because of others, since what was seen of them is
        some milliseconds old: a pool and a rule that names it may come right after each other."""
        cell, is_fresh = self._cells.cell, True
        findings = examine(request, cell, self._known)
        if cell is None or findings.clashes:
            try:
                async with asyncio.timeout(FRESH_S):
                    cell = await self._cells.fresh()
            except (KubeError, TimeoutError) as error:
                is_fresh = False
                log.warning("webhooks.cell_not_read", reason=str(error) or "no answer in time")
            else:
                findings = examine(request, cell, self._known)
        told_only = lenient(request, is_fresh)
        answer = verdict(request, findings, lenient=told_only, advice=advice(request))
        self._told(request, answer)
        return answer

    async def default(self, request: Request) -> Object:
        operations = defaults(request)
        self._telemetry.reviews.labels("defaulted" if operations else "complete").inc()
        return patched(request, operations)

    def broke(self) -> None:
        self._telemetry.reviews.labels("broken").inc()

    def _told(self, request: Request, answer: Object) -> None:
        response = answer["response"]
        outcome = "warned" if response.get("warnings") else "allowed"
        if not response["allowed"]:
            outcome = "refused"
            log.info(
                "webhooks.refused",
                resource=f"{request.resource.resource} {request.namespace}/{request.name}",
                fields=[cause["field"] for cause in response["status"]["details"]["causes"]],
            )
        self._telemetry.reviews.labels(outcome).inc()


async def serve_reviews(
    reviewer: Reviewer, host: str, port: int, tls: ssl.SSLContext
) -> web.AppRunner:
    """Port 0: the system chooses. The caller ends it with `await runner.cleanup()`. Raises
    `OSError` where the port is taken."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_last_of_its_connection])
    app.router.add_post("/validate", _handler(reviewer, reviewer.validate))
    app.router.add_post("/default", _handler(reviewer, reviewer.default))
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=5.0, keepalive_timeout=READ_S, lingering_time=READ_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


@web.middleware
async def _last_of_its_connection(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """API servers keep a connection whatever has become of the Service's endpoints, and do not
    repeat a review whose connection ends under it: a replica that stops would refuse it."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.force_close()
        raise
    response.force_close()
    return response


def _handler(
    reviewer: Reviewer, answer: Callable[[Request], Awaitable[Object]]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(http: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(READ_S):
                body = await http.read()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout from error
        try:
            review = await answer(parse(body))
        except ReviewError as error:
            return web.Response(status=400, text=f"{error}\n")
        except Exception:  # the outermost: the API server does as failurePolicy says
            log.exception("webhooks.broken", path=http.path)
            reviewer.broke()
            return web.Response(status=500, text="the operator's log says why\n")
        return web.Response(body=msgspec.json.encode(review), content_type="application/json")

    return handle


def tls_context() -> ssl.SSLContext:
    """Without a certificate: until `load_pair` every handshake fails."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def load_pair(context: ssl.SSLContext, pair: Pair) -> None:
    """New connections get this certificate from now on. Blocks: Python reads certificates from
    files only, so that they are in one for a moment that nobody else may read."""
    handle, name = tempfile.mkstemp(suffix=".pem")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pair.certificate + pair.key)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()
