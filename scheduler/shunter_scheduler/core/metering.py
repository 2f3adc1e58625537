"""What a request takes of its tenant's turn: booked by prediction when it is placed, corrected as
it generates, settled once when it ends."""

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.fairness import OUTPUT_PRICE


def take_turn(entry: Entry) -> None:
    """A request that waited is placed."""
    if entry.account is not None:
        entry.account.take_turn(entry.expected_charge)
        entry.charged_tokens = entry.expected_tokens


def generated(entry: Entry) -> None:
    """What goes beyond the prediction is charged as it comes."""
    if entry.charged_tokens is not None and entry.generated_tokens > entry.charged_tokens:
        _correct(entry, entry.charged_tokens)


def settle(entry: Entry) -> None:
    """It ended, or lost its engine: what it did not generate is given back."""
    if entry.charged_tokens is not None:
        _correct(entry, entry.charged_tokens)
        entry.charged_tokens = None


def _correct(entry: Entry, charged_tokens: float) -> None:
    tokens = entry.generated_tokens
    if entry.account is not None:
        entry.account.charge(OUTPUT_PRICE * (tokens - charged_tokens))
    entry.charged_tokens = tokens
