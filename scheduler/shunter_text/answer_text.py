"""From tokens to the text that a client may have: detokenised, cut at a stop string.

Text is final once it is handed out, so the longest ending that may yet become a stop string is
held back. The state outlives engine calls: a stop string may begin on one engine and end on
another.
"""

from collections.abc import Sequence
from itertools import accumulate

from shunter_text.detokenizer import StreamDecoder


class StopMatcher:
    """Finds the first stop string in growing text.

    `push` returns the text that is final. Once `matched` is set nothing more comes out; `surplus`
    is then the length of what followed it in the text that was pushed.
    """

    __slots__ = ("_held", "_include", "_stops", "matched", "surplus")

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._include = include
        self._held = ""
        self.matched: str | None = None
        self.surplus = 0

    def push(self, text: str) -> str:
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        self._held = ""
        # The match that ends first wins, so that the cut does not depend on how text arrives;
        # of two that end together the longer one.
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, start, self.matched = min(found)
            self.surplus = len(text) - end
            return text[:end] if self._include else text[:start]
        keep = max(_overlap(text, stop) for stop in self._stops)
        if keep:
            self._held = text[-keep:]
            return text[:-keep]
        return text

    def pass_by(self, text: str) -> str:
        """Text that may not stop the answer (below min_tokens)."""
        text, self._held = self._held + text, ""
        return text

    def flush(self) -> str:
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest ending of `text` that begins `stop` without being all of it."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class AnswerText:
    """Text of one answer, across all engines that generate it. Stop strings count from `min_tokens`
    on, as in vLLM. Without a decoder text comes by `push_text` only."""

    __slots__ = ("_decoder", "_min_tokens", "_stops", "_tokens")

    def __init__(
        self,
        decoder: StreamDecoder | None,
        stops: Sequence[str] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self._decoder = decoder
        self._stops = StopMatcher(stops, include_stop) if any(stops) else None
        self._min_tokens = min_tokens
        self._tokens = 0

    @property
    def matched(self) -> str | None:
        return self._stops.matched if self._stops is not None else None

    def push_ids(self, token_ids: Sequence[int]) -> tuple[str, int]:
        """Final text, and how many of the ids count: those after a matched stop do not."""
        if self._decoder is None:
            return "", len(token_ids)
        if len(token_ids) == 1:
            if self._stops is None and self._decoder is not None:  # the common case
                return self._decoder.step(token_ids[0]), 1
            return self.push_id(token_ids[0]), 1
        pieces = []
        for used, token_id in enumerate(token_ids, 1):
            pieces.append(self.push_id(token_id))
            if self.matched is not None:
                return "".join(pieces), used
        return "".join(pieces), len(token_ids)

    def push_id(self, token_id: int) -> str:
        """Final text; empty while a character is unfinished or a stop string may have begun."""
        if self._decoder is None:
            return ""
        text = self._decoder.step(token_id)
        return text if self._stops is None else self._match(self._stops, text, 1)

    def push_text(self, text: str, tokens: int) -> str:
        """For engines that send the text themselves; `tokens` is how many it stands for."""
        return text if self._stops is None else self._match(self._stops, text, tokens)

    def ids_before_surplus(self, text: str, token_ids: Sequence[int]) -> int:
        """How many of the ids that came with `text` count, once `push_text` of it has matched:
        those after the stop string do not. All where it cannot be told which stands for what."""
        kept = len(text) - (self._stops.surplus if self._stops is not None else 0)
        if self._decoder is None or len(token_ids) < 2:
            return len(token_ids)
        pieces = [self._decoder.step(token_id) for token_id in token_ids]
        if "".join(pieces) != text:
            return len(token_ids)
        ends = accumulate(map(len, pieces))
        return next((used for used, end in enumerate(ends, 1) if end >= kept), len(token_ids))

    def _match(self, stops: StopMatcher, text: str, tokens: int) -> str:
        self._tokens += tokens
        return stops.pass_by(text) if self._tokens < self._min_tokens else stops.push(text)

    def flush(self) -> str:
        """The rest, when the answer ends for another reason than a stop string."""
        if self.matched is not None:
            return ""
        rest = self._decoder.flush() if self._decoder is not None else ""
        if self._stops is None:
            return rest
        text = self._match(self._stops, rest, 0)
        return text + (self._stops.flush() if self._stops.matched is None else "")
