"""Requests of a pool at zero: held by the scheduler, over its restart, and without one."""

from shunter_gateway.dispatcher import OTHER_PHASE, PHASES
from shunter_gateway.request import Waiting
from shunter_gateway.testing_engines import answer_ids
from shunter_gateway.testing_scheduler import HOLD_TIMEOUT_S, MAX_HELD, topology_message
from shunter_gateway.testing_world import LOST, PROMPT, World
from shunter_proto.v1 import scheduler_pb2 as pb

UNDISTURBED = answer_ids(PROMPT, 8)


def cold() -> World:
    """One pool, `chat`, that has no instance and may start one."""
    world = World(instances={}, from_zero=("chat",))
    world.scheduler.auto = False
    return world


def hold(world: World, request_id: str = "r1", epoch: int = 1, **fields: object) -> None:
    command = pb.Hold(request_id=request_id, epoch=epoch, **fields)  # type: ignore[arg-type]
    world.scheduler.command(pb.SchedulerCommand(hold=command))


def warm_up(world: World) -> None:
    """The first instance is there."""
    world.scheduler.topology = topology_message({"chat-0": "chat"}, from_zero=("chat",))
    world.scheduler.command(pb.SchedulerCommand(topology=world.scheduler.topology))


def waited_ms(world: World) -> list[int]:
    return [e.waited_ms for e in world.scheduler.sent(pb.Submitted) if isinstance(e, pb.Submitted)]


def queued_ms(world: World) -> list[int]:
    return [e.queued_ms for e in world.scheduler.sent(pb.Submitted) if isinstance(e, pb.Submitted)]


def test_nothing_is_known_of_the_wait_until_the_scheduler_says() -> None:
    world = cold()
    handle, _ = world.submit()
    assert handle.waiting() == Waiting("queued")


def test_hold_tells_phase_and_position_and_the_eta_counts_down() -> None:
    world = cold()
    handle, sink = world.submit()
    hold(world, phase="starting", position=3, eta_ms=42_000)
    assert handle.waiting() == Waiting("starting", 3, 42.0)
    world.settle(2)
    waiting = handle.waiting()
    assert waiting is not None and waiting.eta_s is not None and 39.9 < waiting.eta_s < 40.1
    hold(world, phase="loading-weights", position=0)
    assert handle.waiting() == Waiting("loading-weights", 0)
    warm_up(world)
    world.scheduler.assign(world.scheduler.waiting["r1"], "chat-0")
    assert handle.waiting() is None
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED and handle.waiting() is None


def test_waiting_requests_are_counted_by_phase() -> None:
    world = cold()
    for name, phase in (("r1", "starting"), ("r2", "starting"), ("r3", "new-phase"), ("r4", "")):
        world.submit(request_id=name)
        hold(world, name, phase=phase)
    counted = {phase: world.dispatcher.waiting_in(phase) for phase in (*PHASES, OTHER_PHASE)}
    assert counted == {
        "queued": 1, "scaling-up": 0, "starting": 2,
        "loading-weights": 0, "unschedulable": 0, "other": 1,
    }  # fmt: skip


def test_eta_that_has_passed_is_not_told() -> None:
    world = cold()
    handle, _ = world.submit()
    hold(world, phase="starting", eta_ms=1000)
    world.settle(1.5)
    assert handle.waiting() == Waiting("starting", 0)


def test_phase_that_could_break_a_line_is_not_passed_on() -> None:
    world = cold()
    handle, _ = world.submit()
    for phase in ("a\n\ndata: x", "x" * 40, "", "Queued now"):
        hold(world, phase=phase)
        assert handle.waiting() == Waiting("queued", 0)


def test_hold_of_an_old_epoch_says_nothing() -> None:
    world = cold()
    handle, _ = world.submit()
    hold(world, epoch=7, phase="starting")
    assert handle.waiting() == Waiting("queued")


def test_client_that_leaves_is_released_at_once() -> None:
    world = cold()
    handle, _ = world.submit()
    hold(world)
    handle.cancel()
    finished = world.scheduler.sent(pb.Finished)
    assert [e.finish_reason for e in finished if isinstance(e, pb.Finished)] == ["cancelled"]
    assert world.dispatcher.in_flight == 0 and handle.waiting() is None


def test_rejections_of_a_pool_at_zero_are_503_with_retry_after() -> None:
    for reason in ("hold_full", "hold_timeout"):
        world = cold()
        _, sink = world.submit()
        reject = pb.Reject(request_id="r1", epoch=1, reason=reason, retry_after_ms=9000)
        world.scheduler.command(pb.SchedulerCommand(reject=reject))
        assert sink.error is not None
        assert (sink.error.status, sink.error.code) == (503, reason)
        assert sink.error.retry_after_s == 9


def test_request_keeps_its_place_in_time_over_a_restart_of_the_scheduler() -> None:
    world = cold()
    handle, sink = world.submit()
    hold(world, phase="starting", position=1, eta_ms=60_000)
    world.settle(20)
    world.scheduler.lose()
    world.settle(0.5)
    world.scheduler.connect(world.dispatcher)
    assert len(waited_ms(world)) == 2 and waited_ms(world)[0] == 0
    assert 20_400 <= waited_ms(world)[1] <= 20_600
    assert 20_400 <= queued_ms(world)[1] <= 20_600
    waiting = handle.waiting()
    assert waiting is not None and waiting.phase == "starting"  # until there is news
    hold(world, phase="loading-weights")
    warm_up(world)
    world.scheduler.assign(world.scheduler.waiting["r1"], "chat-0")
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_without_a_scheduler_requests_are_held_up_to_the_pools_bound() -> None:
    world = cold()
    world.scheduler.lose()
    world.settle(3)
    clients = [world.submit(request_id=f"r{i}") for i in range(MAX_HELD + 2)]
    errors = [sink.error for _, sink in clients]
    assert [error is None for error in errors] == [True] * MAX_HELD + [False] * 2
    assert {(e.status, e.code, e.retry_after_s > 0) for e in errors if e} == {
        (503, "hold_full", True)
    }
    assert clients[0][0].waiting() == Waiting("starting")
    clients[0][0].cancel()  # makes room for one
    _, sink = world.submit(request_id="next")
    assert sink.error is None


