"""Whether a running request may move. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MoveRequest:
    source: str
    destination: str  # empty: nowhere yet, the request is suspended
    same_revision: bool
    moving: bool
    began: bool  # the engine has begun to answer
    has_gap: bool  # some generated ids are not known
    unmovable_reason: str


def move_refusal(request: MoveRequest) -> str:
    """Why not; empty where it may. Before the first token everything can be started again."""
    if request.moving:
        return "already_moving"
    if request.destination == request.source:
        return "already_there"
    if not request.same_revision:
        return "other_revision"
    if not request.began:
        return ""
    if request.unmovable_reason:
        return request.unmovable_reason
    return "unknown_token_ids" if request.has_gap else ""
