"""Leader election: the decision by properties, the loop on a lease in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shunter_runtime.lease import (
    LeaseRecord,
    LeaseTiming,
    Read,
    View,
    Wait,
    Write,
    decide,
    observed,
    raise_term,
    released,
    term_of,
    written,
)
from shunter_runtime.lease_election import LeaderElection
from shunter_runtime.lease_store import LeaseConflict, LeaseUnavailable, MemoryLease

TIMING = LeaseTiming()
OTHERS = LeaseRecord("other", 6.0, 3, "v1")
MINE = LeaseRecord("me", 6.0, 3, "v1")


@pytest.mark.parametrize(
    ("view", "now", "action"),
    [
        (View(), 0.0, Read()),
        (View(read=True), 0.0, Write(LeaseRecord("me", 6.0, 1))),
        (View(read=True, highest_term=7), 0.0, Write(LeaseRecord("me", 6.0, 8))),
        (View(True, OTHERS, seen_at=10.0), 15.9, Wait(16.0)),
        (View(True, OTHERS, seen_at=10.0), 16.0, Write(LeaseRecord("me", 6.0, 4, "v1"))),
        (View(True, released(OTHERS), seen_at=10.0), 10.0, Write(LeaseRecord("me", 6.0, 4, "v1"))),
        (View(True, MINE, 10.0, renewed_at=10.0, highest_term=3), 11.0, Wait(12.0)),
        (View(True, MINE, 10.0, renewed_at=10.0, highest_term=3), 12.0, Write(MINE)),
        (View(True, MINE, 10.0, highest_term=3), 10.0, Write(MINE)),
        (View(True, MINE, 10.0, 10.0, highest_term=9), 10.5, Write(replace(MINE, transitions=10))),
    ],
    ids=[
        "unread", "none", "none-any-more", "held", "run-out", "released", "renewed", "renewal-due",
        "answer-lost", "outranked",
    ],
)  # fmt: skip
def test_decision(view: View, now: float, action: object) -> None:
    assert decide(view, "me", now, TIMING) == action


def test_seeing_the_same_record_again_does_not_prolong_it() -> None:
    view = observed(View(), OTHERS, 10.0)
    assert observed(view, OTHERS, 14.0) == view
    assert observed(view, replace(OTHERS, version="v2"), 14.0).seen_at == 14.0


def test_a_renewal_counts_from_before_it_was_asked_for() -> None:
    view = written(View(), MINE, asked_at=10.0, now=14.0)
    assert term_of(view, "me", 14.9, TIMING) == 3
    assert term_of(view, "me", 15.0, TIMING) is None


def test_a_nonsense_term_leaves_room_for_others() -> None:
    view = raise_term(written(View(), MINE, 0.0, 0.0), 2**64 - 1)
    action = decide(view, "me", 0.0, TIMING)
    assert isinstance(action, Write) and action.record.transitions < 2**31 - 1


@pytest.mark.parametrize("wrong", [{"give_up_s": 6.0}, {"renew_s": 5.0}, {"retry_s": 3.0}])
def test_timing_must_leave_room(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="does not hold"):
        LeaseTiming(**wrong)


@dataclass
class Candidate:
    """`clock_offset` is what its monotonic clock has more than the others'."""

    name: str
    clock_offset: float
    view: View = field(default_factory=View)
    asked: Write | Read | None = None
    asked_at: float = 0.0
    answer: LeaseRecord | LeaseConflict | None = None
    applied: bool = False

    def term(self, now: float) -> int | None:
        return term_of(self.view, self.name, now + self.clock_offset, TIMING)


