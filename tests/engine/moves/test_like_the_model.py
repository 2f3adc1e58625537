"""What the model of `kv_move_engines` does not allow, no engine does: so what is checked with the
model over every interleaving (tests/gateway/moves/test_protocol.py) holds for engines."""

import asyncio
import zlib
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from kv_move_engines import Destination, Faults, Message, Source, at_destination, at_source
from shunter_engine.backend import Sampling, SequenceRequest, TokenEvent
from shunter_engine.moves.layout import tokens_digest
from shunter_engine.moves.moves import Moves, MovesParts
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
CALL = "c"
IDS = tuple(range(20, 32))
KEEPS = Faults()


class Op(NamedTuple):
    kind: str
    move: int = 0
    epoch: int = 0


# What gateways send of a move that begins at epoch `e`: kinds, and epochs less `e`.
TO_SOURCE = (("offer", 0), ("freeze", 0), ("thaw", 0), ("thaw", 2), ("release", 1))
TO_DESTINATION = (("prepare", 0), ("commit", 1), ("abort", 0), ("abort", 2))


def ops(
    sent: tuple[tuple[str, int], ...], moves: tuple[int, ...], alone: tuple[str, ...]
) -> st.SearchStrategy[list[Op]]:
    """In any order and number, but long enough to lead somewhere; `moves` by the epochs at which
    they begin."""
    asked = [
        Op(kind, move, begun + later) for move, begun in enumerate(moves) for kind, later in sent
    ]
    every = [*asked, *asked, *(Op(kind) for kind in alone)]
    return st.lists(st.sampled_from(every), min_size=15, max_size=25)


