"""One HTTP request's sequences on the backend: from submit to the last token, or to an abort."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from shunter_engine.backend import (
    Backend,
    FinishReason,
    SequenceRequest,
    SequenceSink,
    TokenEvent,
)
from shunter_engine.metrics import EngineMetrics
from shunter_engine.openai_requests import GenerateCall
from shunter_text.answer_text import AnswerText
from shunter_text.tokenizer import Tokenizer


@dataclass(slots=True)
class Piece:
    """What one token brought to one choice. Text lags behind tokens inside characters and while it
    might begin a stop string."""

    index: int
    text: str
    event: TokenEvent | None  # None: the end came without a token
    finish_reason: FinishReason | None = None
    stop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


TakeOver = Callable[[str, SequenceRequest, SequenceSink], bool]


def never_taken_over(kv_lease: str, request: SequenceRequest, sink: SequenceSink) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every generation needs; built once. `now_s` is a monotonic clock."""

    backend: Backend
    tokenizer: Tokenizer
    metrics: EngineMetrics
    now_s: Callable[[], float]
    on_token: Callable[[], None]  # faults count tokens
    # Goes on with keys and values that a move has brought; False: compute them.
    take_over: TakeOver = never_taken_over


class Choice:
    """`SequenceSink` of one sequence: tokens in, pieces of text out."""

    def __init__(self, generation: "Generation", index: int, sequence_id: str) -> None:
        self.sequence_id = sequence_id
        self.index = index
        self.tokens = 0
        self.cached_tokens = 0
        self.finished = False
        self._generation = generation
        self._text = generation.text_for(index)
        self._include_stop = generation.call.include_stop

    def on_token(self, event: TokenEvent) -> None:
        if self.finished:
            return
        text = ""
        if event.token_id is not None:
            self.tokens += 1
            if event.cached_tokens is not None:
                self.cached_tokens = event.cached_tokens
            if event.finish_reason != "stop" or self._include_stop:  # else it is the end token
                text = self._text.push_id(event.token_id)
        if self._text.matched is not None and event.finish_reason is None:
            self._generation.forget(self)
            self._finish(Piece(self.index, text, event, "stop", self._text.matched))
        elif event.finish_reason is not None:
            self._finish_with(text, event, event.finish_reason)
        else:
            self._generation.on_piece(self, Piece(self.index, text, event))

    def end(self, reason: FinishReason) -> None:
        """Ends it from outside, without a token."""
        if not self.finished:
            self._finish_with("", None, reason)

    def _finish_with(self, text: str, event: TokenEvent | None, reason: FinishReason) -> None:
        """The very last text may complete a stop string, which then is why the answer ends."""
        text += self._text.flush()
        matched = self._text.matched
        self._finish(Piece(self.index, text, event, "stop" if matched else reason, matched))

    def _finish(self, piece: Piece) -> None:
        self.finished = True
        self._generation.on_piece(self, piece)


class Generation:
    """All choices of one request. `on_piece` gets every piece, in order, on the event loop."""

    def __init__(
        self,
        call: GenerateCall,
        answer_id: str,
        around: Surroundings,
        on_piece: Callable[[Piece], None],
    ) -> None:
        self.call = call
        self.answer_id = answer_id
        self.request_id = answer_id.partition("-")[2]
        self.done = asyncio.Event()
        self.broken = False
        self._around = around
        self._emit = on_piece
        self._arrived_s = around.now_s()
        self._first_s: float | None = None
        self._unfinished = len(call.prompts) * call.n
        self.choices: list[Choice] = []

    def submit(self, serial: int) -> None:
        """Hands all sequences to the backend; on `QueueFull` and `PromptTooLong` none stays."""
        prompts = [prompt for prompt in self.call.prompts for _ in range(self.call.n)]
        try:
            for index, prompt in enumerate(prompts):
                choice = Choice(self, index, f"{self.request_id}#{serial}.{index}")
                sequence, kv_lease = self._sequence(choice, prompt), self.call.kv_lease
                if not (kv_lease and self._around.take_over(kv_lease, sequence, choice)):
                    self._around.backend.submit(sequence, choice)
                self.choices.append(choice)
        except BaseException:  # refused as a whole: nothing has ended that began
            for choice in self.choices:
                choice.finished = True
                self.forget(choice)
            raise

    def text_for(self, index: int) -> AnswerText:
        """Goes on after the prompt: its end decides over a space, or over half a character."""
        call = self.call
        decoder = self._around.tokenizer.decoder(call.prompts[index // call.n])
        return AnswerText(decoder, call.stop, call.include_stop, call.min_tokens)

    def on_piece(self, choice: Choice, piece: Piece) -> None:
        if self._first_s is None and piece.event is not None:
            self._first_s = self._around.now_s()
            self._around.metrics.time_to_first_token.observe(self._first_s - self._arrived_s)
        self._emit(piece)
        if piece.event is not None and piece.event.token_id is not None:
            self._around.on_token()
        if piece.finish_reason is not None:
            self._account(choice, piece.finish_reason)
            self._unfinished -= 1
            if self._unfinished == 0:
                self.done.set()

    def forget(self, choice: Choice) -> None:
        """The backend stops work on a choice that has ended for a reason of ours."""
        self._around.backend.abort(choice.sequence_id)

    def finish(self, reason: FinishReason, index: int | None = None) -> None:
        """Ends one choice or all, telling the client why."""
        for choice in self.choices:
            if not choice.finished and index in (None, choice.index):
                self.forget(choice)
                choice.end(reason)

    def abort(self) -> None:
        """The client is gone: frees what still runs. Idempotent."""
        for choice in self.choices:
            if not choice.finished:
                choice.finished = True
                self.forget(choice)
                self._account(choice, "abort")

    def break_off(self) -> None:
        """Frees what still runs; the client is told by a broken connection."""
        self.abort()
        self.broken = True
        self.done.set()

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=sum(map(len, self.call.prompts)),
            completion_tokens=sum(choice.tokens for choice in self.choices),
            cached_tokens=sum(choice.cached_tokens for choice in self.choices[:: self.call.n]),
        )

    def _sequence(self, choice: Choice, prompt: tuple[int, ...]) -> SequenceRequest:
        """Choices of one prompt differ by their seeds."""
        call = self.call
        copy = choice.index % call.n
        room = self._around.backend.context_length - len(prompt)
        return SequenceRequest(
            request_id=choice.sequence_id,
            token_ids=prompt,
            output_offset=call.output_offset,
            max_tokens=room if call.max_tokens is None else min(call.max_tokens, room),
            min_tokens=min(call.min_tokens, room),
            sampling=replace(call.sampling, seed=call.sampling.seed + copy)
            if copy
            else call.sampling,
            priority=call.priority,
        )

    def _account(self, choice: Choice, reason: FinishReason) -> None:
        now_s = self._around.now_s()
        metrics = self._around.metrics
        metrics.finished(reason)
        metrics.request_latency.observe(now_s - self._arrived_s)
        if choice.tokens > 1 and self._first_s is not None:
            metrics.time_per_output_token.observe((now_s - self._first_s) / (choice.tokens - 1))
