"""Whether a running request may move, and with its KV cache. Pure."""

from dataclasses import dataclass

from shunter_gateway.moves.ports import SlotServers
from shunter_gateway.topology import Instance

DRAIN = "drain"  # so begins the reason of what is ordered because the instance goes
UNKNOWN_IDS = "unknown_token_ids"  # why a request with a gap in its journal stays


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
    return UNKNOWN_IDS if request.has_gap else ""


def kv_refusal(source: Instance, destination: Instance, paused: bool) -> str:
    """Why the KV cache cannot be copied by `EngineMoves`; empty: it can."""
    same = source.kv_transport == destination.kv_transport != ""
    if not same or not (source.moves_address and destination.moves_address):
        return "other_layout"
    if source.copies_slots:
        return "slots_refused"  # lately, or there is no folder for them
    # What the source generated before it froze has to be read: nobody knows when.
    return "client_paused" if paused else ""


def by_slots(
    servers: SlotServers | None, rung: str, source: Instance | None, destination: Instance | None
) -> SlotServers | None:
    """Who copies the KV cache; None where it does not go by slots."""
    if servers is None or rung != "kv" or source is None or destination is None:
        return None
    if not (source.copies_slots and source.kv_transport == destination.kv_transport):
        return None
    return None if servers.barred(source.address, destination.address) else servers
