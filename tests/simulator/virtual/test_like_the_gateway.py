"""The simulated gateway reports to the scheduler what the real one does: both are led through the
same stories, and what they sent is compared, kind by kind and epoch by epoch."""

from collections.abc import Callable

import pytest

from two_gateways import Gateway, RealGateway, Rung, SimulatedGateway


def undisturbed(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.finish()


def failure_in_mid_answer(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.fail()
    gateway.assign("chat-1")
    gateway.finish()


def two_failures_before_the_first_token(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.fail()
    gateway.assign("chat-1")
    gateway.fail()
    gateway.assign("chat-2")
    gateway.finish()


def move_before_the_first_token(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.move("chat-1")
    gateway.finish()


def move_in_mid_answer(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.move("chat-1")
    gateway.warm()
    gateway.finish()


def answer_that_ends_while_the_destination_fails_to_warm_up(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.move("chat-1")
    gateway.fail_warm_up()
    gateway.finish()


def source_that_fails_during_the_warm_up(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.move("chat-1")
    gateway.fail()
    gateway.assign("chat-2")
    gateway.finish()


def destination_that_fails_before_its_first_token(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.move("chat-1")
    gateway.fail()
    gateway.assign("chat-2")
    gateway.finish()


def second_move_beside_the_first(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.move("chat-1")
    gateway.move("chat-2")
    gateway.warm()
    gateway.finish()


def moves_that_are_not_possible(gateway: Gateway) -> None:
    gateway.move("chat-1")  # it waits
    gateway.assign("chat-0")
    gateway.begin()
    gateway.move("chat-0")
    gateway.move("chat-1", epoch=7)  # not of the present owner
    gateway.finish()


def suspension(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.suspend()
    gateway.assign("chat-0")
    gateway.finish()


def deadline_of_a_drain(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.cancel()
    gateway.assign("chat-1")
    gateway.finish()


def deadline_of_a_drain_before_the_first_token(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.cancel()
    gateway.assign("chat-1")
    gateway.finish()


def deadline_of_a_drain_during_the_warm_up(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.move("chat-1")
    gateway.cancel()
    gateway.assign("chat-2")
    gateway.finish()


def failure_after_the_deadline_of_a_drain(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.cancel()
    gateway.assign("chat-1")
    gateway.fail()
    gateway.assign("chat-2")
    gateway.finish()


def copy_that_breaks_and_goes_by_replay(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.move("chat-1")
    gateway.break_copy()
    gateway.finish()


def source_that_goes_on_after_it_stopped(gateway: Gateway) -> None:
    gateway.assign("chat-0")
    gateway.begin()
    gateway.move("chat-1")
    gateway.lose_copy()
    gateway.finish()


STORIES = (
    undisturbed,
    failure_in_mid_answer,
    two_failures_before_the_first_token,
    move_before_the_first_token,
    move_in_mid_answer,
    answer_that_ends_while_the_destination_fails_to_warm_up,
    source_that_fails_during_the_warm_up,
    destination_that_fails_before_its_first_token,
    second_move_beside_the_first,
    moves_that_are_not_possible,
    suspension,
    deadline_of_a_drain,
    deadline_of_a_drain_before_the_first_token,
    deadline_of_a_drain_during_the_warm_up,
    failure_after_the_deadline_of_a_drain,
)


BY_KV = (
    move_before_the_first_token,
    move_in_mid_answer,
    answer_that_ends_while_the_destination_fails_to_warm_up,
    source_that_fails_during_the_warm_up,
    second_move_beside_the_first,
    moves_that_are_not_possible,
    copy_that_breaks_and_goes_by_replay,
    source_that_goes_on_after_it_stopped,
)
CASES: list[tuple[Callable[[Gateway], None], Rung]] = [
    *((story, "replay") for story in STORIES),
    *((story, "kv") for story in BY_KV),
]


@pytest.mark.parametrize(("story", "rung"), CASES, ids=[f"{s.__name__}-{r}" for s, r in CASES])
def test_both_report_the_same(story: Callable[[Gateway], None], rung: Rung) -> None:
    real, simulated = RealGateway(rung), SimulatedGateway(rung)
    story(real)
    story(simulated)
    assert simulated.reports() == real.reports()
    assert len(real.reports()) >= 2
