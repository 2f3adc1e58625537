"""How gRPC waits for its sockets, chosen before its first use in a process."""

from collections.abc import MutableMapping

VARIABLE = "GRPC_EXPERIMENTS"
DIRECT = "-event_engine_listener,-event_engine_client"


def poll_directly(environ: MutableMapping[str, str]) -> None:
    """Lets the thread that waits for completions poll the sockets too.

    gRPC's default, the event engine's endpoints, polls in a thread of its own and hands each event
    on to a second and a third; docs/adr/0008 has what that costs. Who sets `GRPC_EXPERIMENTS`
    decides otherwise: empty means the default. A release that has dropped these names says so on
    stderr, once each, and goes by its default.
    """
    environ.setdefault(VARIABLE, DIRECT)
