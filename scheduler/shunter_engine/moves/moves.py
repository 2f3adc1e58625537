"""Both sides of an engine's moves, and what it says of itself."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shunter_engine.moves.incoming import SIDE as IN
from shunter_engine.moves.incoming import Incoming
from shunter_engine.moves.layout import KvLayout
from shunter_engine.moves.outgoing import SIDE as OUT
from shunter_engine.moves.outgoing import Outgoing
from shunter_engine.moves.ports import Calls, Clock, Connect, KvHost
from shunter_engine.moves.slots import Slots
from shunter_proto.v1 import moves_pb2 as pb


@dataclass(frozen=True, slots=True)
class MovesParts:
    """What an engine's moves are built from."""

    host: KvHost
    layout: KvLayout
    calls: Calls
    connect: Connect
    clock: Clock
    max_moves: int


class Moves:
    def __init__(self, parts: MovesParts) -> None:
        self._layout = parts.layout
        self.slots = Slots(parts.max_moves)
        self.outgoing = Outgoing(parts.host, parts.layout, parts.calls, parts.clock, self.slots)
        self.incoming = Incoming(parts.host, parts.layout, parts.connect, parts.clock, self.slots)

    def describe(self) -> pb.DescribeReply:
        return pb.DescribeReply(
            manifest=self._layout.manifest(),
            layout=self._layout.word(),
            max_moves=self.slots.limit,
        )

    def abort(self, request: pb.AbortRequest) -> pb.AbortReply:
        """At whichever side it is known. Known at none: no earlier epoch may begin it now."""
        if self.incoming.state(request.move_id) is not None:
            return self.incoming.abort(request)
        reply = self.outgoing.abort(request)
        if self.outgoing.state(request.move_id) is None:
            self.incoming.abort(request)
        return reply

    def state(self, move_id: str) -> pb.StateReply:
        known = self.incoming.state(move_id) or self.outgoing.state(move_id)
        return known or pb.StateReply()

    def close(self) -> None:
        self.outgoing.close()
        self.incoming.close()


class MovesCollector(Collector):
    """How schedulers learn that this engine's KV cache can move, in which layout and where."""

    def __init__(self, layout: KvLayout, port: int, slots: Slots) -> None:
        self._labels = {"layout": layout.word(), "port": str(port)}
        self._slots = slots

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "shunter:kv_moves_info", "Where the KV cache can be moved.", labels=tuple(self._labels)
        )
        info.add_metric(tuple(self._labels.values()), 1)
        yield info
        active = GaugeMetricFamily(
            "shunter:kv_moves_active", "Moves under way, by side.", labels=("side",)
        )
        for side in (OUT, IN):
            active.add_metric((side,), self._slots.taken(side))
        yield active
