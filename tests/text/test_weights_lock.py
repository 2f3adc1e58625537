"""A lock on a shared volume: one holder, dead ones are succeeded, and who lost it knows."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shunter_text import weights_lock
from shunter_text.weights_lock import LockTimes, volume_lock

QUICK = LockTimes(beat_s=0.02, stale_s=5, poll_s=0.001)


def test_many_that_want_it_have_it_one_after_the_other(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work(name: int) -> None:
        nonlocal inside, most
        with volume_lock(tmp_path / "lock", f"pod-{name}", QUICK):
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.002)
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dead_holder_is_succeeded_by_one_of_those_who_wait(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("dead")
    waited: list[str] = []
    order: list[str] = []

    def work(name: int) -> None:
        ticks, now = itertools.count(), 0.0

        def clock() -> float:
            """A second passes with each look at the dead one's lock, none afterwards."""
            nonlocal now
            if not order:
                now = float(next(ticks))
            return now

        with volume_lock(lock, f"pod-{name}", QUICK, waited.append, clock):
            order.append(f"pod-{name}")
            threading.Event().wait(0.05)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(order) == [f"pod-{n}" for n in range(4)]
    assert waited[0] == "dead"
    assert list(tmp_path.iterdir()) == [], "no graves are left"


def test_a_holder_that_touches_its_lock_is_not_stale(tmp_path: Path) -> None:
    """The waiter's clock may jump as it likes between two touches that it sees."""
    lock = tmp_path / "lock"
    lock.write_text("alive")
    looks = itertools.count(1)
    ticks = itertools.count(step=1)

    def waiting(holder: str) -> None:
        look = next(looks)
        os.utime(lock, ns=(look, look))
        if look == 50:
            raise TimeoutError

    with (
        pytest.raises(TimeoutError),
        volume_lock(lock, "me", QUICK, waiting, lambda: float(next(ticks))),
    ):
        raise AssertionError("must not be had")
    assert lock.read_text() == "alive"


def test_a_live_lock_that_took_a_dead_ones_place_is_put_back(tmp_path: Path) -> None:
    """Between a look and the rename another may have succeeded the dead holder."""
    lock = tmp_path / "lock"
    lock.write_text("dead")
    seen = weights_lock._look(lock)
    assert seen is not None
    lock.unlink()
    lock.write_text("alive")
    weights_lock._take_away(lock, "me", seen)
    assert lock.read_text() == "alive"
    assert list(tmp_path.iterdir()) == [lock]


@pytest.mark.parametrize("left", ["other", None])
def test_who_lost_the_lock_is_told_and_leaves_the_new_one_alone(
    tmp_path: Path, left: str | None
) -> None:
    lock = tmp_path / "lock"
    with volume_lock(lock, "me", QUICK) as lost:
        assert not lost.wait(0.1), "it is touched and kept"
        lock.unlink()
        if left:
            lock.write_text(left)
        assert lost.wait(10)
    assert (lock.read_text() if lock.exists() else None) == left
