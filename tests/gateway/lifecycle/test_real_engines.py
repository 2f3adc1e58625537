"""The gateway's core against real engine processes: kill one in mid-answer, move, slow readers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from awaitable_sink import AwaitableSink
from shunter_engine.testing import EngineProcess, engine_process
from shunter_gateway.dispatcher import Dispatcher
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.table import build_adapters
from shunter_gateway.ports import SamplingParams
from shunter_gateway.request import RequestHandle, RequestSpec
from shunter_gateway.testing import CountingObserver
from shunter_gateway.testing_scheduler import FakeScheduler
from shunter_gateway.tokenizers import TokenizerRegistry
from shunter_gateway.topology import topology_from_proto
from shunter_proto.v1 import scheduler_pb2 as pb

SOURCE = "sim://llama-3.1-8b"
TOKENS = 120


@dataclass(slots=True)
class Gateway:
    dispatcher: Dispatcher
    scheduler: FakeScheduler
    observer: CountingObserver
    engines: dict[str, EngineProcess]
    prompt: tuple[int, ...]

    def submit(self, number: int, **changes: object) -> tuple[RequestHandle, AwaitableSink]:
        sink = AwaitableSink()
        spec = RequestSpec(
            request_id=f"r{number}",
            model="chat",
            tenant="",
            path="/v1/completions",
            body=b"",
            prompt_token_ids=(*self.prompt, number + 10),
            prompt_tokens=len(self.prompt) + 1,
            block_hashes=b"",
            max_tokens=TOKENS,
            sampling=SamplingParams(temperature=0.0, ignore_eos=True),
        )
        return self.dispatcher.submit(replace(spec, **changes), sink), sink  # type: ignore[arg-type]


def topology_of(engines: dict[str, EngineProcess]) -> pb.Topology:
    return pb.Topology(
        version=1,
        pools=[
            pb.Topology.Pool(
                name="chat",
                model_names=["chat"],
                model_source=SOURCE,
                revision=SOURCE,
                engine_type="simulated",
                context_length=4096,
                max_retries=3,
            )
        ],
        instances=[
            pb.Topology.Instance(
                name=name,
                pool="chat",
                address=engine.url.removeprefix("http://"),
                engine_type="simulated",
            )
            for name, engine in engines.items()
        ],
    )


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    with contextlib.ExitStack() as stack:
        engines = {}
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            flags = ("--served-name", "chat", "--model", SOURCE, "--speed", "2")
            engines[name] = stack.enter_context(engine_process(tmp_path / name, *flags))
        client = HttpClient()
        adapters = build_adapters(client)
        tokenizers = TokenizerRegistry(adapters)
        loop = asyncio.get_running_loop()
        message = topology_of(engines)
        scheduler = FakeScheduler(loop, message)
        observer = CountingObserver()
        dispatcher = Dispatcher(loop, scheduler, adapters, tokenizers, observer)
        tokenizer = await tokenizers.tokenizer(SOURCE)
        assert tokenizer is not None
        tokenizers.update(topology_from_proto(message))
        await tokenizers.settled()
        scheduler.connect(dispatcher)
        prompt = tuple(tokenizer.encode("The shunter moves wagons. " * 20))
        try:
            yield Gateway(dispatcher, scheduler, observer, engines, prompt)
        finally:
            dispatcher.close()
            await tokenizers.close()
            await client.close()


async def test_killed_engine_is_not_noticed(gateway: Gateway) -> None:
    undisturbed = [gateway.submit(number)[1] for number in range(8)]
    for sink in undisturbed:
        await sink.finished()
    assert gateway.observer.counts == {}

    sinks = [gateway.submit(number)[1] for number in range(8)]
    for sink in sinks:
        await sink.until(lambda s: len(s.token_ids) >= 20)
    gateway.engines["a"].process.kill()
    for sink in sinks:
        outcome = await sink.finished()
        assert (outcome.finish_reason, outcome.output_tokens) == ("length", TOKENS)
    assert [s.token_ids for s in sinks] == [s.token_ids for s in undisturbed]
    assert [s.text for s in sinks] == [s.text for s in undisturbed]
    assert gateway.observer.counts == {"retried connection": 4}
    assert gateway.scheduler.ledger == {}


async def test_moved_back_and_forth_gives_the_same_answer(gateway: Gateway) -> None:
    _, undisturbed = gateway.submit(1)
    await undisturbed.finished()
    _, sink = gateway.submit(1)
    for moves in range(1, 4):
        await sink.until(lambda s, n=moves: len(s.token_ids) >= 20 * n)  # type: ignore[misc]
        source = sink.assigned[-1]
        gateway.scheduler.move("r1", "b" if source == "a" else "a")
        await sink.until(lambda s, n=moves: len(s.assigned) > n)  # type: ignore[misc]
    await sink.finished()
    assert len(sink.assigned) == 4
    assert (sink.token_ids, sink.text) == (undisturbed.token_ids, undisturbed.text)
    assert gateway.observer.counts == {"moved replay": 3}


async def test_seeded_sampling_goes_on_across_a_kill(gateway: Gateway) -> None:
    sampling = SamplingParams(temperature=1.0, seed=5, presence_penalty=0.5, ignore_eos=True)
    _, undisturbed = gateway.submit(1, sampling=sampling)
    await undisturbed.finished()
    _, sink = gateway.submit(1, sampling=sampling)
    await sink.until(lambda s: len(s.token_ids) >= 20)
    gateway.engines[sink.assigned[0]].process.kill()
    await sink.finished()
    assert sink.token_ids == undisturbed.token_ids


async def test_engine_refusal_reaches_the_client(gateway: Gateway) -> None:
    prompt = gateway.prompt * 100
    _, sink = gateway.submit(1, prompt_token_ids=prompt, prompt_tokens=len(prompt))
    async with asyncio.timeout(10):
        await sink.end.wait()
    assert sink.error is not None and sink.error.status == 400
    assert b"error" in sink.error.body
    assert gateway.observer.counts == {}
