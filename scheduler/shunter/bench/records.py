"""What was asked of the endpoint and what came of it."""

from array import array
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A request, ready to be sent `at_s` after the start.

    Token counts are those that the endpoint must report; None where any will do.
    """

    index: int
    at_s: float
    model: str
    path: str
    body: bytes
    prompt_tokens: int | None
    output_tokens: int | None


@dataclass(slots=True)
class Record:
    """One request's life. Times are seconds from the instant at which it was due, so that waiting
    inside the load generator counts against the endpoint rather than disappearing."""

    index: int
    model: str
    due_s: float  # after the start of the run
    asked_prompt_tokens: int | None
    asked_output_tokens: int | None
    late_s: float = 0.0  # the load generator's own delay
    slot_wait_s: float = 0.0  # waiting for fewer than --max-in-flight
    first_token_s: float | None = None
    last_token_s: float | None = None
    end_s: float = 0.0
    token_events: int = 0
    gaps_s: "array[float]" = field(default_factory=lambda: array("d"))  # between token events
    prompt_tokens: int | None = None  # as the endpoint counts them
    output_tokens: int | None = None
    error: str = ""  # kind; empty for success
    detail: str = ""

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for answers of fewer than two tokens."""
        tokens = self.output_tokens if self.output_tokens is not None else self.token_events
        if self.first_token_s is None or self.last_token_s is None or tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (tokens - 1)

    @property
    def mismatch(self) -> str:
        """How the endpoint's token counts differ from what was asked; empty where they agree."""
        if self.error:
            return ""
        counts = (
            ("output", self.output_tokens, self.asked_output_tokens),
            ("prompt", self.prompt_tokens, self.asked_prompt_tokens),
        )
        return "; ".join(
            f"{name} tokens {'not reported' if count is None else count}, asked {asked}"
            for name, count, asked in counts
            if asked is not None and count != asked
        )


@dataclass(slots=True)
class Tally:
    """Counts while a run goes on."""

    total: int
    sent: int = 0
    finished: int = 0
    failed: int = 0

    @property
    def in_flight(self) -> int:
        return self.sent - self.finished
