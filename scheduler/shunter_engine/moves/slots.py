"""How many moves an engine takes part in at one time, in and out counted together."""


class Slots:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: set[tuple[str, str]] = set()

    def take(self, side: str, move_id: str) -> bool:
        """False: all are taken."""
        if len(self._taken) >= self.limit:
            return False
        self._taken.add((side, move_id))
        return True

    def give_back(self, side: str, move_id: str) -> None:
        """Idempotent."""
        self._taken.discard((side, move_id))

    def taken(self, side: str) -> int:
        return sum(1 for taken_side, _ in self._taken if taken_side == side)
