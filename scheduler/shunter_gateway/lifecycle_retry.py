"""Whether and when a request whose engine failed goes on elsewhere. Pure."""

from dataclasses import dataclass, replace

from shunter_gateway.lifecycle_ports import LifecycleLimits
from shunter_gateway.ports import EngineFailure


@dataclass(frozen=True, slots=True)
class RetryCase:
    failures: int  # of this request, this one included
    max_retries: int
    began: bool  # something of the answer was received
    token_level: bool
    unmovable_reason: str  # what only the lost engine could do


def retry_refusal(case: RetryCase) -> str:
    """Why the request ends here; empty if it may go on elsewhere."""
    if case.failures > case.max_retries:
        return f"the engines failed {case.failures} times"
    if case.began and not case.token_level:
        return "the engine failed in mid-answer, and its answer is not held as tokens"
    if case.began and case.unmovable_reason:
        return f"the engine failed in mid-answer ({case.unmovable_reason})"
    return ""


def as_of_continuation(failure: EngineFailure) -> EngineFailure:
    """A 4xx to a continuation is no fault of the client's: another engine took the same request."""
    if failure.retriable:
        return failure
    return replace(failure, reason="protocol", retriable=True)


def as_read(failure: EngineFailure, brought_tokens: bool) -> EngineFailure:
    """A stream that was dropped unread is repeated without end only while it gets on."""
    if failure.reason != "unread" or brought_tokens:
        return failure
    return replace(failure, reason="connection")


def backoff_s(limits: LifecycleLimits, failures: int, retry_after_s: float) -> float:
    """Before the only instance there is gets the request again."""
    wait_s: float = limits.retry_backoff_s * 2 ** (failures - 1)
    return max(wait_s, min(retry_after_s, limits.max_backoff_s))
