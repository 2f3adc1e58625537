"""What is still to come of an answer, from how much of it there is."""

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.lengths import Forecast

# A request that runs longer than expected is taken to go on for at least this many tokens.
SHORTEST_REST = 8
# What is left is predicted anew at half of what was expected, and after each further quarter.
FIRST_LOOK, LOOK_AGAIN_AFTER = 0.5, 0.25


def look_ahead(entry: Entry) -> Forecast:
    """Predicts anew: the more there is of an answer, the longer it gets in all."""
    request, tokens = entry.request, entry.output_tokens
    forecast = entry.lengths.forecast(tokens, request.max_output_tokens, request.prompt_tokens)
    expected, reserve = forecast
    carried = request.output_tokens
    entry.expected_tokens = expected - carried if expected - carried > 1.0 else 1.0
    entry.reserve_tokens = reserve - carried
    step = expected * (LOOK_AGAIN_AFTER if tokens else FIRST_LOOK)
    entry.look_again_at = tokens + (int(step) if step > SHORTEST_REST else SHORTEST_REST)
    return forecast


def left_to_generate(entry: Entry) -> float:
    """Tokens, in the mean: what time is predicted by."""
    rest = entry.expected_tokens - entry.output_tokens + entry.request.output_tokens
    return rest if rest > SHORTEST_REST else SHORTEST_REST


def left_to_store(entry: Entry) -> float:
    """Tokens that KV memory is reserved for: up to the peak of expected use."""
    rest = entry.reserve_tokens - entry.output_tokens + entry.request.output_tokens
    return rest if rest > SHORTEST_REST else SHORTEST_REST
