"""What waits and runs keeps its class when classes are changed, and its place among the others."""

from typing import Any

from shunter_api.testing import make_policy
from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.domain.decisions import Assign, Hold
from shunter_scheduler.domain.events import Finished

ONE_AT_A_TIME = CoreSettings(head_room=HeadRoom(max_requests=1))
PATIENT = {"queueTimeout": "1h", "maxQueued": 100}
INTERACTIVE = {"name": "interactive", "priority": 100, "ttft": "300ms", "tpot": "40ms"}
BATCH = {"name": "batch", "priority": 0, "deadline": "24h"}


def policies(*classes: dict[str, Any]) -> tuple[Any, ...]:
    return (make_policy(classes=list(classes), admission=PATIENT),)


def placed_in_turn(harness: CoreHarness, running: str, count: int) -> list[str]:
    """Each takes a second."""
    order = []
    for _ in range(count):
        harness.now += 1.0
        (assigned,) = only(Assign, harness.after(Finished(running, 1, 10, "stop")))
        running = assigned.request_id
        order.append(running)
        harness.check_books()
    return order


def test_a_class_that_comes_between_passes_only_the_lower() -> None:
    harness = CoreHarness(
        make_instances(1), policies=policies(INTERACTIVE, BATCH), settings=ONE_AT_A_TIME
    )
    harness.start("first", slo_class="interactive")
    assert only(Hold, harness.submit("old-high", slo_class="interactive"))
    assert only(Hold, harness.submit("old-low", slo_class="batch"))
    harness.policies = policies(INTERACTIVE, {"name": "new", "priority": 70}, BATCH)
    harness.configure()
    harness.check_books()
    harness.now += 0.5
    for name, slo_class in (("middle", "new"), ("high", "interactive"), ("low", "batch")):
        harness.submit(name, slo_class=slo_class, arrived_at=harness.now)
    order = placed_in_turn(harness, "first", 5)
    assert order == ["old-high", "high", "middle", "old-low", "low"]


def test_a_class_that_is_removed_keeps_its_place_until_its_last_request_ends() -> None:
    harness = CoreHarness(
        make_instances(1), policies=policies(INTERACTIVE, BATCH), settings=ONE_AT_A_TIME
    )
    harness.start("first", slo_class="interactive")
    harness.submit("low", slo_class="batch")
    harness.submit("high", slo_class="interactive")
    harness.policies = policies({**BATCH, "priority": 60})
    harness.configure()
    harness.submit("new", slo_class="batch")
    assert placed_in_turn(harness, "first", 3) == ["high", "new", "low"]
    harness.apply(Finished("low", 1, 10, "stop"))
    harness.configure()
    assert set(harness.core._state.ranks) == {50, 60}
