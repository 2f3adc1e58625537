"""What a request takes of its tenant's turn and of its tenant's limits: booked by prediction,
corrected as it generates, settled once when it ends."""

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.fairness import OUTPUT_PRICE
from shunter_scheduler.core.tenants import TenantUse


def meter(entry: Entry, now: float) -> float:
    """Takes what an admitted request is expected to use from its tenant's tokens per minute: 0, or
    the seconds until they are there. One that goes on elsewhere is never refused."""
    limits = entry.limits
    if limits is None or limits.bucket is None:
        return 0.0
    tokens = entry.new_prompt_tokens + entry.expected_tokens
    if entry.goes_on:
        limits.bucket.give_back(-tokens, now)
    elif wait_s := limits.bucket.take(tokens, now):
        return wait_s
    entry.metered_tokens = entry.expected_tokens
    return 0.0


def take_turn(entry: Entry) -> None:
    """A request that waited is placed."""
    if entry.account is not None:
        entry.account.take_turn(entry.expected_charge)
        entry.charged_tokens = entry.expected_tokens


def begin(entry: Entry) -> None:
    """It counts as one of its tenant's that run."""
    if entry.limits is not None and not entry.runs:
        entry.limits.running += 1
        entry.runs = True


def generated(entry: Entry) -> None:
    """What goes beyond the prediction is charged as it comes."""
    if entry.charged_tokens is not None and entry.generated_tokens > entry.charged_tokens:
        _correct(entry, entry.charged_tokens)


def overdraw(entry: Entry, now: float) -> None:
    """What goes beyond the prediction is taken from its tenant's tokens per minute as it comes: a
    long answer that was thought short would else be paid for only at its end."""
    limits, metered, generated = entry.limits, entry.metered_tokens, entry.generated_tokens
    if limits is None or limits.bucket is None or metered is None or generated <= metered:
        return
    limits.bucket.give_back(metered - generated, now)
    entry.metered_tokens = generated


def settle(entry: Entry, now: float) -> bool:
    """It ended, or lost its engine: what it did not use is given back. True where its tenant may
    run another one now, and could not before."""
    if entry.charged_tokens is not None:
        _correct(entry, entry.charged_tokens)
        entry.charged_tokens = None
    limits = entry.limits
    if limits is None:
        return False
    if entry.metered_tokens is not None and limits.bucket is not None:
        unused = entry.metered_tokens - entry.generated_tokens
        if not entry.instance_name:  # never placed
            unused += entry.new_prompt_tokens
        limits.bucket.give_back(unused, now)
        entry.metered_tokens = None
    was_full = limits.full
    if entry.runs:
        limits.running -= 1
        entry.runs = False
    return was_full and not limits.full


def count_use(entry: Entry, use: TenantUse) -> None:
    """It ended here, with its answer or to go on elsewhere: then its prompt counts once."""
    trail = entry.trail
    if entry.instance_name and not trail.counted:
        trail.counted = True
        use.requests += 1
        use.prompt_tokens += entry.request.prompt_tokens
    use.output_tokens += entry.generated_tokens


def _correct(entry: Entry, charged_tokens: float) -> None:
    tokens = entry.generated_tokens
    if entry.account is not None:
        entry.account.charge(OUTPUT_PRICE * (tokens - charged_tokens))
    entry.charged_tokens = tokens
