"""What the planner remembers from one cycle to the next."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Budget:
    """Of one instance: instants from which the next move may use its link, or its prefills."""

    link_free_at: float = 0.0
    replay_free_at: float = 0.0


@dataclass(slots=True)
class PlannerState:
    """`since` holds when a condition began to hold that has to last, by kind and name,
    `look_again_at` when an instance may give a request away for speed after that was in vain;
    `to_hand_over` are requests to look at now, `held_over` those that wait for a destination."""

    due: bool = False  # its timer has fired
    armed: bool = False
    budgets: dict[str, Budget] = field(default_factory=dict)
    look_again_at: dict[str, float] = field(default_factory=dict)
    since: dict[tuple[str, str], float] = field(default_factory=dict)
    to_hand_over: dict[str, None] = field(default_factory=dict)
    held_over: dict[str, None] = field(default_factory=dict)
    hand_over_armed: bool = False

    def budget(self, instance: str) -> Budget:
        found = self.budgets.get(instance)
        if found is None:
            found = self.budgets[instance] = Budget()
        return found

    def hand_over_again(self) -> None:
        """Those that had to wait, before those that come new."""
        if self.held_over:
            self.to_hand_over = self.held_over | self.to_hand_over
            self.held_over = {}

    def lasted(self, kind: str, name: str, holds: bool, now: float) -> float:
        """How long it has held without a break, in seconds; -1 where it does not."""
        if not holds:
            self.since.pop((kind, name), None)
            return -1.0
        return now - self.since.setdefault((kind, name), now)

    def forget(self, instance: str) -> None:
        self.budgets.pop(instance, None)
        self.look_again_at.pop(instance, None)
        for key in [key for key in self.since if key[1] == instance]:
            del self.since[key]


@dataclass(frozen=True, slots=True)
class Advised:
    """What an autoscaler was told last of one pool: profiles with more instances than needed."""

    at: float
    surplus: tuple[tuple[str, int], ...]
