"""The ledger is exact after any interleaving of events: never negative, empty at the end."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_api.testing import make_pool
from shunter_scheduler.core.ledger import Load, reserve
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request
from shunter_scheduler.domain.decisions import Assign, Decision, Move
from shunter_scheduler.domain.events import (
    DrainCancelled,
    DrainRequested,
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

IDS = [f"r{i}" for i in range(6)]
GATEWAYS = ["g0", "g1"]
INSTANCES = make_instances(3)
NAMES = [instance.name for instance in INSTANCES]

epochs = st.integers(1, 4)
ids = st.sampled_from(IDS)
names = st.sampled_from([*NAMES, "unknown"])
tokens = st.integers(0, 400)


@st.composite
def requests(draw: st.DrawFn) -> Submitted:
    request_id = draw(ids)
    return Submitted(
        make_request(
            request_id,
            gateway_id=GATEWAYS[int(request_id[1:]) % 2],
            epoch=draw(epochs),
            prompt_tokens=draw(st.sampled_from([1, 500, 5000, 8000])),
            max_output_tokens=draw(st.sampled_from([0, 1, 300])),
            output_tokens=draw(st.sampled_from([0, 0, 40])),
            unmovable_reason=draw(st.sampled_from(["", "", "n>1"])),
            block_hashes=bytes(range(64)) * draw(st.integers(0, 2)),
            excluded_instances=draw(st.sampled_from([(), (), (NAMES[0],), tuple(NAMES)])),
        )
    )


events: st.SearchStrategy[Event] = st.one_of(
    requests(),
    requests(),
    st.builds(Running, requests().map(lambda submitted: submitted.request), names),
    st.builds(FirstToken, ids, epochs, st.floats(0.001, 5.0)),
    st.builds(Progress, ids, epochs, tokens),
    st.builds(Finished, ids, epochs, tokens, st.sampled_from(["stop", "cancelled", "error"])),
    st.builds(Failed, ids, epochs, names, st.sampled_from(["connection", "overloaded"])),
    st.builds(MoveDone, ids, epochs, names, st.booleans(), st.just("replay")),
    st.builds(GatewayLost, st.sampled_from(GATEWAYS)),
    st.builds(DrainRequested, names, st.floats(0.0, 100.0)),
    st.builds(DrainCancelled, names),
)
# Beside events: let the core decide, take an instance out of the configuration or put it back,
# change its health, repeat the last event, answer a decision as a gateway would.
steps = st.lists(
    st.one_of(
        events,
        events,
        st.tuples(st.sampled_from(["decide", "toggle", "ill", "well", "repeat", "answer"]), names),
    ),
    max_size=60,
)


class Driver:
    def __init__(self) -> None:
        self.harness = CoreHarness(INSTANCES, pools=[make_pool("chat", contextLength=32768)])
        self.last: Event | None = None
        self.decided: list[Decision] = []

    def step(self, step: Event | tuple[str, str]) -> None:
        self.harness.now += 0.7
        if isinstance(step, tuple):
            getattr(self, step[0])(step[1])
        else:
            self.last = step
            self.harness.apply(step)

    def decide(self, _: str) -> None:
        self.decided += self.harness.decide()

    def repeat(self, _: str) -> None:
        if self.last is not None:
            self.harness.apply(self.last)

    def toggle(self, name: str) -> None:
        there = {instance.name for instance in self.harness.instances}
        self.harness.configure([i for i in INSTANCES if (i.name in there) != (i.name == name)])
        self.well(name)

    def ill(self, name: str) -> None:
        self.harness.observe(name, healthy=False)

    def well(self, name: str) -> None:
        self.harness.observe(name, running=2, kv_cache_usage=0.1)

    def answer(self, _: str) -> None:
        if not self.decided:
            return
        decision = self.decided.pop()
        if isinstance(decision, Assign):
            self.harness.apply(FirstToken(decision.request_id, decision.epoch, 0.1))
        if isinstance(decision, Move):
            done = (decision.destination, True, decision.rung)
            self.harness.apply(MoveDone(decision.request_id, decision.epoch + 1, *done))


@settings(max_examples=250, deadline=None)
@given(steps)
def test_books_are_exact_after_any_interleaving(
    interleaving: list[Event | tuple[str, str]],
) -> None:
    driver = Driver()
    harness = driver.harness
    for step in interleaving:
        driver.step(step)
        harness.check_books()
    harness.apply(*(GatewayLost(gateway) for gateway in GATEWAYS))
    harness.check_books()
    assert all(load == Load() for load in harness.loads().values())
    assert harness.core.status(harness.now).pools[0].waiting == 0
    assert not harness.core._state.entries and not harness.core._state.of_gateway
    harness.decide()
    assert harness.decide() == []


@given(
    st.lists(st.sampled_from(["started", "release", "grow", "shrink"]), min_size=0, max_size=10),
    st.floats(0, 1e4),
)
def test_a_reservation_is_released_exactly_once(calls: list[str], prefill_s: float) -> None:
    load = Load()
    other = reserve(load, 10, 0.5, 3, False, 7)
    made = reserve(load, 100, prefill_s, 50, False, 60)
    releases = 0
    for call in calls:
        if call == "started":
            made.started()
        elif call == "release":
            releases += made.release()
        else:
            made.resize(*((200, 80, 120) if call == "grow" else (50, 8, 42)))
    releases += made.release()
    assert releases == 1
    assert load == Load(1, 10, 1, 500_000_000, 3, 0, 7)
    assert other.release()
    assert load == Load()


def test_a_running_request_is_booked_again_after_a_restart() -> None:
    harness = CoreHarness(INSTANCES)
    request = make_request("r0", epoch=3, output_tokens=20)
    harness.apply(Running(request, NAMES[1]))
    harness.check_books()
    assert harness.loads()[NAMES[1]].requests == 1
    assert harness.loads()[NAMES[1]].prefilling == 0
    harness.apply(Running(request, NAMES[1]))
    assert harness.loads()[NAMES[1]].requests == 1
    harness.apply(Finished("r0", 3, 60, "stop"))
    assert harness.loads()[NAMES[1]] == Load()


def test_a_request_reported_before_its_instance_is_booked_when_it_comes() -> None:
    harness = CoreHarness(INSTANCES[:1])
    harness.apply(Running(make_request("r0", pool="chat"), NAMES[2]))
    harness.configure(INSTANCES)
    assert harness.loads()[NAMES[2]].requests == 1
    harness.check_books()


def test_events_of_another_epoch_are_ignored() -> None:
    harness = CoreHarness(INSTANCES[:1])
    harness.assign("r0", epoch=2)
    before = harness.loads()[NAMES[0]]
    expected = (before.requests, before.kv_tokens)
    harness.apply(
        FirstToken("r0", 1, 0.1),
        Progress("r0", 1, 5000),
        Failed("r0", 1, NAMES[0], "connection"),
        Finished("r0", 1, 10, "stop"),
        MoveDone("r0", 1, NAMES[0], True, "replay"),
    )
    after = harness.loads()[NAMES[0]]
    assert (after.requests, after.kv_tokens) == expected
    assert after.prefilling == 1


def test_a_late_submission_of_an_ended_epoch_does_not_come_back() -> None:
    harness = CoreHarness(INSTANCES[:1])
    harness.assign("r0")
    harness.apply(Finished("r0", 1, 10, "stop"))
    assert harness.submit("r0") == []
    assert harness.loads()[NAMES[0]] == Load()


def test_a_longer_answer_than_expected_takes_more_room() -> None:
    harness = CoreHarness(INSTANCES[:1])
    harness.start("r0", max_output_tokens=0, prompt_tokens=1000)
    reserved = harness.loads()[NAMES[0]].kv_tokens
    harness.apply(Progress("r0", 1, 5000))
    assert harness.loads()[NAMES[0]].kv_tokens >= 6000 > reserved
    harness.check_books()


def test_a_request_on_an_instance_of_another_pool_than_reported_is_booked_there() -> None:
    """An instance that went over to another pool under its old name, while the scheduler was
    away."""
    pools = (make_pool("chat"), make_pool("spare"))
    harness = CoreHarness(make_instances(2, pool="spare"), pools=pools)
    harness.apply(Running(make_request("r0", pool="chat"), "spare-h100-1"))
    harness.check_books()
    assert harness.loads()["spare-h100-1"].requests == 1
    harness.submit("r1")  # pool chat has nobody: its columns know of no slot 1
    spare = harness.core._state.pools["spare"]
    spare.refresh(harness.now)
    assert spare.columns.requests[1] == 1.0
    harness.configure((*harness.instances, *make_instances(1)))
    harness.observe("chat-h100-0")
    assert harness.assign("r2").instance == "chat-h100-0"


def test_a_request_reported_with_a_pool_that_is_gone_is_booked_on_its_instance() -> None:
    harness = CoreHarness(INSTANCES)
    harness.apply(Running(make_request("r0", pool="renamed"), NAMES[1]))
    assert harness.loads()[NAMES[1]].requests == 1
    harness.check_books()
