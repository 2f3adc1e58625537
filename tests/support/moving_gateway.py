"""The gateway's core in this process, over engine processes whose KV caches it moves about."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from awaitable_sink import AwaitableSink
from forked_engines import ForkedEngine
from shunter_engine.numpy_testing import TinyShape, write_tiny_gguf
from shunter_engine.options import EngineOptions
from shunter_gateway.dispatcher import Dispatcher
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.kv_moves import GrpcEngineMoves
from shunter_gateway.engines.llama_slots import LlamaSlots
from shunter_gateway.engines.table import build_adapters
from shunter_gateway.lifecycle_ports import LifecycleLimits
from shunter_gateway.moves.ports import EngineMoves
from shunter_gateway.ports import EngineAdapter, SamplingParams
from shunter_gateway.request import RequestHandle, RequestSpec
from shunter_gateway.testing import CountingObserver
from shunter_gateway.testing_scheduler import FakeScheduler
from shunter_gateway.tokenizers import TokenizerRegistry
from shunter_gateway.topology import topology_from_proto
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.service.engine_metrics import parse_metrics

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)
_LEFT_OVER = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "shunter:kv_moves_active",
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
)


def simulated_options() -> EngineOptions:
    return EngineOptions(served_name="chat", speed=2.0, moves_port=0)


def numpy_options(folder: Path) -> EngineOptions:
    path = folder / "tiny.gguf"
    if not path.exists():
        write_tiny_gguf(path, shape=TinyShape(layers=4))
    model = f"file://{path}"
    return EngineOptions("numpy", model, served_name="chat", deterministic=True, moves_port=0)


class MovingSink(AwaitableSink):
    UNTIL_S = 30.0
    END_S = 60.0

    async def has(self, tokens: int) -> None:
        await self.until(lambda sink: len(sink.token_ids) >= tokens)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a test puts in place of the usual."""

    moves_addresses: Mapping[str, str] = field(default_factory=dict)  # as gateways are told
    around: Callable[[EngineMoves], EngineMoves] = lambda moves: moves
    limits: LifecycleLimits | None = None
    slots: Callable[[HttpClient], LlamaSlots] | None = None  # where llama-servers move


@dataclass(slots=True)
class MovingGateway:
    dispatcher: Dispatcher
    scheduler: FakeScheduler
    observer: CountingObserver
    engines: Mapping[str, ForkedEngine]
    adapters: Mapping[str, EngineAdapter]
    prompt: tuple[int, ...]
    # Ids are unique in life, and engines that outlast a gateway rely on it.
    run: str = field(default_factory=lambda: secrets.token_hex(4))

    def submit(
        self,
        name: str,
        tokens: int = 300,
        prompt: tuple[int, ...] = (),
        sampling: SamplingParams = GREEDY,
        **changes: Any,
    ) -> tuple[RequestHandle, MovingSink]:
        sink, ids = MovingSink(), prompt or self.prompt
        spec = RequestSpec(
            request_id=f"{self.run}-{name}",
            model="chat",
            tenant="",
            path="/v1/completions",
            body=b"",
            prompt_token_ids=ids,
            prompt_tokens=len(ids),
            block_hashes=b"",
            max_tokens=tokens,
            sampling=sampling,
        )
        return self.dispatcher.submit(replace(spec, **changes), sink), sink

    def other(self, sink: MovingSink) -> str:
        return next(name for name in self.engines if name != sink.assigned[-1])

    def move(self, name: str, destination: str, rung: str = "kv") -> bool:
        """False where the request has just ended, or waits: then nothing is told."""
        lives = f"{self.run}-{name}" in self.scheduler.ledger
        if lives:
            self.scheduler.move(f"{self.run}-{name}", destination, rung)
        return lives

    def reports(self) -> list[pb.MoveDone]:
        return [e for e in self.scheduler.events if isinstance(e, pb.MoveDone)]

    async def settled(self) -> None:
        """Nothing runs at the engines that are left, no move holds anything there, and the
        scheduler's ledger is empty."""
        assert self.scheduler.ledger == {} and self.dispatcher.in_flight == 0
        async with asyncio.timeout(30):
            for engine in self.engines.values():
                while engine.alive and await asyncio.to_thread(_left_over, engine):
                    await asyncio.sleep(0.05)


def _left_over(engine: ForkedEngine) -> bool:
    lines = engine.page().splitlines()
    return any(x.startswith(_LEFT_OVER) and float(x.rpartition(" ")[2]) for x in lines)


@contextlib.asynccontextmanager
async def gateway_over(
    engines: Mapping[str, ForkedEngine], options: EngineOptions, changes: Changes | None = None
) -> AsyncIterator[MovingGateway]:
    """`options` of all the engines, as far as they concern the pool."""
    changes = changes or Changes()
    message = topology_of(engines, options, changes)
    async with gateway_of(engines, message, changes) as made:
        yield made


def topology_of(
    engines: Mapping[str, ForkedEngine], options: EngineOptions, changes: Changes | None = None
) -> pb.Topology:
    """One pool of engines of our own."""
    changes = changes or Changes()
    instances = [_instance(n, e, options, changes) for n, e in engines.items()]
    return pb.Topology(version=1, pools=[_pool(options)], instances=instances)


@contextlib.asynccontextmanager
async def gateway_of(
    engines: Mapping[str, Any], message: pb.Topology, changes: Changes | None = None
) -> AsyncIterator[MovingGateway]:
    """Of one pool, whatever its engines are."""
    changes = changes or Changes()
    async with contextlib.AsyncExitStack() as stack:
        client, engine_moves = HttpClient(), GrpcEngineMoves()
        stack.push_async_callback(client.close)
        stack.push_async_callback(engine_moves.close)
        adapters = build_adapters(client)
        slots = changes.slots(client) if changes.slots is not None else None
        if slots is not None:
            stack.push_async_callback(slots.close)
        tokenizers = TokenizerRegistry(adapters)
        stack.push_async_callback(tokenizers.close)
        loop = asyncio.get_running_loop()
        scheduler, observer = FakeScheduler(loop, message), CountingObserver()
        dispatcher = Dispatcher(
            loop,
            scheduler,
            adapters,
            tokenizers,
            observer,
            limits=changes.limits,
            engine_moves=changes.around(engine_moves),
            connect=client.prepare,
            slot_servers=slots,
        )
        stack.callback(dispatcher.close)
        tokenizer = await tokenizers.tokenizer(message.pools[0].model_source)
        assert tokenizer is not None
        tokenizers.update(topology_from_proto(message))
        await tokenizers.settled()
        scheduler.connect(dispatcher)
        prompt = tuple(tokenizer.encode("The shunter moves wagons. " * 8))
        yield MovingGateway(dispatcher, scheduler, observer, engines, adapters, prompt)


def _pool(options: EngineOptions) -> pb.Topology.Pool:
    return pb.Topology.Pool(
        name="chat",
        model_names=["chat"],
        model_source=options.model,
        revision=options.model,
        engine_type=options.backend,
        context_length=options.context_length,
        max_retries=5,
    )


def _instance(
    name: str, engine: ForkedEngine, options: EngineOptions, changes: Changes
) -> pb.Topology.Instance:
    seen, address = parse_metrics(engine.page()), engine.url.removeprefix("http://")
    assert seen.kv_transport, "the engine does not offer moves"
    moves_address = f"{address.rpartition(':')[0]}:{seen.moves_port}"
    return pb.Topology.Instance(
        name=name,
        pool="chat",
        address=address,
        engine_type=options.backend,
        kv_transport=seen.kv_transport,
        moves_address=changes.moves_addresses.get(name, moves_address),
    )
