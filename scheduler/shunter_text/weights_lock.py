"""One downloader at a time on a volume that pods of several nodes mount.

File locks are no help there: NFS may be mounted with `nolock`, SMB and FUSE file systems keep them
on one node. Instead the holder makes a file exclusively and touches it as it works. A waiter that
sees no touch for `stale_s`, by its own clock, takes the file away and tries to be the next holder.

Two may believe that they hold it for as long as one touch, when a holder was stopped and woke up.
That costs bandwidth and nothing else: both write the same bytes at the same offsets, and what is
published is checked first and moved into place as a whole (`weights_store`).
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LockTimes:
    """`stale_s` is above the 60 s that NFS clients may keep a file's attributes."""

    beat_s: float = 10.0
    stale_s: float = 90.0
    poll_s: float = 2.0


@dataclass(frozen=True, slots=True)
class _Seen:
    holder: str
    touched_ns: int


@contextmanager
def volume_lock(
    path: Path,
    holder: str,
    times: LockTimes = LockTimes(),
    waiting: Callable[[str], None] = lambda holder: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[threading.Event]:
    """Waits for the lock and holds it. Yields an event that is set when the lock is lost.

    `holder` is unique among those that live at once; a lock of one's own name is one's own earlier
    life and is taken over at once. `waiting` gets the present holder at every look, and may raise
    to give up. Raises `OSError` where the volume cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _acquire(path, holder, times, waiting, clock)
    lost, done = threading.Event(), threading.Event()
    beat = threading.Thread(
        target=_beat, args=(path, holder, times.beat_s, lost, done), daemon=True
    )
    beat.start()
    try:
        yield lost
    finally:
        done.set()
        beat.join()
        if _holder(path) == holder:
            path.unlink(missing_ok=True)


def _acquire(
    path: Path,
    holder: str,
    times: LockTimes,
    waiting: Callable[[str], None],
    clock: Callable[[], float],
) -> None:
    last, since = None, clock()
    while not _create(path, holder):
        seen = _look(path)
        if seen is not None:
            if seen != last:
                last, since = seen, clock()
            if seen.holder == holder or clock() - since >= times.stale_s:
                _take_away(path, holder, seen)
                continue
        waiting(seen.holder if seen is not None else "")
        time.sleep(times.poll_s)


def _create(path: Path, holder: str) -> bool:
    """A full volume may take the name and not the content: then others would wait for nobody."""
    try:
        lock = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        try:
            os.write(lock, holder.encode())
        finally:
            os.close(lock)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _look(path: Path) -> _Seen | None:
    """Opening the file makes an NFS client ask the server for its present attributes. None where
    it is gone, which NFS calls stale when another node has deleted it."""
    try:
        with path.open(encoding="utf-8") as file:
            return _Seen(file.read(256), os.fstat(file.fileno()).st_mtime_ns)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise


def _take_away(path: Path, holder: str, stale: _Seen) -> None:
    """Of several that try, the rename succeeds for one. A live lock that was made between the look
    and the rename is put back, but for file systems without links or where a third was quicker:
    then its holder notices at its next touch and waits again."""
    grave = path.with_name(f"{path.name}.stale-{holder.replace('/', '_')}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, grave)
        if _look(grave) != stale:
            with contextlib.suppress(OSError):
                os.link(grave, path)
        grave.unlink(missing_ok=True)


def _holder(path: Path) -> str | None:
    seen = _look(path)
    return seen.holder if seen is not None else None


def _beat(
    path: Path, holder: str, beat_s: float, lost: threading.Event, done: threading.Event
) -> None:
    while not done.wait(beat_s):
        try:
            if _holder(path) != holder:
                lost.set()
                return
            os.utime(path)
        except FileNotFoundError:
            lost.set()
            return
        except OSError:  # a volume that is away for a moment; being stale is the others' verdict
            continue