def test_what_the_scheduler_said_last_stands_while_it_is_gone() -> None:
    world = cold()
    handle, _ = world.submit()
    hold(world, phase="loading-weights", position=2, eta_ms=60_000)
    world.scheduler.lose()
    world.settle(10)
    waiting = handle.waiting()
    assert waiting is not None and waiting.eta_s is not None and 49 < waiting.eta_s < 51
    assert (waiting.phase, waiting.position) == ("loading-weights", None)


def test_held_without_a_scheduler_ends_after_the_hold_timeout() -> None:
    world = cold()
    world.scheduler.lose()
    world.settle(3)
    _, sink = world.submit()
    world.settle(HOLD_TIMEOUT_S - 1)
    assert sink.error is None
    world.settle(1.5)
    assert sink.error is not None
    assert (sink.error.status, sink.error.code) == (503, "hold_timeout")
    assert world.dispatcher.in_flight == 0


def test_a_scheduler_that_comes_back_takes_over_what_was_held() -> None:
    world = cold()
    world.scheduler.lose()
    world.settle(3)
    held = [world.submit(request_id=f"r{i}") for i in range(MAX_HELD)]
    world.settle(10)
    world.scheduler.connect(world.dispatcher)
    assert set(world.scheduler.waiting) == {"r0", "r1", "r2"}
    assert all(ms >= 9_900 for ms in waited_ms(world)[-MAX_HELD:])
    warm_up(world)
    for request_id in ("r0", "r1", "r2"):
        world.scheduler.assign(world.scheduler.waiting[request_id], "chat-0")
    world.run_out(10)
    assert all(sink.token_ids == UNDISTURBED for _, sink in held)
    world.scheduler.lose()  # nothing is counted as held any more
    world.scheduler.topology = topology_message({}, from_zero=("chat",))
    world.dispatcher.on_commands(
        pb.SchedulerCommands(commands=[pb.SchedulerCommand(topology=world.scheduler.topology)])
    )
    world.settle(3)
    again = [world.submit(request_id=f"s{i}")[1] for i in range(MAX_HELD)]
    assert all(sink.error is None for sink in again)


def test_a_scheduler_that_was_silent_and_speaks_again_is_asked() -> None:
    world = cold()
    world.settle(0.1)
    _, sink = world.submit()
    world.settle(3)  # silent: held here
    assert sink.error is None
    world.scheduler.waiting.clear()
    world.scheduler.command()
    world.settle(0.2)
    assert set(world.scheduler.waiting) == {"r1"}


def test_what_a_silent_scheduler_places_is_no_longer_held_here() -> None:
    world = cold()
    world.settle(0.1)
    for i in range(MAX_HELD):
        world.submit(request_id=f"r{i}")
    world.settle(3)  # silent: held here
    submitted = list(world.scheduler.waiting.values())
    assert len(submitted) == MAX_HELD
    world.scheduler.topology = topology_message({"chat-0": "chat"}, from_zero=("chat",))
    for event in submitted:
        world.scheduler.assign(event, "chat-0")
    assert all(life.state == "assigned" for life in world.dispatcher._state.requests.values())
    world.scheduler.lose()
    message = topology_message({}, from_zero=("chat",))
    world.dispatcher.on_commands(
        pb.SchedulerCommands(commands=[pb.SchedulerCommand(topology=message)])
    )
    world.settle(3)
    later = [world.submit(request_id=f"s{i}")[1] for i in range(MAX_HELD)]
    assert all(sink.error is None for sink in later)


def test_pool_that_does_not_start_from_zero_is_refused_without_a_scheduler() -> None:
    world = World(instances={"other-0": "other"}, from_zero=())
    world.scheduler.lose()
    world.settle(3)
    _, sink = world.submit()
    assert sink.error is not None and sink.error.code == "no_instance"


def test_answer_whose_only_engine_died_is_held_and_goes_on() -> None:
    world = World(instances={"chat-0": "chat"}, from_zero=("chat",))
    handle, sink = world.submit()
    world.call_of().step(3)
    world.scheduler.lose()
    world.scheduler.topology = topology_message({}, from_zero=("chat",))
    world.dispatcher.on_commands(
        pb.SchedulerCommands(commands=[pb.SchedulerCommand(topology=world.scheduler.topology)])
    )
    world.settle(HOLD_TIMEOUT_S + 30)  # it has run for long when its engine dies
    world.call_of().fail(LOST)
    world.settle(5)
    assert sink.error is None and handle.waiting() == Waiting("starting")
    world.scheduler.topology = topology_message({"chat-1": "chat"}, from_zero=("chat",))
    world.scheduler.connect(world.dispatcher)
    assert waited_ms(world)[-1] > HOLD_TIMEOUT_S * 1000
    assert queued_ms(world)[-1] < 6_000, "it waits since its engine died"
    world.run_out(20)
    assert sink.token_ids == UNDISTURBED
