"""What `shunter up` leaves in its state directory for the other commands: addresses and pids."""

import os
from pathlib import Path

import msgspec

DEFAULT_STATE_DIR = Path(".shunter")
STATE_FILE = "state.json"


class ProcessState(msgspec.Struct, frozen=True):
    name: str
    role: str  # engine, scheduler, gateway
    pid: int  # 0 while it is down
    address: str  # host:port
    log: str


class State(msgspec.Struct, frozen=True):
    pid: int  # of `shunter up`
    ready: bool
    http: str
    grpc: str
    scheduler: str
    processes: tuple[ProcessState, ...]

    def process(self, name: str) -> ProcessState | None:
        return next((p for p in self.processes if p.name == name), None)


def write_state(directory: Path, state: State) -> None:
    """Replaces the file in one step, so that a reader never sees half of it."""
    partial = directory / f".{STATE_FILE}.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    os.replace(partial, directory / STATE_FILE)


def read_state(directory: Path) -> State | None:
    """What a running `shunter up` wrote there; None where none runs."""
    try:
        state = msgspec.json.decode((directory / STATE_FILE).read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):
        return None
    return state if alive(state.pid) else None


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
