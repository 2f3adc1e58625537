"""`shunter gateway` that kills a process, or itself, at one point of its first move by `kv`.

    python fault_gateway.py POINT PID LEASE_S [ARGUMENT...]

`POINT` is a `Probe`'s, `PID` 0 is the gateway itself, `ARGUMENT`s are the gateway's. What engines
hold for its moves they hold for `LEASE_S`; nothing else of a move ends because it takes long.
"""

import os
import signal
import sys
from typing import Any
from unittest import mock

from engine_moves_probes import Probe
from shunter_gateway import __main__ as gateway
from shunter_gateway import process
from shunter_gateway.dispatcher import Dispatcher
from shunter_gateway.lifecycle_ports import LifecycleLimits

PATIENCE_S = 60.0


def main() -> int:
    point, pid, lease_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    del sys.argv[1:4]
    limits = LifecycleLimits(
        kv_call_s=PATIENCE_S,
        kv_copy_s=PATIENCE_S,
        kv_tail_s=PATIENCE_S,
        kv_lease_s=lease_s,
        kv_frozen_s=lease_s,
    )

    def kill() -> None:
        os.kill(pid or os.getpid(), signal.SIGKILL)

    def dispatcher(engine_moves: Any, **parts: Any) -> Dispatcher:
        return Dispatcher(**parts, engine_moves=Probe(engine_moves, point, kill), limits=limits)

    with mock.patch.object(process, "Dispatcher", dispatcher):
        return gateway.main()


if __name__ == "__main__":
    sys.exit(main())