class Elections(RuleBasedStateMachine):
    """Three candidates, one lease; calls and answers are late or lost, processes stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lease: LeaseRecord | None = None
        self.versions = 0
        self.candidates = [Candidate("a", 0.0), Candidate("b", 900.0), Candidate("c", -50.0)]
        self.leaders: dict[int, str] = {}

    def candidate(self, index: int) -> Candidate:
        return self.candidates[index]

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.0, 4.9, 6.0, 9.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(index=st.integers(0, 2))
    def acts(self, index: int) -> None:
        """A call without any delay, read first where the candidate knows nothing."""
        for _ in range(2):
            self.asks(index)
            self.server_answers(index)
            self.answer_arrives(index)

    @rule(index=st.integers(0, 2))
    def asks(self, index: int) -> None:
        one = self.candidate(index)
        if one.asked is None:
            now = self.now + one.clock_offset
            action = decide(one.view, one.name, now, TIMING)
            if not isinstance(action, Wait):
                one.asked, one.asked_at, one.applied = action, now, False

    @rule(index=st.integers(0, 2))
    def server_answers(self, index: int) -> None:
        one = self.candidate(index)
        if one.asked is None or one.applied:
            return
        one.applied = True
        if isinstance(one.asked, Read):
            one.answer = self.lease
            return
        record = one.asked.record
        if record.version != (self.lease.version if self.lease else ""):
            one.answer = LeaseConflict()
            return
        if self.lease is not None and self.lease.holder != record.holder:
            assert record.transitions > self.lease.transitions
        self.versions += 1
        one.answer = self.lease = replace(record, version=str(self.versions))

    @rule(index=st.integers(0, 2))
    def answer_arrives(self, index: int) -> None:
        one = self.candidate(index)
        if one.asked is None or not one.applied:
            return
        now = self.now + one.clock_offset
        if isinstance(one.answer, LeaseConflict):
            one.view = replace(one.view, read=False)
        elif isinstance(one.asked, Read):
            one.view = observed(one.view, one.answer, now)
        else:
            assert one.answer is not None
            one.view = written(one.view, one.answer, one.asked_at, now)
        one.asked = None

    @rule(index=st.integers(0, 2))
    def answer_is_lost(self, index: int) -> None:
        self.candidate(index).asked = None

    @precondition(lambda self: self.lease is not None)
    @rule()
    def watches_tell(self) -> None:
        for one in self.candidates:
            if one.asked is None and one.term(self.now) is None:
                one.view = observed(one.view, self.lease, self.now + one.clock_offset)

    @invariant()
    def one_leads_and_no_term_has_two_leaders(self) -> None:
        terms = {one.name: one.term(self.now) for one in self.candidates}
        leading = {name: term for name, term in terms.items() if term is not None}
        assert len(leading) <= 1, leading
        for name, term in leading.items():
            assert self.leaders.setdefault(term, name) == name
            assert term >= max(self.leaders)


Elections.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
test_elections = Elections.TestCase


FAST = LeaseTiming(lease_s=0.6, renew_s=0.1, retry_s=0.05, give_up_s=0.4)


class Member:
    """One candidate of an election in this process."""

    def __init__(self, lease: MemoryLease, name: str) -> None:
        self.terms: list[int | None] = []
        self.election = LeaderElection(lease, name, timing=FAST)
        self.task = asyncio.create_task(self.election.run(self.terms.append))

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def members(lease: MemoryLease, *names: str) -> AsyncIterator[list[Member]]:
    """The first leads when the others join."""
    started: list[Member] = []
    try:
        for name in names:
            started.append(Member(lease, name))
            await until(lambda: started[0].election.term is not None)
        await until(lambda: all(m.election.leader == names[0] for m in started))
        yield started
    finally:
        for member in started:
            await member.kill()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_one_leads_and_another_follows_its_death() -> None:
    async with members(MemoryLease(), "a", "b") as (a, b):
        assert (a.terms, b.terms) == ([1], [])
        await a.kill()
        await until(lambda: b.election.term is not None)
        assert (b.terms, b.election.leader) == ([2], "b")


async def test_release_hands_over_before_the_lease_ends() -> None:
    lease = MemoryLease()
    async with members(lease, "a", "b") as (a, b):
        await a.kill()
        await a.election.release()
        assert a.terms == [1, None]
        assert lease.record is not None and lease.record.holder == ""
        await until(lambda: b.election.term == 2)


async def test_release_after_a_renewal_whose_answer_was_lost() -> None:
    lease = MemoryLease()
    async with members(lease, "a") as (a,):
        await a.kill()
        assert lease.record is not None
        await lease.write(lease.record, 1.0)
        await a.election.release()
        assert lease.record.holder == ""


async def test_leader_that_cannot_renew_ends_before_the_lease_does() -> None:
    lease = MemoryLease()
    async with members(lease, "a") as (a,):
        record = lease.record
        lease.down = True
        await until(lambda: a.terms == [1, None])
        assert lease.record is not None and lease.record.holder == "a" and record is not None
        lease.down = False
        await until(lambda: a.terms == [1, None, 1])  # nobody else led: the term is still its own


async def test_writes_without_answers_are_found_out() -> None:
    lease = MemoryLease(lose_answers=True)
    member = Member(lease, "a")
    await until(lambda: lease.record is not None)
    lease.lose_answers = False
    await until(lambda: member.election.term == 1)
    await member.kill()


async def test_at_rest_only_the_leader_calls() -> None:
    lease = MemoryLease()
    async with members(lease, "a", "b"):
        reads, writes = lease.reads, lease.writes
        await until(lambda: lease.writes == writes + 5)
        assert lease.reads == reads


async def test_candidate_outlives_a_broken_watch() -> None:
    lease = MemoryLease()
    async with members(lease, "a", "b") as (a, b):
        await a.kill()
        lease.down = True
        lease.break_watches()
        await asyncio.sleep(2 * FAST.lease_s)
        assert b.terms == []
        lease.down = False
        await until(lambda: b.election.term == 2)


async def test_a_deleted_lease_goes_on_above_the_terms_that_were() -> None:
    lease = MemoryLease()
    async with members(lease, "a", "b") as (a, b):
        await a.kill()
        lease.delete()
        await until(lambda: b.election.term == 2)


async def test_outranked_leader_goes_above_that_term() -> None:
    async with members(MemoryLease(), "a") as (a,):
        a.election.outrank(41)
        await until(lambda: a.election.term == 42)
        assert a.terms == [1, 42]


async def test_stale_leader_that_is_outranked_does_not_write() -> None:
    lease = MemoryLease()
    async with members(lease, "a") as (a,):
        await a.kill()
        assert lease.record is not None
        await lease.write(replace(lease.record, holder="b", transitions=2), 1.0)
        a.election.outrank(2)
        a.task = asyncio.create_task(a.election.run(a.terms.append))
        await until(lambda: a.election.leader == "b")
        assert lease.record.holder == "b" and lease.record.transitions == 2
        assert a.terms == [1, None]


async def test_memory_lease_refuses_what_is_stale() -> None:
    lease = MemoryLease()
    first = await lease.write(LeaseRecord("a", 6.0, 1), 1.0)
    with pytest.raises(LeaseConflict):
        await lease.write(LeaseRecord("b", 6.0, 1), 1.0)
    await lease.write(first, 1.0)
    with pytest.raises(LeaseConflict):
        await lease.write(first, 1.0)
    lease.down = True
    with pytest.raises(LeaseUnavailable):
        await lease.read(1.0)
