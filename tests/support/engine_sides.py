"""One engine's moves without a process: over a batch without a model, in a test's time."""

import zlib
from dataclasses import dataclass

from shunter_engine.backend import Sampling, SequenceRequest, TokenEvent
from shunter_engine.moves.moves import Moves, MovesParts
from shunter_engine.moves.ports import Source
from shunter_engine.moves.testing_host import (
    BatchHost,
    FakeCalls,
    FakeClock,
    ScriptedSource,
    connects_to,
    kv_chunk,
)
from shunter_proto.v1 import moves_pb2 as pb
from shunter_simulator.engine.testing import sequence, small_config

LEASE_MS = 5000
IDS = list(range(20, 32))
MAX_MOVES = 3


class Silent:
    def on_token(self, token: TokenEvent) -> None:
        pass


@dataclass
class Side:
    host: BatchHost
    calls: FakeCalls
    moves: Moves

    @property
    def slots_taken(self) -> int:
        return self.moves.slots.taken("in") + self.moves.slots.taken("out")


def side(clock: FakeClock, blocks: int = 16, source: Source | None = None) -> Side:
    host = BatchHost(small_config(blocks, max_num_seqs=4))
    calls = FakeCalls(host.batch)
    connect = connects_to(source or ScriptedSource())
    parts = MovesParts(host, host.layout("t"), calls, connect, clock, MAX_MOVES)
    return Side(host, calls, Moves(parts))


def decoding_source(clock: FakeClock) -> Side:
    source = side(clock)
    source.host.batch.add(sequence("a", 10, 50))
    source.host.steps(3)
    return source


async def fetched(tokens: int = 11) -> tuple[Side, pb.PrepareReply]:
    """A destination that has all of move `m`."""
    destination = side(FakeClock(), blocks=24, source=ScriptedSource(last_chunk(tokens)))
    prepared = await destination.moves.incoming.prepare(prepare(destination, IDS))
    reports = [r async for r in destination.moves.incoming.pull(pull(prepared))]
    assert reports[-1].complete
    return destination, prepared


def last_chunk(tokens: int) -> pb.KvChunk:
    """Of so many of `IDS`, and all that there is."""
    chunk = kv_chunk(0, IDS[:tokens])
    chunk.crc32 = zlib.crc32(chunk.data)
    chunk.stage_end.CopyFrom(pb.StageEnd(stage=1, source_tokens=tokens, last=True))
    return chunk


# ---------------------------------------------------------------- a gateway's calls


def offer(call_id: str = "a", move_id: str = "m", epoch: int = 1) -> pb.OfferRequest:
    return pb.OfferRequest(move_id=move_id, call_id=call_id, epoch=epoch, lease_ms=LEASE_MS)


def prepare(at: Side, ids: list[int], move_id: str = "m", headroom: int = 8) -> pb.PrepareRequest:
    return pb.PrepareRequest(
        move_id=move_id,
        request_id="r",
        epoch=1,
        manifest=at.host.layout("t").manifest(),
        token_ids=ids,
        headroom_tokens=headroom,
        lease_ms=LEASE_MS,
    )


def pull(prepared: pb.PrepareReply) -> pb.PullRequest:
    return pb.PullRequest(move_id="m", kv_lease=prepared.kv_lease, source_address="s:1")


def commit(prepared: pb.PrepareReply) -> pb.CommitRequest:
    return pb.CommitRequest(
        move_id="m",
        request_id="r",
        epoch=2,
        kv_lease=prepared.kv_lease,
        tokens=len(IDS),
        tokens_digest=b"d",
    )


def request(request_id: str, ids: list[int]) -> SequenceRequest:
    return SequenceRequest(request_id, tuple(ids), 1, 5, 0, Sampling())
