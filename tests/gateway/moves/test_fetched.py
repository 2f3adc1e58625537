"""The rung `kv` between engines that cannot freeze a request: fetched, warmed, switched."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moving_request
from moving_request import UNDISTURBED
from shunter_gateway.testing_engines import TOKEN_LEVEL, ScriptedCall
from shunter_gateway.testing_world import LOST, PROMPT, World
from shunter_proto.v1 import moves_pb2 as moves

BLOCK = 2
MANIFEST = moves.Manifest(block_tokens=BLOCK)
NEAR = moves.PullReport(stage=1, tokens=4, source_tokens=6)
FAR = moves.PullReport(stage=1, tokens=2, source_tokens=6)


class Moving(moving_request.Moving):
    """Between engines that freeze nothing."""

    def between(self) -> World:
        world = super().between()
        world.engine.capabilities = replace(TOKEN_LEVEL, freezes=False)
        world.engine_moves.manifest = MANIFEST
        return world

    def fetch(self, report: moves.PullReport | None = NEAR) -> None:
        self.engines.pulls[-1].report(report)
        self.world.settle()

    @property
    def warm_ups(self) -> list[ScriptedCall]:
        return [call for call in self.world.engine.calls if "-warm" in call.request.request_id]

    def assert_both_sides_forget(self) -> None:
        (release,) = self.engines.asked(moves.ReleaseRequest)
        (abort,) = self.engines.asked(moves.AbortRequest)
        (offer,) = self.engines.asked(moves.OfferRequest)
        assert isinstance(release, moves.ReleaseRequest) and isinstance(abort, moves.AbortRequest)
        assert isinstance(offer, moves.OfferRequest)
        assert release.move_id == abort.move_id == offer.move_id
        assert abort.epoch == offer.epoch + 1
        assert all(pull.cancelled for pull in self.engines.pulls)


def test_destination_is_warmed_once_it_has_the_blocks_and_takes_over() -> None:
    moving = Moving()
    moving.source.step(1)
    assert moving.warm_ups == []
    (prepare,) = moving.engines.asked(moves.PrepareRequest)
    assert isinstance(prepare, moves.PrepareRequest)
    assert prepare.manifest == MANIFEST and prepare.token_ids == [*PROMPT, *UNDISTURBED[:3]]
    moving.fetch()
    (warm,) = moving.warm_ups
    assert not moving.source.aborted and not moving.engines.pulls[0].cancelled
    assert warm.request.address == f"{moving.destination}:1"
    assert warm.request.token_ids == (*PROMPT, *UNDISTURBED[:4])
    warm.step()
    request = moving.world.call_of().request
    assert moving.source.aborted
    assert (request.epoch, request.kv_lease) == (2, "")
    assert request.token_ids == (*PROMPT, *UNDISTURBED[:4])
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung, done.epoch, done.reason) == (True, "kv", 2, "")
    assert moving.engines.asked(moves.FreezeRequest) == []
    assert moving.engines.asked(moves.CommitRequest) == []
    moving.assert_both_sides_forget()


def test_it_is_fetched_until_little_is_missing() -> None:
    moving = Moving()
    moving.fetch(FAR)
    assert moving.warm_ups == []
    moving.fetch(moves.PullReport(stage=2, tokens=4, source_tokens=7))
    assert len(moving.warm_ups) == 1


def test_a_source_that_is_always_ahead_is_not_chased_for_ever() -> None:
    moving = Moving()
    for stage in range(1, 9):
        assert moving.warm_ups == []
        moving.fetch(moves.PullReport(stage=stage, tokens=2, source_tokens=100))
    assert len(moving.warm_ups) == 1


@pytest.mark.parametrize("call", ["Offer", "Prepare"])
def test_what_is_refused_is_computed(call: str) -> None:
    moving = Moving(refusals={call: moves.REFUSAL_NO_MEMORY})
    (warm,) = moving.warm_ups
    warm.step()
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung) == (True, "replay")
    assert done.reason == f"{call.lower()} refused: no_memory"
    moving.assert_both_sides_forget()


@pytest.mark.parametrize("call", ["Offer", "Prepare"])
def test_what_is_not_answered_is_computed(call: str) -> None:
    moving = Moving(silent={call})
    moving.world.settle(6)
    (warm,) = moving.warm_ups
    warm.step()
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung) == (True, "replay")
    assert done.reason == f"{call.lower()} not answered"


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (None, "pull broke off"),
        (moves.PullReport(refusal=moves.REFUSAL_TRANSFER), "pull refused: transfer"),
    ],
)
def test_a_broken_copy_is_computed(report: moves.PullReport | None, reason: str) -> None:
    moving = Moving()
    moving.fetch(report)
    moving.warm_ups[0].step()
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung, done.reason) == (True, "replay", reason)
    moving.assert_both_sides_forget()


def test_a_copy_that_breaks_while_it_is_warmed_changes_nothing() -> None:
    moving = Moving()
    moving.fetch()
    moving.fetch(None)
    moving.warm_ups[0].step()
    moving.finish()
    assert (moving.report().moved, moving.report().rung) == (True, "kv")


def test_an_endless_copy_is_computed() -> None:
    moving = Moving()
    moving.world.settle(31)
    moving.warm_ups[0].step()
    moving.finish()
    assert (moving.report().rung, moving.report().reason) == ("replay", "copy took too long")
    moving.assert_both_sides_forget()


def test_an_endless_warm_up_leaves_the_source_alone() -> None:
    moving = Moving()
    moving.fetch()
    moving.world.settle(31)
    done = moving.report()
    assert (done.moved, done.rung, done.reason) == (False, "kv", "warm-up timed out")
    assert moving.warm_ups[0].aborted and not moving.source.aborted
    moving.assert_both_sides_forget()
    moving.finish()


def test_a_failed_warm_up_leaves_the_source_alone() -> None:
    moving = Moving()
    moving.fetch()
    moving.warm_ups[0].fail(LOST)
    assert moving.report().reason == "warm-up failed: connection"
    moving.assert_both_sides_forget()
    moving.finish()


@pytest.mark.parametrize("warming", [False, True])
def test_source_dies(warming: bool) -> None:
    moving = Moving()
    if warming:
        moving.fetch()
    moving.source.fail(LOST)
    assert not moving.report().moved
    moving.assert_both_sides_forget()
    moving.finish()


@pytest.mark.parametrize("warming", [False, True])
def test_client_leaves(warming: bool) -> None:
    moving = Moving()
    if warming:
        moving.fetch()
    moving.handle.cancel()
    moving.world.settle()
    assert moving.world.engine.live == [] and moving.world.scheduler.ledger == {}
    moving.assert_both_sides_forget()


def test_answer_that_ends_first_stays() -> None:
    moving = Moving()
    moving.source.step(5)
    assert moving.sink.token_ids == UNDISTURBED and not moving.report().moved
    moving.assert_both_sides_forget()


def test_late_answers_of_an_ended_move_are_not_heeded() -> None:
    moving = Moving(silent={"Prepare"})
    moving.source.step(5)
    moving.world.settle(6)
    assert moving.engines.pulls == [] and moving.warm_ups == []


ACTIONS = ("source", "near", "far", "broken", "warm", "warm fails", "source fails", "time", "again")


@given(
    actions=st.lists(st.sampled_from(ACTIONS), max_size=25),
    silent=st.sets(st.sampled_from(["Offer", "Prepare", "Release", "Abort"])),
    refused=st.sampled_from(["", "Offer", "Prepare"]),
)
@settings(deadline=None, max_examples=150)
def test_whatever_happens_one_engine_owns_and_nothing_is_left(
    actions: list[str], silent: set[str], refused: str
) -> None:
    refusals = {refused: moves.REFUSAL_BUSY} if refused else {}
    moving = Moving(silent=silent, refusals=refusals)
    world, stage = moving.world, 0
    for action in actions:
        owners = [call for call in world.engine.live if call not in moving.warm_ups]
        warm = [call for call in moving.warm_ups if not call.over]
        assert len(owners) <= 1 and len(warm) <= 1
        match action:
            case "source" | "source fails" if owners:
                owners[0].step() if action == "source" else owners[0].fail(LOST)
            case "near" | "far" | "broken" if moving.engines.pulls:
                stage += 1
                behind = 1 if action == "near" else 50
                report = moves.PullReport(stage=stage, tokens=4, source_tokens=4 + behind)
                moving.fetch(report if action != "broken" else None)
            case "warm" | "warm fails" if warm:
                warm[0].step() if action == "warm" else warm[0].fail(LOST)
            case "time":
                world.settle(6)
            case "again" if "r1" in world.scheduler.ledger:
                free = next(n for n in world.instances if n != moving.sink.assigned[-1])
                world.scheduler.move("r1", free, rung="kv")
        world.settle()
    world.settle(70)
    world.run_out(60)
    assert moving.sink.token_ids == UNDISTURBED[: len(moving.sink.token_ids)]
    assert moving.sink.token_ids == UNDISTURBED or moving.sink.error is not None
    assert world.engine.live == [] and world.scheduler.ledger == {}
    offers = moving.engines.asked(moves.OfferRequest)
    for ends in (moves.ReleaseRequest, moves.AbortRequest):
        told = [request.move_id for request in moving.engines.asked(ends)]
        assert sorted(told) == sorted(request.move_id for request in offers)
    assert all(pull.cancelled for pull in moving.engines.pulls)
