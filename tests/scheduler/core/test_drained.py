"""What a drain's deadline finds running and its gateway submits again goes elsewhere."""

from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.domain.decisions import Assign, Cancel
from shunter_scheduler.domain.events import DrainRequested, Progress, Submitted

STAYS = "penalties"


def test_it_is_placed_on_another_instance_and_the_drain_is_done() -> None:
    values = make_instances(2)
    harness = CoreHarness(values[:1])
    harness.start("r", unmovable_reason=STAYS)
    harness.apply(Progress("r", 1, 10))
    harness.configure(values)
    harness.observe(values[1].name)
    assert harness.after(DrainRequested("chat-h100-0", 10.0)) == []
    harness.now = 10.0
    (cancel,) = only(Cancel, harness.decide())
    assert cancel.reason.startswith("drain"), "by which gateways know that it may go on"
    again = make_request("r", epoch=2, output_tokens=10, unmovable_reason=STAYS)
    (assign,) = only(Assign, harness.after(Submitted(again)))
    assert (assign.epoch, assign.instance) == (2, "chat-h100-1")
    status = harness.core.drain_status("chat-h100-0")
    assert status is not None
    assert (status.done, status.moved, status.failed) == (True, 1, 0)
    harness.check_books()
