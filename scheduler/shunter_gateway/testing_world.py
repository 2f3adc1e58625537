"""A whole gateway core in virtual time: dispatcher, fake scheduler, scripted engines."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

from opentelemetry.trace import Tracer

from shunter_gateway.dispatcher import Dispatcher
from shunter_gateway.lifecycle_ports import Decoders, LifecycleLimits
from shunter_gateway.ports import EngineFailure
from shunter_gateway.request import RequestHandle, RequestSpec
from shunter_gateway.testing import (
    CountingObserver,
    LetterDecoders,
    ManualClock,
    RecordingSink,
)
from shunter_gateway.testing_engines import ScriptedCall, ScriptedEngine
from shunter_gateway.testing_kv import FakeEngineMoves
from shunter_gateway.testing_scheduler import FakeScheduler, topology_message
from shunter_gateway.testing_slots import FakeSlots

LOST = EngineFailure("connection", "connection lost", retriable=True)
PROMPT = (5, 4, 3)
SPEC = RequestSpec(
    request_id="r1",
    model="chat",
    tenant="",
    path="/v1/completions",
    body=b"{}",
    prompt_token_ids=PROMPT,
    prompt_tokens=len(PROMPT),
    block_hashes=b"",
    max_tokens=8,
)


@dataclass(slots=True)
class World:
    instances: dict[str, str] = field(
        default_factory=lambda: {"chat-0": "chat", "chat-1": "chat", "chat-2": "chat"}
    )
    from_zero: tuple[str, ...] = ()
    limits: LifecycleLimits = field(default_factory=LifecycleLimits)
    connected: bool = True
    decoders: Decoders = field(default_factory=LetterDecoders)
    tracer: Tracer | None = None
    kv_transport: str = ""
    engine_type: str = "simulated"  # llamacpp: KV caches go by slots
    clock: ManualClock = field(default_factory=ManualClock)
    observer: CountingObserver = field(default_factory=CountingObserver)
    engine: ScriptedEngine = field(init=False)
    scheduler: FakeScheduler = field(init=False)
    engine_moves: FakeEngineMoves = field(init=False)
    slots: FakeSlots = field(init=False)
    dispatcher: Dispatcher = field(init=False)
    expected: list[str] = field(default_factory=list)  # addresses to have a connection ready to

    def __post_init__(self) -> None:
        self.engine = ScriptedEngine(self.clock)
        self.scheduler = FakeScheduler(
            self.clock,
            topology_message(
                self.instances,
                engine_type=self.engine_type,
                from_zero=self.from_zero,
                kv_transport=self.kv_transport,
            ),
        )
        self.engine_moves = FakeEngineMoves(self.clock, self.engine)
        self.slots = FakeSlots(self.clock, self.engine)
        self.dispatcher = Dispatcher(
            clock=self.clock,
            link=self.scheduler,
            adapters={self.engine_type: self.engine},
            decoders=self.decoders,
            observer=self.observer,
            rng=random.Random(1),
            limits=self.limits,
            tracer=self.tracer,
            engine_moves=self.engine_moves if self.kv_transport else None,
            slot_servers=self.slots if self.engine_type == "llamacpp" else None,
            connect=self.expected.append,
        )
        if self.connected:
            self.scheduler.connect(self.dispatcher)

    def submit(self, **changes: Any) -> tuple[RequestHandle, RecordingSink]:
        """Submits a request and lets the scheduler answer."""
        sink = RecordingSink()
        handle = self.dispatcher.submit(replace(SPEC, **changes), sink)
        self.settle()
        return handle, sink

    def settle(self, seconds: float = 0.0) -> None:
        """Lets time pass, with the dispatcher's ticks."""
        self.clock.advance(0)
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            self.dispatcher.tick()
            self.clock.advance(0)

    def call_of(self, request_id: str = "r1") -> ScriptedCall:
        """The call that owns the request."""
        return [call for call in self.engine.live if call.request.request_id == request_id][-1]

    def run_out(self, rounds: int = 200) -> None:
        """Lets everything that is there come to its end."""
        for _ in range(rounds):
            for call in self.engine.live:
                call.step()
            self.settle(0.1)
