"""Who leads, by a `coordination.k8s.io` Lease: the decision, as a pure function.

No clock of one machine is compared with another's. A candidate counts the lease's duration on its
own monotonic clock, from the moment at which it saw the holder's last renewal. The holder counts a
shorter time from the moment before it asked for that renewal, so it has stopped before anyone else
may begin. Writes go through only where the Lease is still as the writer saw it.
"""

from dataclasses import dataclass, replace

MAX_RAISED_TERM = 2**30  # leaseTransitions is an int32: leave room for those to come


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds. `give_up_s` after asking for its last renewal a holder has ceased to lead."""

    lease_s: float = 6.0
    renew_s: float = 2.0
    retry_s: float = 1.0
    give_up_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.retry_s <= self.renew_s < self.give_up_s < self.lease_s:
            raise ValueError(
                f"retry {self.retry_s:g} <= renew {self.renew_s:g} < give up {self.give_up_s:g} "
                f"< lease {self.lease_s:g} does not hold"
            )


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The Lease as the API has it. An empty `holder` has released it.

    `transitions` grows by one with each change of the holder: it is the term.
    """

    holder: str
    duration_s: float
    transitions: int
    version: str = ""  # resourceVersion; empty: not written yet


@dataclass(frozen=True, slots=True)
class View:
    """What one candidate knows. `seen_at` and `renewed_at` are instants of its monotonic clock.

    `record` None: there is no Lease, or (`read` False) it was not looked at yet.
    """

    read: bool = False
    record: LeaseRecord | None = None
    seen_at: float = float("-inf")  # the record was first seen as it is
    renewed_at: float = float(
        "-inf"
    )  # before asking for the last renewal of ours that went through
    highest_term: int = 0  # anywhere: a Lease that was deleted must not begin again from 1


@dataclass(frozen=True, slots=True)
class Read:
    """Look at the Lease."""


@dataclass(frozen=True, slots=True)
class Write:
    """Create the Lease, or replace the one of `record.version`."""

    record: LeaseRecord


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`, unless the Lease changes."""

    until: float


Action = Read | Write | Wait


def decide(view: View, me: str, now: float, timing: LeaseTiming) -> Action:
    """The next thing that the candidate `me` does to become or stay the holder."""
    if not view.read:
        return Read()
    record = view.record
    if record is None:
        return Write(LeaseRecord(me, timing.lease_s, view.highest_term + 1))
    if record.holder == me:
        renew_at = view.renewed_at + timing.renew_s
        if record.transitions >= view.highest_term and now < renew_at:
            return Wait(renew_at)
        return Write(replace(record, transitions=_raised(record.transitions, view)))
    expires_at = view.seen_at + record.duration_s
    if record.holder and now < expires_at:
        return Wait(expires_at)
    term = max(record.transitions, view.highest_term) + 1
    return Write(LeaseRecord(me, timing.lease_s, term, record.version))


def _raised(transitions: int, view: View) -> int:
    """A term that some gateway has seen is no longer ours alone: go above it."""
    return transitions if transitions >= view.highest_term else view.highest_term + 1


def observed(view: View, record: LeaseRecord | None, now: float) -> View:
    """The Lease was read, or a watch told of it. What is known already is not seen anew, so that
    a Lease that nobody renews runs out."""
    if record is not None and record == view.record:
        return replace(view, read=True)
    known = max(view.highest_term, record.transitions if record else 0)
    return replace(view, read=True, record=record, seen_at=now, highest_term=known)


def written(view: View, record: LeaseRecord, asked_at: float, now: float) -> View:
    """A write of ours went through; `record` has its new version."""
    return replace(observed(view, record, now), renewed_at=asked_at)


def term_of(view: View, me: str, now: float, timing: LeaseTiming) -> int | None:
    """The term in which `me` leads at `now`; None where it does not."""
    record = view.record
    if record is None or record.holder != me or now >= leads_until(view, timing):
        return None
    return record.transitions


def leads_until(view: View, timing: LeaseTiming) -> float:
    """When leadership ends by itself, were the Lease held and never renewed again."""
    return view.renewed_at + timing.give_up_s


def raise_term(view: View, term: int) -> View:
    """A term was seen elsewhere that is above ours."""
    return replace(view, highest_term=max(view.highest_term, min(term, MAX_RAISED_TERM)))


def released(record: LeaseRecord) -> LeaseRecord:
    """What a holder that stops leaves behind: free at once."""
    return replace(record, holder="", duration_s=1.0)
