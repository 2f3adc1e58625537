"""For tests of moves that are not to depend on how fast the machine is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from forked_engines import ForkedEngine
from shunter_gateway.lifecycle_ports import LifecycleLimits

# Also for leases: what is freed by their end alone is not freed while a test waits for it.
PATIENT = LifecycleLimits(
    kv_call_s=30.0, kv_copy_s=60.0, kv_tail_s=30.0, kv_lease_s=60.0, kv_frozen_s=60.0
)


@contextmanager
def slowed(engines: Mapping[str, ForkedEngine], factor: float) -> Iterator[None]:
    """Engines with `allow_faults`: no answer ends before what is to happen in its midst."""
    for engine in engines.values():
        engine.fault("slow", factor=factor)
    try:
        yield
    finally:
        for engine in engines.values():
            with suppress(OSError):  # it has been killed
                engine.fault("clear")
