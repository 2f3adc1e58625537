"""Finds stop strings in text that comes in pieces, and holds back what might begin one."""

from collections.abc import Sequence


class StopStrings:
    """`push` gives text that no stop string can take back any more."""

    def __init__(self, strings: Sequence[str], include: bool = False) -> None:
        """`include`: the stop string itself belongs to the answer."""
        self._strings = tuple(strings)
        self._include = include
        self._longest = max(map(len, self._strings), default=0)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """After a match (`matched` is set) the answer has ended and nothing may be pushed."""
        if not self._strings:
            return text
        text = self._held + text
        found = self._first_match(text)
        if found is not None:
            position, self.matched = found
            self._held = ""
            return text[: position + len(self.matched) if self._include else position]
        held = self._possible_start(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, at the end of a sequence that met no stop string."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        """The match that ends first, as if the text had come character by character."""
        found = [(text.find(string), string) for string in self._strings]
        ends = [(at + len(string), at, string) for at, string in found if at >= 0]
        if not ends:
            return None
        _, position, string = min(ends)
        return position, string

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(string.startswith(end) for string in self._strings):
                return length
        return 0
