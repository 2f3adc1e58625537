"""What reports about requests tell of a profile's times, in the terms of its corrections.

Prefill: the time to first token of a request. Where prefills were ahead of it, the time observed
stands for as many prefills like its own as were predicted, and counts the less for it.

Decode: on each instance one request at a time is the probe. From one report of its progress to the
next it took one step per token; the batch and the context are the ledger's, the mean of both ends.
Prefills that ended meanwhile are taken off as predicted, and the sample counts the less for them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shunter_scheduler.core.ledger import NS

if TYPE_CHECKING:
    from shunter_scheduler.core.entry import Entry
    from shunter_scheduler.core.instance import InstanceRecord

# Fewer tokens than this, or a shorter time, say little about the time per token.
MIN_TOKENS = 8
MIN_S = 0.2
# A probe that says nothing for so long, as one that was preempted, makes room for another.
MAX_S = 5.0
# Less of the time observed than this share says little about what it is for.
MIN_PREFILL_SHARE = 0.1
MIN_DECODE_SHARE = 0.3


@dataclass(slots=True)
class Probe:
    """`of` is the request that is watched on an instance; the rest is as at `since`."""

    of: "Entry | None" = None
    since: float = 0.0
    tokens: int = 0
    sequences: float = 0.0
    context_tokens: float = 0.0
    prefilled_ns: int = 0


def prefill_seen(
    record: "InstanceRecord", entry: "Entry", ttft_s: float, cached_tokens: int, now: float
) -> bool:
    """True where the profile's correction was published. `cached_tokens` is what the engine says
    that it had cached; 0 where it says nothing."""
    correction, reservation = record.model.prefill, entry.reservation
    if not entry.predicted_ttft_s or reservation is None or not correction.wants(now):
        return False
    own_s = reservation.prefill_ns / NS
    share = own_s / entry.predicted_ttft_s
    if share < MIN_PREFILL_SHARE:
        return False
    share = min(1.0, share)
    cached = cached_tokens or entry.cached_tokens
    tokens = max(1, entry.context_tokens - cached)
    features = (1.0, tokens, tokens * (cached + 0.5 * tokens))
    return correction.observe(features, ttft_s * share, now, share)


def decode_begins(record: "InstanceRecord", entry: "Entry", output_tokens: int, now: float) -> None:
    """A request that has just generated its first token here may be the probe."""
    probe = record.probe
    if probe.of is None or probe.of.instance is not record or now - probe.since > MAX_S:
        _watch(probe, record, entry, output_tokens, now)


def decode_seen(
    record: "InstanceRecord", entry: "Entry", output_tokens: int, now: float, *, last: bool = False
) -> bool:
    """A report of progress, or with `last` of the end. True where the correction was published."""
    probe = record.probe
    if probe.of is not entry:
        if not last:
            decode_begins(record, entry, output_tokens, now)
        return False
    tokens, took_s = output_tokens - probe.tokens, now - probe.since
    published = False
    if tokens >= MIN_TOKENS and took_s >= MIN_S:
        published = _sample(record, probe, tokens, took_s, now)
    elif not last and took_s <= MAX_S:
        return False
    if last:
        probe.of = None
    else:
        _watch(probe, record, entry, output_tokens, now)
    return published


def _watch(
    probe: Probe, record: "InstanceRecord", entry: "Entry", output_tokens: int, now: float
) -> None:
    probe.of, probe.since, probe.tokens = entry, now, output_tokens
    probe.sequences, probe.context_tokens = record.decoding
    probe.prefilled_ns = record.prefilled_ns


def _sample(record: "InstanceRecord", probe: Probe, tokens: int, took_s: float, now: float) -> bool:
    correction = record.model.decode
    prefilled_s = (record.prefilled_ns - probe.prefilled_ns) / NS
    share = 1 - prefilled_s / took_s
    if share < MIN_DECODE_SHARE or not correction.wants(now):
        return False
    sequences, context_tokens = record.decoding
    features = (
        1.0,
        max(1.0, 0.5 * (probe.sequences + sequences)),
        0.5 * (probe.context_tokens + context_tokens),
    )
    return correction.observe(features, (took_s - prefilled_s) / tokens, now, share)
