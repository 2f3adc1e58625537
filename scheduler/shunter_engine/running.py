"""The generate calls that run, for those who name them by their request ids."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

from shunter_engine.generation import Generation


class RunningCalls:
    """Also `Calls` of moves. Ids need not be unique: clients choose them."""

    def __init__(self) -> None:
        self._serials = count()
        self._running: dict[int, Generation] = {}
        self._on_end: Callable[[str], None] = _unheard

    def watch(self, on_end: Callable[[str], None]) -> None:
        self._on_end = on_end

    def next_serial(self) -> int:
        """Names one call among those of the same id."""
        return next(self._serials)

    def add(self, serial: int, generation: Generation) -> None:
        self._running[serial] = generation

    def retire(self, serial: int) -> None:
        """The request has ended, or its client has gone."""
        generation = self._running.pop(serial)
        generation.abort()
        self._on_end(generation.request_id)

    def abort(self, request_ids: Sequence[str]) -> None:
        """Ids are requests' or answers', with `-INDEX` for one choice; unknown ones may just have
        ended."""
        wanted = set(request_ids)
        for generation in list(self._running.values()):
            for choice in generation.choices:
                names = (generation.request_id, generation.answer_id)
                if any(n in wanted or f"{n}-{choice.index}" in wanted for n in names):
                    generation.finish("abort", choice.index)

    def sequences_of(self, call_id: str) -> Sequence[str]:
        """The backend's names of a call's sequences, those that ended left out; of several calls
        under one id, all."""
        return [
            choice.sequence_id
            for generation in self._named(call_id)
            for choice in generation.choices
            if not choice.finished
        ]

    def end_call(self, call_id: str) -> None:
        for generation in self._named(call_id):
            generation.finish("abort")

    def break_call(self, call_id: str) -> None:
        for generation in self._named(call_id):
            generation.break_off()

    def _named(self, call_id: str) -> Iterator[Generation]:
        yield from [g for g in self._running.values() if g.request_id == call_id]


def _unheard(_: str) -> None:
    """Nothing here moves."""
