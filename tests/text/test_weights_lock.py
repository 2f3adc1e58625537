"""A lock on a shared volume: one holder, dead ones are succeeded, and who lost it knows."""

import errno
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


def test_a_lock_that_could_not_be_written_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full volume takes the name of a file, but not what is in it: others would wait for it."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"), volume_lock(tmp_path / "lock", "me", QUICK):
        raise AssertionError("must not be had")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE])
def test_a_lock_that_goes_while_it_is_looked_at_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As NFS tells of files that another node has deleted; it is not asked without a pause."""
    lock = tmp_path / "lock"
    lock.write_text("other")
    waited: list[str] = []
    real = Path.open

    def gone(path: Path, mode: str = "r", **options: Any) -> Any:
        if path == lock and mode == "r" and len(waited) < 3:
            raise OSError(code, os.strerror(code))
        return real(path, mode, **options)

    def waiting(holder: str) -> None:
        waited.append(holder)
        if len(waited) == 3:
            lock.unlink()

    monkeypatch.setattr(Path, "open", gone)
    with volume_lock(lock, "me", QUICK, waiting):
        assert lock.read_text() == "me"
    assert waited == ["", "", ""]


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
