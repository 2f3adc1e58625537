"""Gateways' sessions: what each is still to be sent, and what becomes of a gateway that is lost."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.domain.decisions import Decision
from shunter_scheduler.domain.events import (
    Event,
    Failed,
    Finished,
    FirstToken,
    GatewayLost,
    MoveDone,
    Progress,
    Running,
    Submitted,
)
from shunter_scheduler.service.codec import to_commands
from shunter_scheduler.service.errors import ServiceError, SlowGateway, Superseded
from shunter_scheduler.service.loop import Driver
from shunter_scheduler.telemetry import Telemetry

MAX_COMMANDS_PER_MESSAGE = 256
MAX_QUEUED_COMMANDS = 8_192
GRACE_S = 5.0  # a lost gateway's requests are kept this long

log = structlog.get_logger(__name__)


class Session:
    """The outgoing side of one gateway's stream: a bounded queue that is sent in batches."""

    def __init__(self, gateway_id: str, topology: pb.Topology, max_queued: int) -> None:
        self.gateway_id = gateway_id
        self.closed: asyncio.Future[ServiceError] = asyncio.get_running_loop().create_future()
        self._topology: pb.Topology | None = topology
        self._queue: deque[Decision] = deque()
        self.unreported: dict[str, int] = {}  # requests of its older session, id to epoch
        self._max_queued = max_queued
        self._stopping = False
        self._wake = asyncio.Event()
        self._wake.set()

    def send(self, decisions: Sequence[Decision]) -> None:
        if self._stopping:
            return
        # What one decision cycle brings may be more: it tells of how many wait, not of the reader.
        if len(self._queue) >= self._max_queued:
            self.close(
                SlowGateway(
                    f"gateway {self.gateway_id} reads too slowly: {self._max_queued} commands wait "
                    "for it; its requests are kept for a new session"
                )
            )
            return
        self._queue.extend(decisions)
        self._wake.set()

    def reported(self, events: Iterable[Event]) -> None:
        """The gateway still has these requests."""
        for event in events:
            if isinstance(event, Submitted | Running):
                self.unreported.pop(event.request.request_id, None)
            elif isinstance(event, FirstToken | Progress | Finished | Failed | MoveDone):
                self.unreported.pop(event.request_id, None)

    def send_topology(self, topology: pb.Topology) -> None:
        """A topology that was not sent yet is replaced: only the latest matters."""
        self._topology = topology
        self._wake.set()

    def close(self, error: ServiceError) -> None:
        if not self.closed.done():
            self.closed.set_result(error)
            self.stop()

    def stop(self) -> None:
        """What is queued is dropped; `pump` ends once its present write has."""
        self._stopping = True
        self._queue.clear()
        self._wake.set()

    async def pump(
        self,
        write: Callable[[pb.SchedulerCommands], Awaitable[None]],
        addresses: Callable[[], Mapping[str, str]],
        term: Callable[[], int],
    ) -> None:
        """Writes whatever is queued, the topology first; runs until `stop`. Raises what `term`
        raises."""
        queue = self._queue
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            if self._topology is not None:
                topology, self._topology = self._topology, None
                command = pb.SchedulerCommand(topology=topology)
                await write(pb.SchedulerCommands(commands=[command], term=term()))
            while queue:
                count = min(len(queue), MAX_COMMANDS_PER_MESSAGE)
                batch = [queue.popleft() for _ in range(count)]
                message = to_commands(batch, addresses())
                message.term = term()
                await write(message)


class Sessions:
    """All open sessions by gateway id; a gateway that reconnects takes its old place."""

    def __init__(
        self,
        driver: Driver,
        telemetry: Telemetry,
        *,
        grace_s: float = GRACE_S,
        max_queued: int = MAX_QUEUED_COMMANDS,
    ) -> None:
        self._driver = driver
        self._telemetry = telemetry
        self._grace_s = grace_s
        self._max_queued = max_queued
        self._open: dict[str, Session] = {}
        self._leases: dict[str, asyncio.TimerHandle] = {}  # of gateways without a session
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    def open(self, gateway_id: str, topology: pb.Topology) -> Session:
        session = Session(gateway_id, topology, self._max_queued)
        older = self._open.get(gateway_id)
        if older is not None:
            older.close(Superseded(f"gateway {gateway_id} opened a newer session"))
        lease = self._leases.pop(gateway_id, None)
        if lease is not None:
            lease.cancel()
        self._open[gateway_id] = session
        session.unreported = self._driver.core.requests_of(gateway_id)
        if session.unreported:
            asyncio.get_running_loop().call_later(self._grace_s, self._drop_unreported, session)
        self._telemetry.gateways.set(len(self._open))
        log.info("gateway.connected", gateway_id=gateway_id, again=bool(older or lease))
        return session

    def left(self, session: Session) -> None:
        """Its requests stay for the grace period, so that a new session finds them unchanged."""
        if self._open.get(session.gateway_id) is not session:
            return
        del self._open[session.gateway_id]
        self._telemetry.gateways.set(len(self._open))
        if self._closed:
            return
        self._leases[session.gateway_id] = asyncio.get_running_loop().call_later(
            self._grace_s, self._lost, session.gateway_id
        )
        log.info("gateway.disconnected", gateway_id=session.gateway_id, grace_s=self._grace_s)

    def _lost(self, gateway_id: str) -> None:
        del self._leases[gateway_id]
        self._telemetry.gateways_lost.inc()
        self._driver.tell(GatewayLost(gateway_id))
        log.warning("gateway.lost", gateway_id=gateway_id)

    def _drop_unreported(self, session: Session) -> None:
        """They ended while the gateway had no session."""
        if self._open.get(session.gateway_id) is not session:
            return
        unreported, session.unreported = session.unreported, {}
        for request_id, epoch in unreported.items():
            self._driver.tell(Finished(request_id, epoch, 0, "cancelled"))
        if unreported:
            log.warning(
                "gateway.requests_gone", gateway_id=session.gateway_id, count=len(unreported)
            )

    def route(self, decisions: Sequence[Decision]) -> None:
        """Queues each for its gateway. Without a session it is dropped: a gateway that comes back
        submits what waits again."""
        by_gateway: dict[str, list[Decision]] = {}
        for decision in decisions:
            of_one = by_gateway.get(decision.gateway_id)
            if of_one is None:
                of_one = by_gateway[decision.gateway_id] = []
            of_one.append(decision)
        for gateway_id, of_one in by_gateway.items():
            session = self._open.get(gateway_id)
            if session is not None:
                session.send(of_one)

    def broadcast(self, topology: pb.Topology) -> None:
        for session in self._open.values():
            session.send_topology(topology)

    def step_down(self, error: ServiceError) -> None:
        """Ends all sessions and forgets all gateways, with what they have in flight."""
        gateway_ids = [*self._open, *self._leases]
        for session in self._open.values():
            session.close(error)
        for lease in self._leases.values():
            lease.cancel()
        self._open.clear()
        self._leases.clear()
        self._telemetry.gateways.set(0)
        for gateway_id in gateway_ids:
            self._driver.tell(GatewayLost(gateway_id))

    def close(self, error: ServiceError) -> None:
        """Ends all sessions and forgets all leases."""
        self._closed = True
        for session in self._open.values():
            session.close(error)
        for lease in self._leases.values():
            lease.cancel()
        self._leases.clear()
