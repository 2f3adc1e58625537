"""Whatever happens to engines, scheduler and clients: each request ends exactly once, what was
delivered is gap-free and duplicate-free, and the scheduler's ledger ends empty."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_gateway.ports import EngineFailure
from shunter_gateway.request import RequestHandle
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_engines import answer_ids
from shunter_gateway.testing_world import World
from shunter_proto.v1 import scheduler_pb2 as pb

REQUESTS = 4
TOKENS = 24
CALM = ("step", "step", "step", "wait", "fail", "move", "suspend", "pause", "resume", "cancel")
ACTIONS = st.tuples(
    st.sampled_from((*CALM, "lose", "connect")), st.integers(0, 7), st.integers(1, 6)
)
CALM_ACTIONS = st.tuples(st.sampled_from(CALM), st.integers(0, 7), st.integers(1, 6))


class Run:
    def __init__(self) -> None:
        self.world = World()
        self.clients: list[tuple[RequestHandle, RecordingSink]] = []
        self.cancelled: set[int] = set()
        for number in range(REQUESTS):
            prompt = tuple(range(number, number + 5))
            self.clients.append(
                self.world.submit(
                    request_id=f"r{number}", prompt_token_ids=prompt, max_tokens=TOKENS
                )
            )

    def act(self, action: str, which: int, amount: int) -> None:
        world, number = self.world, which % REQUESTS
        handle, _ = self.clients[number]
        live = world.engine.live
        scheduler = world.scheduler
        if action == "step" and live:
            live[which % len(live)].step(amount)
        elif action == "wait":
            world.settle(amount * 0.3)
        elif action == "fail" and live:
            reason = ("connection", "timeout", "engine_5xx", "overloaded")[amount % 4]
            live[which % len(live)].fail(EngineFailure(reason, "test", retriable=True))  # type: ignore[arg-type]
        elif action in ("move", "suspend") and f"r{number}" in scheduler.ledger:
            if action == "move":
                scheduler.move(f"r{number}", f"chat-{amount % 3}")
            else:
                scheduler.suspend(f"r{number}")
        elif action == "pause":
            handle.pause()
        elif action == "resume":
            handle.resume()
        elif action == "cancel" and amount == 6:
            handle.cancel()
            self.cancelled.add(number)
        elif action == "lose" and scheduler.lost_since is None:
            scheduler.lose()
        elif action == "connect" and scheduler.lost_since is not None:
            scheduler.connect(world.dispatcher)
        world.clock.advance(0)

    def finish(self) -> None:
        if self.world.scheduler.lost_since is not None:
            self.world.scheduler.connect(self.world.dispatcher)
        for handle, _ in self.clients:
            handle.resume()
        self.world.run_out(120)

    def check(self) -> None:
        for number, (_, sink) in enumerate(self.clients):
            undisturbed = answer_ids(range(number, number + 5), TOKENS)
            assert sink.token_ids == undisturbed[: len(sink.token_ids)]
            assert sink.ended or number in self.cancelled
            if sink.outcome is not None:
                assert sink.token_ids == undisturbed
                assert sink.outcome.output_tokens == TOKENS
        assert self.world.scheduler.ledger == {}
        assert self.world.scheduler.waiting == {}
        assert self.world.engine.live == []
        assert self.world.dispatcher.in_flight == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_nothing_is_lost_twice_or_left_over(actions: list[tuple[str, int, int]]) -> None:
    run = Run()
    for action in actions:
        run.act(*action)
    run.finish()
    run.check()


@settings(max_examples=100, deadline=None)
@given(st.lists(CALM_ACTIONS, max_size=60))
def test_every_epoch_that_begins_ends(actions: list[tuple[str, int, int]]) -> None:
    run = Run()
    for action in actions:
        run.act(*action)
    run.finish()
    for number in range(REQUESTS):
        check_epochs([e for e in run.world.scheduler.events if _id(e) == f"r{number}"])


def _id(event: object) -> str:
    return getattr(event, "request_id", "")


def check_epochs(events: list[object]) -> None:
    """One epoch is open at a time; Failed, Finished, MoveDone or the next Submitted ends it."""
    open_: int | None = None
    highest = 0
    for event in events:
        match event:
            case pb.Submitted():
                assert event.epoch > highest
                highest = open_ = event.epoch
            case pb.Failed():
                assert event.epoch == open_
                open_ = None
            case pb.Finished():
                assert event.epoch in (open_, highest)
                open_ = None
            case pb.MoveDone() if event.moved:
                assert open_ == event.epoch - 1
                highest = open_ = event.epoch
            case pb.MoveDone() | pb.FirstToken():
                assert event.epoch == open_
            case _:
                raise AssertionError(event)
    assert open_ is None
