"""The answer of one request as it grows: journal, text, limits and counts. Pure."""

from collections.abc import Callable, Sequence

from shunter_gateway.journal import TokenJournal
from shunter_gateway.ports import FinishReason, TokenChunk
from shunter_gateway.request import Delta, Outcome, RequestSpec
from shunter_text.answer_text import AnswerText
from shunter_text.detokenizer import ByteLevelDecoder, StreamDecoder


class Diverged(Exception):
    """A continuation does not begin with the text that the client already has."""


class Answer:
    """Takes an engine's chunks, gives the client's deltas.

    `stopped` is set when the gateway itself ends the answer: a stop string, or too many tokens.
    """

    __slots__ = (
        "_call_base",
        "_expected",
        "_prompt_tokens",
        "_raw_tokens",
        "_silent_ids",
        "_spec",
        "_text",
        "began",
        "cached_tokens",
        "call_cached_tokens",
        "ids_within",
        "journal",
        "limit",
        "plain_decoder",
        "stopped",
    )

    def __init__(self, spec: RequestSpec) -> None:
        self._spec = spec
        self.journal = TokenJournal(spec.prompt_token_ids or ())
        self._text = AnswerText(None, spec.stop, spec.include_stop, spec.min_tokens)
        self._silent_ids: frozenset[int] = frozenset(spec.sampling.stop_token_ids)
        self.limit = spec.max_tokens
        self._prompt_tokens = spec.prompt_tokens
        self._raw_tokens = 0
        self._call_base = 0
        self._expected = ""
        self.plain_decoder: ByteLevelDecoder | None = None  # where text needs no more than it
        self.ids_within: Callable[[str], Sequence[int]] = lambda text: ()  # see `Decoders`
        # As engines told: of the prompt, and of what the present call was given. None: not told.
        self.cached_tokens: int | None = None
        self.call_cached_tokens: int | None = None
        self.began = False  # something of the answer has been received
        self.stopped: FinishReason | None = None

    def prepare(
        self, decoder: StreamDecoder | None, eos_token_ids: frozenset[int], context_length: int
    ) -> None:
        """Once the model is known and before the first token. `context_length` 0: not known; it is
        the prompt's and the answer's together."""
        spec = self._spec
        self._text = AnswerText(decoder, spec.stop, spec.include_stop, spec.min_tokens)
        self._silent_ids = eos_token_ids.union(spec.sampling.stop_token_ids)
        if isinstance(decoder, ByteLevelDecoder) and not (any(spec.stop) or spec.sampling.logprobs):
            self.plain_decoder = decoder
        self.limit = spec.max_tokens
        if context_length:
            room = max(context_length - spec.prompt_tokens, 1)
            self.limit = min(spec.max_tokens or room, room)

    # ------------------------------------------------------------ engine calls

    def begin_call(self) -> None:
        """A new engine goes on from the known ids, and has to say again what lies beyond."""
        self._expected = self.journal.rewind_to_known() + self._expected
        self._call_base = self.journal.output_tokens
        self.call_cached_tokens = None

    @property
    def remaining_tokens(self) -> int:
        """Still to generate; 0: no limit is known. Only meaningful unless `exhausted`."""
        return self.limit - len(self.journal.generated) if self.limit else 0

    @property
    def remaining_min_tokens(self) -> int:
        return max(self._spec.min_tokens - len(self.journal.generated), 0)

    @property
    def exhausted(self) -> bool:
        return bool(self.limit) and self.journal.output_tokens >= self.limit

    def take(self, epoch: int, chunk: TokenChunk) -> Delta | None:
        """Raises `Diverged`. None where the chunk brings nothing for the client."""
        if chunk.text is None and chunk.cached_tokens is None and not chunk.raw:
            return self._take_ids(epoch, chunk)  # the common case
        self._count(chunk)
        if chunk.raw:
            self.began = True
            if self._spec.prompt_token_ids is None:
                return Delta(raw=chunk.raw)
            return self._take_words(chunk.text or "")
        if chunk.text is not None:
            return self._take_text(epoch, chunk, chunk.text)
        return self._take_ids(epoch, chunk)

    def _take_words(self, text: str) -> Delta:
        """The edge renders this answer itself, but the engine takes no ids."""
        out = self._text.push_text(text, 1)
        if self._text.matched is not None:
            self.stopped = "stop"
        return Delta(out)

    def _take_ids(self, epoch: int, chunk: TokenChunk) -> Delta | None:
        ids: Sequence[int] = chunk.token_ids
        if not ids:
            return None
        journal, text_of = self.journal, self._text
        if self.limit and journal.output_tokens + len(ids) > self.limit:
            ids = ids[: self.limit - journal.output_tokens]
            self.stopped = "length"
        visible = ids
        if chunk.finish_reason == "stop" and ids and ids[-1] in self._silent_ids:
            visible = ids[:-1]
        text, used = text_of.push_ids(visible)
        if text_of.matched is not None:
            ids = ids[:used]
            self.stopped = "stop"
        journal.append(epoch, ids)
        if not ids:
            return None
        self.began = True
        return Delta(text, ids, chunk.logprobs[: len(ids)] if chunk.logprobs else ())

    def _take_text(self, epoch: int, chunk: TokenChunk, text: str) -> Delta | None:
        journal, ids = self.journal, chunk.token_ids
        before = journal.output_tokens
        count = before + len(ids)
        if chunk.output_tokens is not None:
            count = self._call_base + chunk.output_tokens
        if count > before + len(ids) and text and not journal.has_gap:
            ids = self._ids_of(text, count - before, ids)
        fresh, logprobs = self._verify(text), chunk.logprobs
        out = self._text.push_text(fresh, count - before)
        complete = not journal.has_gap and count == before + len(ids)
        if self._text.matched is not None:
            self.stopped = "stop"
            used = self._text.ids_before_surplus(text, ids)
            ids, logprobs = ids[:used], logprobs[:used]
        if complete:
            journal.append(epoch, ids)
        else:
            journal.note_gap(epoch, count, text, ids)
        if not fresh and (self._expected or not ids):
            return None
        self.began = True
        return Delta(out, ids, logprobs)

    def _ids_of(self, text: str, tokens: int, told: Sequence[int]) -> Sequence[int]:
        """All ids of a piece of which only the last were told, where their number and the last ones
        leave no doubt; else those that were told."""
        ids = self.ids_within(text)
        exact = len(ids) == tokens and list(ids[tokens - len(told) :]) == list(told)
        return ids if exact else told

    def _verify(self, text: str) -> str:
        """What of `text` is new to the client."""
        expected = self._expected
        if not expected:
            return text
        if expected.startswith(text):
            self._expected = expected[len(text) :]
            return ""
        if not text.startswith(expected):
            raise Diverged
        self._expected = ""
        return text[len(expected) :]

    def _count(self, chunk: TokenChunk) -> None:
        if chunk.cached_tokens is not None:
            self.call_cached_tokens = chunk.cached_tokens
            # A continuation finds what a warm-up left: only a first call tells of the prompt.
            if not self._call_base:
                self.cached_tokens = chunk.cached_tokens
        if chunk.raw:
            self._raw_tokens = max(self._raw_tokens, chunk.output_tokens or 0)
            if chunk.prompt_tokens is not None:
                self._prompt_tokens = chunk.prompt_tokens

    # ------------------------------------------------------------ the end

    @property
    def output_tokens(self) -> int:
        return self.journal.output_tokens or self._raw_tokens

    def flush(self) -> str:
        """Text held back until the end."""
        return self._text.flush()

    def outcome(self, reason: FinishReason) -> Outcome:
        return Outcome(
            reason, self._prompt_tokens, self.output_tokens, self.cached_tokens, self._text.matched
        )
