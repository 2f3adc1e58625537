"""For how long copies between two llama-servers are not tried again."""

import pytest

from shunter_gateway.engines.slot_bars import SlotBars


class Clock:
    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bars(clock: Clock) -> SlotBars:
    return SlotBars(clock.time)


def lasts_s(bars: SlotBars, clock: Clock) -> float:
    begun = clock.now
    while bars.barred("a:1", "b:1"):
        clock.now += 10.0
    return clock.now - begun


def test_a_pair_is_barred_in_one_direction(bars: SlotBars) -> None:
    bars.bar("a:1", "b:1", "long")
    assert bars.barred("a:1", "b:1") and not bars.barred("b:1", "a:1")


def test_what_cannot_work_is_barred_for_long_at_once(bars: SlotBars, clock: Clock) -> None:
    bars.bar("a:1", "b:1", "long")
    assert lasts_s(bars, clock) == 600


def test_a_pair_is_barred_longer_each_time_it_refuses_again(bars: SlotBars, clock: Clock) -> None:
    lasted = []
    for _ in range(8):
        bars.bar("a:1", "b:1", "briefly")
        lasted.append(lasts_s(bars, clock))
    assert lasted == [10, 20, 40, 80, 160, 320, 600, 600]
    clock.now += 600.0
    bars.bar("a:1", "b:1", "briefly")
    assert lasts_s(bars, clock) == 10, "the last time was long ago"


def test_so_many_pairs_are_remembered(bars: SlotBars) -> None:
    for n in range(5000):
        bars.bar(f"{n}:1", "b:1", "long")
    assert sum(bars.barred(f"{n}:1", "b:1") for n in range(5000)) == 4096
    assert bars.barred("4999:1", "b:1") and not bars.barred("0:1", "b:1")
