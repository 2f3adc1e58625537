"""The NumPy engine as its server sees it, on a tiny random model."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from shunter_engine import numpy_steps
from shunter_engine.backend import (
    FinishReason,
    PromptTooLong,
    QueueFull,
    Sampling,
    SequenceRequest,
    TokenEvent,
)
from shunter_engine.numpy_backend import NumpyBackend, NumpyOptions
from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_text.model_files import FetchOptions

GREEDY = Sampling(temperature=0, ignore_eos=True)


@dataclass
class Sink:
    tokens: list[int] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def on_token(self, event: TokenEvent) -> None:
        assert not self.finished.is_set()
        self.events.append(event)
        if event.token_id is not None:
            self.tokens.append(event.token_id)
        if event.finish_reason is not None:
            self.finished.set()

    async def wait(self) -> FinishReason | None:
        await asyncio.wait_for(self.finished.wait(), 30)
        return self.events[-1].finish_reason


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> NumpyOptions:
    folder = tmp_path_factory.mktemp("tiny")
    path = write_tiny_gguf(folder / "tiny.gguf")
    return NumpyOptions(
        source=f"file://{path}",
        model_name="tiny",
        fetch=FetchOptions(cache=folder / "cache"),
        kv_tokens=1024,
        block_tokens=16,
        max_num_seqs=8,
        max_batch_tokens=32,
    )


@pytest.fixture
async def backend(options: NumpyOptions) -> AsyncIterator[NumpyBackend]:
    backend = NumpyBackend(options)
    await backend.start()
    yield backend
    await backend.stop()


def request(
    name: str,
    token_ids: tuple[int, ...],
    max_tokens: int = 20,
    sampling: Sampling = GREEDY,
    output_offset: int = 0,
    min_tokens: int = 0,
) -> SequenceRequest:
    return SequenceRequest(name, token_ids, output_offset, max_tokens, min_tokens, sampling)


async def generate(backend: NumpyBackend, *requests: SequenceRequest) -> list[list[int]]:
    sinks = [Sink() for _ in requests]
    for one, sink in zip(requests, sinks, strict=True):
        backend.submit(one, sink)
    for sink in sinks:
        await sink.wait()
    return [sink.tokens for sink in sinks]


def prompt(length: int, first: int = 7) -> tuple[int, ...]:
    return tuple((first + 13 * i * i) % 256 + 3 for i in range(length))


async def test_a_sequence_ends_at_its_token_limit(backend: NumpyBackend) -> None:
    sink = Sink()
    backend.submit(request("a", prompt(40), max_tokens=5), sink)
    assert await sink.wait() == "length"
    assert len(sink.tokens) == 5
    assert sink.events[0].cached_tokens == 0
    assert [event.cached_tokens for event in sink.events[1:]] == [None] * 4
    stats = backend.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)
    assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (40, 5)


async def test_batch_mates_and_order_change_nothing(backend: NumpyBackend) -> None:
    requests = [request(f"r{i}", prompt(5 + 17 * i, first=i)) for i in range(6)]
    together = await generate(backend, *requests)
    alone = [(await generate(backend, one))[0] for one in requests]
    assert together == alone
    assert len({tuple(tokens) for tokens in alone}) > 1


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=1.5, seed=11, ignore_eos=True),
        Sampling(temperature=1.0, seed=5, top_p=0.9, frequency_penalty=0.7, ignore_eos=True),
    ],
)
async def test_a_replay_goes_on_as_if_nothing_had_happened(
    options: NumpyOptions, sampling: Sampling
) -> None:
    first, second = NumpyBackend(options), NumpyBackend(options)
    await first.start()
    await second.start()
    (whole,) = await generate(first, request("a", prompt(37), 40, sampling))
    for at in (1, 16, 39):
        resumed = (*prompt(37), *whole[:at])
        (rest,) = await generate(second, request("a", resumed, 40 - at, sampling, at))
        assert whole[:at] + rest == whole
    await first.stop()
    await second.stop()


async def test_a_known_prefix_is_not_computed_again(backend: NumpyBackend) -> None:
    (first,) = await generate(backend, request("a", prompt(50)))
    sink = Sink()
    backend.submit(request("b", prompt(50)), sink)
    await sink.wait()
    assert sink.tokens == first
    assert sink.events[0].cached_tokens == 48
    assert backend.stats().prefix_cache_hits_total == 48


async def test_abort_in_mid_answer_frees_the_blocks_and_silences_the_sink(
    backend: NumpyBackend,
) -> None:
    victim, other = Sink(), Sink()
    backend.submit(request("victim", prompt(30), 500), victim)
    backend.submit(request("other", prompt(20), 60), other)
    while len(victim.tokens) < 3:
        await asyncio.sleep(0)
    assert backend.abort("victim")
    assert not backend.abort("victim")
    heard = len(victim.events)
    await other.wait()
    assert len(victim.events) == heard
    assert backend.stats().kv_blocks_used == 0
    assert [other.tokens] == await generate(backend, request("again", prompt(20), 60))


async def test_a_sink_may_abort_any_sequence(backend: NumpyBackend) -> None:
    """As a server does when a stop string ends one of several choices."""

    class Impatient(Sink):
        def on_token(self, event: TokenEvent) -> None:
            super().on_token(event)
            if len(self.tokens) == 3:
                backend.abort("self")
                backend.abort("other")

    impatient, other, third = Impatient(), Sink(), Sink()
    backend.submit(request("self", prompt(9), 100), impatient)
    backend.submit(request("other", prompt(9, 2), 100), other)
    backend.submit(request("third", prompt(9, 3), 30), third)
    assert await third.wait() == "length"
    assert len(impatient.tokens) == 3
    assert len(other.tokens) <= 3
    assert backend.stats().kv_blocks_used == 0


async def test_preemption_changes_nothing(options: NumpyOptions) -> None:
    small = NumpyBackend(replace(options, kv_tokens=160))
    await small.start()
    requests = [request(f"r{i}", prompt(30, first=i), 60) for i in range(4)]
    together = await generate(small, *requests)
    assert small.stats().preemptions_total > 0
    assert together == [(await generate(small, one))[0] for one in requests]
    await small.stop()


async def test_end_of_sequence_ends_unless_it_is_ignored_or_too_early(
    backend: NumpyBackend,
) -> None:
    eos = backend.eos_token_ids[0]
    wants_eos = Sampling(temperature=0, logit_bias={eos: 1000.0})
    sink = Sink()
    backend.submit(request("a", prompt(10), 9, wants_eos), sink)
    assert await sink.wait() == "stop"
    assert sink.tokens == [eos]
    (ignored,) = await generate(
        backend, request("b", prompt(10), 9, replace(wants_eos, ignore_eos=True))
    )
    assert ignored == [eos] * 9
    (late,) = await generate(backend, request("c", prompt(10), 9, wants_eos, min_tokens=4))
    assert len(late) == 5
    assert late[-1] == eos
    assert eos not in late[:-1]


async def test_a_stop_token_ends(backend: NumpyBackend) -> None:
    (free,) = await generate(backend, request("a", prompt(10), 12))
    stop = replace(GREEDY, stop_token_ids=(free[3],))
    (stopped,) = await generate(backend, request("b", prompt(10), 12, stop))
    assert stopped == free[: free.index(free[3]) + 1]


async def test_log_probabilities_come_with_the_tokens(backend: NumpyBackend) -> None:
    sink = Sink()
    backend.submit(request("a", prompt(10), 4, replace(GREEDY, logprobs=3)), sink)
    await sink.wait()
    for event in sink.events:
        assert len(event.top_logprobs) == 3
        assert event.top_logprobs[0] == (event.token_id, event.logprob)
        assert event.logprob is not None and event.logprob <= 0


async def test_what_does_not_fit_is_refused(options: NumpyOptions) -> None:
    backend = NumpyBackend(replace(options, max_waiting=1, context_length=64))
    with pytest.raises(RuntimeError, match="not started"):
        backend.stats()
    await backend.start()
    assert backend.context_length == 64
    with pytest.raises(PromptTooLong, match="64 tokens"):
        backend.submit(request("a", prompt(64)), Sink())
    with pytest.raises(ValueError, match="token ids must be from 0 to 268"):
        backend.submit(request("a", (1, 269)), Sink())
    backend.submit(request("b", prompt(10)), Sink())
    with pytest.raises(QueueFull):
        backend.submit(request("c", prompt(10)), Sink())
    await backend.stop()


async def test_stop_ends_what_runs_with_abort(options: NumpyOptions) -> None:
    backend = NumpyBackend(options)
    await backend.start()
    sink = Sink()
    backend.submit(request("a", prompt(10), 900), sink)
    while not sink.tokens:
        await asyncio.sleep(0)
    await backend.stop()
    await backend.stop()
    assert sink.events[-1] == TokenEvent(None, finish_reason="abort")


async def test_a_failed_step_ends_its_sequences_and_not_the_engine(
    backend: NumpyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    with monkeypatch.context() as patch:
        patch.setattr("shunter_engine.numpy_steps.sample", _fail)
        backend.submit(request("a", prompt(10)), sink)
        assert await sink.wait() == "error"
    assert backend.stats().kv_blocks_used == 0
    assert len((await generate(backend, request("b", prompt(10))))[0]) == 20


def _fail(*_: object) -> None:
    raise MemoryError("no room")


async def test_embeddings_are_of_length_one_and_differ(backend: NumpyBackend) -> None:
    one, again, other = [
        await backend.embed(list(ids)) for ids in (prompt(300), prompt(300), prompt(300, 9))
    ]
    assert len(one) == 64
    assert sum(x * x for x in one) == pytest.approx(1)
    assert one == again
    assert one != other
    with pytest.raises(PromptTooLong):
        await backend.embed([])


async def test_a_missing_file_is_named(options: NumpyOptions, tmp_path: Path) -> None:
    from shunter_text.model_files import ModelFileError

    backend = NumpyBackend(replace(options, source=f"file://{tmp_path}/no.gguf"))
    with pytest.raises(ModelFileError, match=r"no\.gguf"):
        await backend.start()
    await backend.stop()


async def test_moves_wait_for_the_end_of_a_step(
    backend: NumpyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step in flight still writes into blocks of what was aborted during it."""
    begun, may_end = threading.Event(), threading.Event()

    def held(*arguments: Any) -> Any:
        begun.set()
        may_end.wait(10)
        return numpy_steps.step(*arguments)

    monkeypatch.setattr("shunter_engine.numpy_backend.step", held)
    sink = Sink()
    backend.submit(request("a", prompt(20), 5), sink)
    await asyncio.to_thread(begun.wait, 10)
    backend.abort("a")
    reserving = asyncio.create_task(
        backend.between_steps(lambda: backend.batch.reserve("m", prompt(20), 0))
    )
    await asyncio.sleep(0.02)
    assert not reserving.done()
    may_end.set()
    assert len((await asyncio.wait_for(reserving, 10)).block_table) == 2


async def test_what_waits_for_a_step_is_told_of_the_engines_end(options: NumpyOptions) -> None:
    backend = NumpyBackend(options)
    await backend.start()
    assert await backend.between_steps(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await backend.between_steps(lambda: 1 // 0)
    assert await backend.between_steps(lambda: 8) == 8
    await backend.stop()
    with pytest.raises(RuntimeError, match="the engine has stopped"):
        await backend.between_steps(lambda: 9)