class Engine:
    """The real thing over a batch without a model; time is the test's."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.host = BatchHost(small_config(64, max_num_seqs=4))
        self.calls = FakeCalls(self.host.batch)
        chunk = kv_chunk(0, IDS[:-1])
        chunk.crc32 = zlib.crc32(chunk.data)
        chunk.stage_end.CopyFrom(pb.StageEnd(stage=1, source_tokens=len(IDS) - 1, last=True))
        connect = connects_to(ScriptedSource(chunk))
        layout = self.host.layout("t")
        self.moves = Moves(MovesParts(self.host, layout, self.calls, connect, self.clock, 3))
        self.kv_lease = "none"
        self.pulled = False

    # ------------------------------------------------------------ as a source

    async def source_takes(self, op: Op) -> bool:
        """Whether it was not refused."""
        move_id, out = f"m{op.move}", self.moves.outgoing
        match op.kind:
            case "offer":
                offer = pb.OfferRequest(
                    move_id=move_id, call_id=CALL, epoch=op.epoch, lease_ms=LEASE_MS
                )
                return not out.offer(offer).refusal
            case "freeze":
                freeze = pb.FreezeRequest(move_id=move_id, epoch=op.epoch, lease_ms=LEASE_MS)
                return not (await out.freeze(freeze)).refusal
            case "thaw":
                thaw = pb.AbortRequest(move_id=move_id, epoch=op.epoch, call_id=CALL)
                return not out.abort(thaw).refusal
            case "release":
                return not out.release(pb.ReleaseRequest(move_id=move_id, epoch=op.epoch)).refusal
            case "decode":
                self.host.steps(1)
            case "close":
                self.host.batch.abort(CALL)
            case "lease":
                self.clock.pass_s(LEASE_MS / 1000 + 1)
        return True

    @property
    def source_phase(self) -> str:
        if self.host.batch.view(CALL) is None:
            return "gone"
        phases = {self.moves.state(f"m{move}").phase for move in (0, 1)}
        if pb.StateReply.PHASE_FROZEN in phases:
            return "frozen"
        return "offered" if pb.StateReply.PHASE_OFFERED in phases else "decoding"

    @property
    def output_tokens(self) -> int:
        view = self.host.batch.view(CALL)
        return view.output_tokens if view is not None else 0

    # ------------------------------------------------------------ as a destination

    async def destination_takes(self, op: Op) -> bool:
        into = self.moves.incoming
        match op.kind:
            case "prepare":
                prepare = pb.PrepareRequest(
                    move_id="m0",
                    epoch=op.epoch,
                    manifest=self.host.layout("t").manifest(),
                    token_ids=IDS,
                    lease_ms=LEASE_MS,
                )
                reply = await into.prepare(prepare)
                self.kv_lease = reply.kv_lease or self.kv_lease
                return not reply.refusal
            case "pull":
                pull = pb.PullRequest(move_id="m0", kv_lease=self.kv_lease, source_address="s:1")
                reports = [report async for report in into.pull(pull)]
                self.pulled = self.pulled or reports[-1].complete
                return reports[-1].complete
            case "leave" if self.pulled:  # the stream that is open until the move is taken over
                waiting = asyncio.create_task(into.taken_over("m0"))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
            case "commit":
                commit = pb.CommitRequest(
                    move_id="m0",
                    epoch=op.epoch,
                    kv_lease=self.kv_lease,
                    tokens=len(IDS),
                    tokens_digest=tokens_digest(IDS),
                )
                return not (await into.commit(commit)).refusal
            case "abort":
                return not into.abort(pb.AbortRequest(move_id="m0", epoch=op.epoch)).refusal
            case "generate":
                call = SequenceRequest(CALL, IDS, 1, 50, 0, Sampling())
                return into.attach(self.kv_lease, call, _Silent())
            case "lease":
                self.clock.pass_s(LEASE_MS / 1000 + 1)
        return True

    @property
    def destination_phase(self) -> str:
        name = pb.StateReply.Phase.Name(self.moves.state("m0").phase)
        return name.removeprefix("PHASE_").lower()


class _Silent:
    def on_token(self, event: TokenEvent) -> None:
        pass


def of_source(model: Source, op: Op) -> tuple[bool, Source]:
    """What the model makes of it, and whether it does not refuse."""
    match op.kind:
        case "decode":
            return True, model._replace(tokens=model.tokens + 1) if model.decodes else model
        case "lease" if model.phase == "offered":
            return True, model._replace(phase="decoding", move=-1)
        case "lease":
            return True, model._replace(phase="gone") if model.phase == "frozen" else model
    message = Message("source", op.kind, op.move, op.epoch)
    after, reply = at_source(model, message, KEEPS)
    if op.kind == "release":  # which nobody hears of
        return after != model, after
    return reply is None or not reply.text, after


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([(1, 1), (1, 3)]).flatmap(
        lambda moves: ops(TO_SOURCE, moves, alone=("decode", "lease", "close"))
    )
)
def test_a_source_does_nothing_that_the_model_does_not(given_ops: list[Op]) -> None:
    async def lead() -> None:
        engine, model = Engine(), Source()
        engine.host.batch.add(sequence(CALL, 10, 200))
        while not engine.output_tokens:
            engine.host.steps(1)
        for op in given_ops:
            before = engine.output_tokens
            taken = await engine.source_takes(op)
            allowed, after = of_source(model, op)
            # It may refuse what the model would take, and answer again without effect what it
            # has done before; an abort counts even where the move is unknown.
            if (allowed and taken) or (op.kind == "thaw" and not allowed):
                model = after
            assert engine.source_phase == model.phase, op
            decoded = engine.output_tokens > before
            assert decoded == (op.kind == "decode" and model.decodes)

    asyncio.run(lead())


def of_destination(model: Destination, op: Op) -> tuple[bool, Destination]:
    match op.kind:
        case "pull":
            fetched = model.phase == "reserved" and not model.complete
            if not fetched:
                return False, model
            return True, model._replace(complete=True, kv=len(IDS), pulling=True)
        case "lease" if model.phase in ("reserved", "committed"):
            return True, Destination(epoch=model.epoch)
        case "lease":
            return True, model
        case "generate" if model.phase != "committed":
            return False, model  # computed as usual: no move has a part in it
    number = len(IDS) if op.kind == "generate" else op.epoch
    after, reply = at_destination(model, Message("destination", op.kind, 0, number), KEEPS)
    return reply is None or not reply.text, after


@settings(max_examples=300, deadline=None)
@given(ops(TO_DESTINATION, (1,), alone=("pull", "leave", "generate", "lease")))
def test_a_destination_does_nothing_that_the_model_does_not(given_ops: list[Op]) -> None:
    names = {"decoding": "attached"}

    async def lead() -> None:
        engine, model = Engine(), Destination()
        for op in given_ops:
            taken = await engine.destination_takes(op)
            allowed, after = of_destination(model, op)
            # An abort counts even where nothing is left to undo.
            if (allowed and taken) or op.kind == "abort":
                model = after
            assert engine.destination_phase == names.get(model.phase, model.phase), op
            assert not model.wrong

    asyncio.run(lead())
