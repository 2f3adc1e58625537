"""Without a scheduler the gateway places by itself, and reports when one is back."""

from shunter_gateway.fallback import Load, choose_instance
from shunter_gateway.testing_engines import answer_ids
from shunter_gateway.testing_scheduler import topology_message
from shunter_gateway.testing_world import PROMPT, World
from shunter_gateway.topology import topology_from_proto
from shunter_proto.v1 import scheduler_pb2 as pb

UNDISTURBED = answer_ids(PROMPT, 8)


def test_no_topology_yet_is_503_with_retry_after() -> None:
    world = World(connected=False)
    _, sink = world.submit()
    assert sink.error is not None
    assert (sink.error.status, sink.error.code) == (503, "no_topology")
    assert sink.error.retry_after_s > 0


def test_waiting_request_is_placed_within_two_seconds() -> None:
    world = World()
    world.scheduler.lose()
    _, sink = world.submit()
    world.settle(0.8)
    assert sink.assigned == []
    world.settle(1.0)
    assert len(sink.assigned) == 1
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED
    assert world.observer.counts == {"alone": 1}


def test_new_request_is_placed_at_once_when_the_scheduler_is_long_gone() -> None:
    world = World()
    world.scheduler.lose()
    world.settle(3)
    sinks = [world.submit(request_id=f"r{i}")[1] for i in range(6)]
    assert sorted(name for sink in sinks for name in sink.assigned) == sorted(
        2 * ["chat-0", "chat-1", "chat-2"]
    )


def test_silent_scheduler_counts_as_lost() -> None:
    world = World()
    world.scheduler.auto = False
    world.settle(0.1)
    _, sink = world.submit()
    world.settle(1.9)
    assert len(sink.assigned) == 1
    assert world.scheduler.ledger["r1"] == (2, sink.assigned[0])


def test_late_answer_of_a_silent_scheduler_is_stale() -> None:
    world = World()
    world.scheduler.auto = False
    world.settle(0.1)
    _, sink = world.submit()
    first = world.scheduler.waiting["r1"]
    world.settle(1.9)
    world.scheduler.assign(first, "chat-2")
    world.run_out(10)
    assert len(sink.assigned) == 1 and sink.token_ids == UNDISTURBED


def test_held_request_waits_for_its_scheduler() -> None:
    world = World()
    world.scheduler.auto = False
    world.settle(0.1)
    _, sink = world.submit()
    world.scheduler.command(pb.SchedulerCommand(hold=pb.Hold(request_id="r1", epoch=1)))
    world.settle(5)
    assert sink.assigned == []


def test_scheduler_that_comes_back_is_told_what_runs_and_what_waits() -> None:
    world = World()
    _, running = world.submit()
    world.call_of().step(2)
    world.scheduler.lose()
    world.scheduler.auto = False
    _, waiting = world.submit(request_id="r2")
    world.scheduler.events.clear()
    world.scheduler.connect(world.dispatcher)
    assert world.scheduler.ledger == {"r1": (1, running.assigned[0])}
    assert set(world.scheduler.waiting) == {"r2"}
    world.scheduler.assign(world.scheduler.waiting["r2"], "chat-0")
    world.run_out(10)
    assert running.token_ids == waiting.token_ids == UNDISTURBED
    assert world.scheduler.ledger == {} and world.scheduler.waiting == {}


def test_running_requests_go_on_without_a_scheduler() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().step(2)
    world.scheduler.lose()
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_progress_is_reported_once_for_what_has_changed() -> None:
    world = World()
    world.submit()
    world.call_of().step(2)
    world.settle(2)
    progress = world.scheduler.sent(pb.Progress)
    assert [[(i.request_id, i.output_tokens) for i in p.items] for p in progress] == [[("r1", 2)]]  # type: ignore[union-attr]


def test_least_predicted_work_wins() -> None:
    topology = topology_from_proto(topology_message({"a": "p", "b": "p"}))
    instances = topology.instances_by_pool["p"]
    loads = {"a": Load(prompt_tokens=1000, output_tokens=10)}
    chosen = choose_instance(instances, loads, (), 100, 10)
    assert chosen is not None and chosen.name == "b"
    avoided = choose_instance(instances, loads, ("b",), 100, 10)
    assert avoided is not None and avoided.name == "a"
    assert choose_instance((), loads, (), 100, 10) is None


def talk(world: World, seconds: int) -> None:
    """The scheduler speaks, but not of this request."""
    for _ in range(seconds * 2):
        world.scheduler.command()
        world.settle(0.5)


def test_scheduler_that_lost_a_request_is_asked_again() -> None:
    world = World()
    world.scheduler.auto = False
    _, sink = world.submit()
    talk(world, 6)
    submitted = world.scheduler.sent(pb.Submitted)
    assert [e.epoch for e in submitted if isinstance(e, pb.Submitted)] == [1, 1]
    assert not sink.assigned
    world.scheduler.assign(world.scheduler.waiting["r1"], "chat-1")
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_request_that_is_never_answered_ends() -> None:
    world = World()
    world.scheduler.auto = False
    _, sink = world.submit()
    talk(world, 40)
    assert sink.error is not None and sink.error.code == "unanswered"
    assert sink.error.retry_after_s > 0
    assert world.dispatcher.in_flight == 0
    assert world.scheduler.waiting == {}


def test_request_on_hold_is_not_asked_for() -> None:
    world = World()
    world.scheduler.auto = False
    world.submit()
    world.scheduler.command(pb.SchedulerCommand(hold=pb.Hold(request_id="r1", epoch=1)))
    talk(world, 40)
    assert len(world.scheduler.sent(pb.Submitted)) == 1
    assert world.dispatcher.in_flight == 1
