"""One gateway's `Session` call: hello, then events in and commands out until either side ends."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import structlog

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.service.codec import MAX_ID_CHARS, to_events
from shunter_scheduler.service.errors import InvalidArgument, ServiceError, Standby
from shunter_scheduler.service.leadership import Leadership, check_leading
from shunter_scheduler.service.parts import Context, Parts
from shunter_scheduler.service.sessions import Session
from shunter_scheduler.service.unary import GATEWAY_ID

HELLO_TIMEOUT_S = 10.0
LAST_WRITE_S = 1.0

log = structlog.get_logger(__name__)


class GatewayStream:
    """Reads and writes in a task each, so that a gateway that does not read is still heard."""

    def __init__(self, parts: Parts, context: Context) -> None:
        self._parts = parts
        self._context = context

    async def run(self) -> None:
        """Raises the `ServiceError` for which the scheduler ended the session, if it did."""
        parts = self._parts
        first = await self._first_message()
        gateway_id = gateway_id_of(first)
        leadership = parts.leadership
        _check_term(leadership, first.events[0].hello.term)
        session = parts.sessions.open(gateway_id, parts.view.message)
        del first.events[0]
        reader = asyncio.create_task(self._read(first, session))
        writer = asyncio.create_task(
            session.pump(
                self._context.write,
                lambda: parts.view.addresses,
                lambda: check_leading(leadership),
            )
        )
        try:
            await asyncio.wait(
                (reader, writer, session.closed), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            parts.sessions.left(session)
            session.stop()
            reader.cancel()
            # A write that is cut off leaves the call unable to carry a status.
            await asyncio.wait((writer,), timeout=LAST_WRITE_S)
            writer.cancel()
            outcomes = await asyncio.gather(reader, writer, return_exceptions=True)
        closed = [session.closed.result()] if session.closed.done() else []
        self._raise_first(session, [*closed, *outcomes])

    async def _first_message(self) -> pb.GatewayEvents:
        """Raises `InvalidArgument` where none comes."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await self._context.read()
        except TimeoutError:
            raise InvalidArgument(f"no hello within {HELLO_TIMEOUT_S:g} s") from None
        if first is grpc.aio.EOF:
            raise InvalidArgument("the session ended before its hello")
        assert isinstance(first, pb.GatewayEvents)
        return first

    async def _read(self, first: pb.GatewayEvents, session: Session) -> None:
        """Until the gateway ends its side."""
        driver, spans, read = self._parts.driver, self._parts.spans, self._context.read
        batch: Any = first
        while batch is not grpc.aio.EOF and not session.closed.done():
            if spans.enabled:
                spans.arrived(batch)
            events = to_events(batch, session.gateway_id, driver.clock())
            if session.unreported:
                session.reported(events)
            await driver.put(events)
            batch = await read()

    def _raise_first(self, session: Session, outcomes: Sequence[object]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, ServiceError):
                self._parts.telemetry.sessions_closed.labels(outcome.code.name).inc()
                log.warning(
                    "gateway.session_closed", gateway_id=session.gateway_id, reason=str(outcome)
                )
                raise outcome
            if isinstance(outcome, Exception):
                raise outcome


def _check_term(leadership: Leadership, obeyed: int) -> None:
    """A gateway that obeys a higher term would refuse all commands of this one. Raises `Standby`:
    either another leads, or the Lease was made anew and this one leads on above that term."""
    term = check_leading(leadership)
    if term and obeyed > term:
        leadership.outrank(obeyed)
        raise Standby(f"the gateway obeys term {obeyed}, this scheduler's is {term}; try again")


def gateway_id_of(first: pb.GatewayEvents) -> str:
    """Raises `InvalidArgument`."""
    if not first.events or first.events[0].WhichOneof("event") != "hello":
        raise InvalidArgument("the first event of a session must be hello")
    gateway_id = first.events[0].hello.gateway_id
    if not 0 < len(gateway_id) <= MAX_ID_CHARS or gateway_id == GATEWAY_ID:
        raise InvalidArgument(
            f"hello.gateway_id must have 1 to {MAX_ID_CHARS} characters and not be {GATEWAY_ID}"
        )
    return gateway_id
