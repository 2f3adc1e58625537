"""What engine thread, server threads and the thread that ends leases share."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from shunter_vllm.folder import BlockFolder
from shunter_vllm.layout import EngineFacts
from shunter_vllm.ledger import BlockLedger

DEFAULT_LEASE_S = 10.0
LONGEST_LEASE_S = 60.0


def granted_s(asked_ms: int) -> float:
    """0 asks for the default."""
    return min(asked_ms / 1000 or DEFAULT_LEASE_S, LONGEST_LEASE_S)


@dataclass(slots=True)
class Held:
    """Blocks that one move holds, until its lease ends. `lasts_s` from the last call on."""

    move_id: str
    lasts_s: float
    ends_at: float
    keys: list[bytes] = field(default_factory=list)

    @property
    def lease_ms(self) -> int:
        return round(self.lasts_s * 1000)


class Store:
    """Folder and ledger under one lock. Whoever changes `ledger` holds `changed`."""

    def __init__(
        self,
        facts: EngineFacts,
        folder: BlockFolder,
        ledger: BlockLedger,
        clock: Callable[[], float],
        max_moves: int,
    ) -> None:
        self.facts = facts
        self.folder = folder
        self.ledger = ledger
        self.clock = clock
        self.changed = threading.Condition()
        self.max_moves = max_moves
        self._moves: dict[str, Held] = {}  # by side and move id

    def take(self, side: str, held: Held) -> bool:
        """False: as many moves as there may be. The lock is held."""
        if len(self._moves) >= self.max_moves:
            return False
        self._moves[f"{side} {held.move_id}"] = held
        return True

    def hold(self, side: str, held: Held, key: bytes) -> bool:
        """One more block of this move. False: no room. The lock is held."""
        if not self.ledger.hold(key, f"{side} {held.move_id}"):
            return False
        held.keys.append(key)
        return True

    def renew(self, held: Held) -> None:
        held.ends_at = self.clock() + held.lasts_s

    def drop(self, side: str, move_id: str) -> bool:
        """Frees what it holds. False: no such move. The lock is held."""
        name = f"{side} {move_id}"
        held = self._moves.pop(name, None)
        if held is None:
            return False
        for key in self.ledger.release(name, held.keys):
            self.folder.remove(key, self.facts.tensor_parallel)
        self.changed.notify_all()
        return True

    def overdue(self, side: str) -> list[str]:
        """Moves whose lease has ended. The lock is held."""
        now = self.clock()
        return [
            held.move_id
            for name, held in self._moves.items()
            if name.startswith(f"{side} ") and held.ends_at <= now
        ]
