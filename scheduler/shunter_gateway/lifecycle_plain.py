"""The plain case of a token: one id of the present owner whose text stands alone and goes out as it
is. What cannot be taken here takes `on_chunk`, which gives the same."""

import sys
from collections.abc import Callable
from typing import Protocol

from shunter_gateway.lifecycle_answer import Answer
from shunter_gateway.request import ClientSink, JsonTextSink


class PlainOwner(Protocol):
    """The request, as far as a plain token concerns it."""

    answer: Answer
    last_heard_at: float

    @property
    def state(self) -> str: ...


class PlainTokens:
    """Takes the plain tokens of one epoch. Use from its first token on: until then the answer has
    not begun."""

    __slots__ = ("_decoder", "_journal", "_limit", "_owner", "_send", "_texts", "_time", "epoch")

    def __init__(
        self,
        owner: PlainOwner,
        epoch: int,
        send: Callable[[bytes], None],
        time: Callable[[], float],
    ) -> None:
        answer = owner.answer
        assert answer.plain_decoder is not None
        self._owner = owner
        self.epoch = epoch
        self._journal = answer.journal
        self._limit = answer.limit or sys.maxsize
        self._decoder = answer.plain_decoder
        self._texts = answer.plain_decoder.json_texts
        self._send = send
        self._time = time

    def take(self, digits: bytes) -> bool:
        """False: nothing was done."""
        journal = self._journal
        generated, count = journal.generated, journal.output_tokens
        if (
            journal.owned_epoch != self.epoch
            or count >= self._limit  # the answer ends here
            or count != len(generated)  # ids are missing before
            or self._decoder.unfinished
        ):
            return False
        found = self._texts[digits]
        if found is None:
            return False
        token_id, text = found
        generated.append(token_id)
        journal.output_tokens = count + 1
        self._owner.last_heard_at = self._time()
        self._send(text)
        return True


def plain_tokens(
    owner: PlainOwner, epoch: int, sink: ClientSink, time: Callable[[], float]
) -> PlainTokens | None:
    """None where the answer has not begun, or has tokens that are not plain."""
    if owner.state != "streaming" or owner.answer.plain_decoder is None:
        return None
    send = sink.json_text_send() if isinstance(sink, JsonTextSink) else None
    return PlainTokens(owner, epoch, send, time) if send is not None else None
