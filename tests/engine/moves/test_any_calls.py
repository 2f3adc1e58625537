"""Calls come in any order, again, never, or while others wait for the end of a step: no block,
place or lease stays, and what is taken over is what the source had."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine_sides import LEASE_MS, MAX_MOVES, Silent, offer, prepare, request, side
from shunter_engine.moves.testing_host import FakeClock
from shunter_proto.v1 import moves_pb2 as pb
from shunter_simulator.engine.testing import sequence

T = TypeVar("T")
TURNS = 100  # of the event loop: more than anything takes that waits for nothing else


class AnyCalls(RuleBasedStateMachine):
    """Two engines and three requests, each with a move. While engines compute a step, what waits
    for its end waits for `go_on`."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.source = side(self.clock)
        self.destination = side(self.clock, source=self.source.moves.outgoing)
        self.sides = (self.source, self.destination)
        self.leases: dict[str, pb.PrepareReply] = {}
        self.words: dict[str, bytes] = {}
        self.frozen: dict[str, pb.FreezeReply] = {}
        self.asked: list[asyncio.Task[None]] = []
        self.taken_over: list[str] = []
        for name in "abc":
            self.source.host.batch.add(sequence(name, 10, 60))
        self.source.host.steps(4)

    # ------------------------------------------------------------ the event loop

    def turn(self) -> None:
        async def turns() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def ask(self, call: Coroutine[Any, Any, T], heard: Callable[[T], object]) -> None:
        """`heard` is called now, or once it was its turn."""

        async def answered() -> None:
            heard(await call)

        self.asked.append(self.loop.create_task(answered()))
        self.turn()

    @rule(number=st.integers(1, 3))
    def go_on(self, number: int) -> None:
        for at in self.sides:
            at.host.steps(number)
        self.turn()

    @rule()
    def compute(self) -> None:
        for at in self.sides:
            at.host.computing = True

    @rule(seconds=st.sampled_from([0.5, 4.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    # ------------------------------------------------------------ calls

    @rule(name=st.sampled_from("abc"), epoch=st.integers(1, 2))
    def offer(self, name: str, epoch: int) -> None:
        reply = self.source.moves.outgoing.offer(offer(name, f"m{name}", epoch))
        if not reply.refusal:
            self.words[name] = reply.transfer_token

    @rule(name=st.sampled_from("abc"), headroom=st.integers(0, 30))
    def prepare(self, name: str, headroom: int) -> None:
        view = self.source.host.batch.view(name)
        if view is None:
            return

        def heard(reply: pb.PrepareReply) -> None:
            if not reply.refusal:
                self.leases[name] = reply

        asked = prepare(self.destination, list(view.token_ids), f"m{name}", headroom)
        asked.request_id = name
        self.ask(self.destination.moves.incoming.prepare(asked), heard)

    @rule(name=st.sampled_from("abc"))
    def freeze(self, name: str) -> None:
        def heard(reply: pb.FreezeReply) -> None:
            if not reply.refusal:
                self.frozen[name] = reply

        asked = pb.FreezeRequest(move_id=f"m{name}", epoch=1, lease_ms=LEASE_MS)
        self.ask(self.source.moves.outgoing.freeze(asked), heard)

    @rule(name=st.sampled_from("abc"), reports=st.integers(0, 3))
    def pull(self, name: str, reports: int) -> None:
        """Left after so many reports, where it does not end or stand still before."""
        if name not in self.leases or name not in self.words:
            return
        asked = pb.PullRequest(
            move_id=f"m{name}",
            kv_lease=self.leases[name].kv_lease,
            transfer_token=self.words[name],
            source_address="s:1",
        )
        self.loop.run_until_complete(self.read(asked, reports))

    async def read(self, asked: pb.PullRequest, reports: int) -> None:
        stream = self.destination.moves.incoming.pull(asked)
        for _ in range(reports):
            report = asyncio.ensure_future(anext(stream, None))
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if not report.done():
                report.cancel()
                await asyncio.wait([report])
                break
            if report.result() is None:
                break
        await stream.aclose()

    @rule(name=st.sampled_from("abc"), epoch=st.integers(1, 3))
    def commit(self, name: str, epoch: int) -> None:
        if name not in self.leases or name not in self.frozen:
            return
        asked = pb.CommitRequest(
            move_id=f"m{name}",
            request_id=name,
            epoch=epoch,
            kv_lease=self.leases[name].kv_lease,
            tokens=self.frozen[name].tokens,
            tokens_digest=self.frozen[name].tokens_digest,
        )
        self.loop.run_until_complete(self.destination.moves.incoming.commit(asked))

    @rule(name=st.sampled_from("abc"))
    def take_over(self, name: str) -> None:
        view = self.source.host.batch.view(name)
        if view is None or name not in self.leases:
            return
        ids, next_id = list(view.token_ids), f"{name}+{len(self.taken_over)}"
        taken = self.destination.moves.incoming.attach(
            self.leases[name].kv_lease, request(next_id, ids), Silent()
        )
        if taken:
            self.taken_over.append(name)
            assert self.destination.host.adopted[next_id] == ids[:-1]

    @rule(name=st.sampled_from("abc"), epoch=st.integers(1, 3))
    def release(self, name: str, epoch: int) -> None:
        asked = pb.ReleaseRequest(move_id=f"m{name}", epoch=epoch)
        self.source.moves.outgoing.release(asked)

    @rule(name=st.sampled_from("abc"), epoch=st.integers(1, 3), at_source=st.booleans())
    def abort(self, name: str, epoch: int, at_source: bool) -> None:
        at = self.source if at_source else self.destination
        call_id = name if at_source else ""
        at.moves.abort(pb.AbortRequest(move_id=f"m{name}", epoch=epoch, call_id=call_id))

    @rule(name=st.sampled_from("abc"))
    def client_leaves(self, name: str) -> None:
        self.source.calls.leave(name)

    @rule(name=st.sampled_from("abc"))
    def move_in_order(self, name: str) -> None:
        self.offer(name, 1)
        self.prepare(name, 8)
        self.go_on(1)
        self.freeze(name)
        self.go_on(1)
        self.pull(name, 3)
        self.commit(name, 2)
        self.take_over(name)

    # ------------------------------------------------------------ what holds

    @invariant()
    def books_balance(self) -> None:
        for at in getattr(self, "sides", ()):
            at.host.batch.check()
            assert at.slots_taken <= MAX_MOVES

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        self.go_on(1)
        assert all(task.done() and task.exception() is None for task in self.asked)
        self.clock.pass_s(61)
        for at in self.sides:
            at.host.steps(200)
            stats = at.host.batch.stats()
            assert (stats.kv_blocks_used, stats.running, stats.waiting) == (0, 0, 0)
            assert at.slots_taken == 0
        assert self.clock.waiting == 0
        self.loop.close()


TestAnyCalls = AnyCalls.TestCase
TestAnyCalls.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_move_in_order_is_taken_over() -> None:
    """So that what is asserted of those that are can fail."""
    calls = AnyCalls()
    calls.start()
    calls.move_in_order("a")
    calls.compute()
    calls.move_in_order("b")
    assert calls.taken_over == ["a", "b"]
    calls.teardown()
