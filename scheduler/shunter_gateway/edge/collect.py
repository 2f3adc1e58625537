"""Answers that are not streamed: every choice is gathered, then rendered as one body."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shunter_gateway.edge.job import Job
from shunter_gateway.edge.parsed import PartNames, parsed_outcome
from shunter_gateway.edge.render import LogprobRenderer, TokenBytes, response_id, usage
from shunter_gateway.edge.watch import Watch
from shunter_gateway.ports import TokenLogprob
from shunter_gateway.request import ClientError, Delta, Outcome


@dataclass(slots=True)
class _Choice:
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    outcome: Outcome | None = None


class Collector:
    """Awaits all choices of a job; the first error ends it."""

    def __init__(self, job: Job, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[ClientError | None] = loop.create_future()
        self._job = job
        self._watch = watch
        self._choices = [_Choice() for _ in job.specs]
        self._open = len(job.specs)

    def sink(self, index: int) -> "CollectSink":
        return CollectSink(self, self._choices[index], self._watch)

    def choice_done(self) -> None:
        self._open -= 1
        if self._open == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: ClientError) -> None:
        if not self.done.done():
            self.done.set_result(error)

    def outcomes(self) -> list[Outcome]:
        return [choice.outcome for choice in self._choices if choice.outcome is not None]

    def body(self, token_bytes: TokenBytes) -> bytes:
        """The whole answer; call it after `done` gave no error."""
        shape = self._job.shape
        if shape.raw:
            return b"".join(self._choices[0].raw)
        choices = [
            self._render(index, choice, token_bytes) for index, choice in enumerate(self._choices)
        ]
        return msgspec.json.encode(
            {
                "id": response_id(shape),
                "object": "chat.completion" if shape.kind == "chat" else "text_completion",
                "created": shape.created,
                "model": shape.model,
                "choices": choices,
                "usage": usage(shape, self.outcomes()),
            }
        )

    def _render(self, index: int, choice: _Choice, token_bytes: TokenBytes) -> dict[str, Any]:
        shape = self._job.shape
        assert choice.outcome is not None
        text = "".join(choice.texts)
        whole = Delta(text=text, logprobs=choice.logprobs)
        logprobs = LogprobRenderer(shape, token_bytes).render(whole) if shape.logprobs else None
        answer: dict[str, Any] = {"index": index}
        outcome = choice.outcome
        if shape.parts is not None:
            parser = shape.parts.parser()
            parts = [*parser.push(text), *parser.flush()]
            answer["message"] = PartNames(shape, index).message(parts)
            outcome = parsed_outcome(parser, outcome)
        elif shape.kind == "chat":
            answer["message"] = {"role": "assistant", "content": text}
        else:
            answer["text"] = text
        answer["logprobs"] = logprobs
        answer["finish_reason"] = outcome.finish_reason
        if outcome.stop_reason is not None:
            answer["stop_reason"] = outcome.stop_reason
        if shape.token_ids:
            answer["token_ids"] = choice.token_ids
            answer["prompt_token_ids"] = _prompt_ids(self._job, index)
        return answer


def _prompt_ids(job: Job, index: int) -> Sequence[int] | None:
    return job.specs[index].prompt_token_ids


class CollectSink:
    """One choice's end (a `ClientSink`)."""

    __slots__ = ("_choice", "_collector", "_watch")

    def __init__(self, collector: Collector, choice: _Choice, watch: Watch) -> None:
        self._collector = collector
        self._choice = choice
        self._watch = watch

    def on_assigned(self, instance: str, pool: str) -> None:
        self._watch.on_assigned(instance, pool)

    def on_delta(self, delta: Delta) -> None:
        self._watch.on_first_delta()
        choice = self._choice
        if delta.raw:
            choice.raw.append(delta.raw)
        if delta.text:
            choice.texts.append(delta.text)
        choice.token_ids.extend(delta.token_ids)
        choice.logprobs.extend(delta.logprobs)

    def on_done(self, outcome: Outcome) -> None:
        self._choice.outcome = outcome
        self._collector.choice_done()

    def on_error(self, error: ClientError) -> None:
        self._collector.fail(error)
