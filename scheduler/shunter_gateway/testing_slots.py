"""A fake of `SlotServers` over scripted engines: it answers at once, or as a test tells it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shunter_gateway.lifecycle_ports import Clock
from shunter_gateway.moves.ports import Bar, OnSlotReply, RunningCall, SlotReply, StoppedSlot
from shunter_gateway.testing_engines import ScriptedCall, ScriptedEngine

CALL_S = 5.0


@dataclass(slots=True)
class FakeSlots:
    """`refusals` and `silent` by name of the call (`save`, ...): what is refused, and what is never
    answered. Each name may also be in `before`: run when the call comes."""

    clock: Clock
    engine: ScriptedEngine
    refusals: dict[str, SlotReply] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # call and address
    files: dict[str, Sequence[int]] = field(default_factory=dict)
    restored: Sequence[int] | None = None
    taken: set[tuple[str, int]] = field(default_factory=set)
    pairs_barred: set[tuple[str, str]] = field(default_factory=set)
    saved: Callable[[ScriptedCall], Sequence[int]] = lambda call: call.token_ids

    def barred(self, source: str, destination: str) -> bool:
        return (source, destination) in self.pairs_barred

    def bar(self, source: str, destination: str, how: Bar) -> None:
        self.pairs_barred.add((source, destination))

    def find(self, address: str, call: RunningCall, on_reply: OnSlotReply) -> None:
        self._answer("find", address, lambda: SlotReply(slot=3), on_reply)

    def choose(self, address: str, tokens: int, on_reply: OnSlotReply) -> None:
        def chosen() -> SlotReply:
            self.taken.add((address, 1))
            return SlotReply(slot=1)

        self._answer("choose", address, chosen, on_reply)

    def let_go(self, address: str, slot: int) -> None:
        self.taken.remove((address, slot))

    def save(self, stopped: StoppedSlot, name: str, on_reply: OnSlotReply) -> None:
        def written() -> SlotReply:
            call = next(c for c in self.engine.calls if c.request.call_id == stopped.call.call_id)
            assert call.over, "the slot is still processing"
            ids = self.files[name] = self.saved(call)
            return SlotReply(token_ids=ids, bytes=4 * len(ids))

        self._answer("save", stopped.address, written, on_reply)

    def restore(self, address: str, slot: int, name: str, on_reply: OnSlotReply) -> None:
        def read() -> SlotReply:
            self.restored = self.files.get(name)
            return SlotReply(refusal="" if self.restored else "status 400")

        self._answer("restore", address, read, on_reply)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def _answer(
        self, call: str, address: str, do: Callable[[], SlotReply], on_reply: OnSlotReply
    ) -> None:
        self.asked.append((call, address))
        self.before.pop(call, lambda: None)()
        if call in self.silent:
            self.clock.call_later(CALL_S, lambda: on_reply(None))
        elif call in self.refusals:
            self.clock.call_later(0, lambda: on_reply(self.refusals[call]))
        else:
            self.clock.call_later(0, lambda: on_reply(do()))
