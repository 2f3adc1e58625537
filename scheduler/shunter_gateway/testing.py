"""Fakes of the lifecycle's ports: a clock, a scheduler, engines that generate by a rule."""

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from shunter_gateway.lifecycle_ports import Clock, SchedulerEvent, SessionListener
from shunter_gateway.ports import Capabilities, EngineFailure, EngineRequest, TokenChunk, TokenSink
from shunter_gateway.request import ClientError, Delta, Outcome
from shunter_gateway.topology import Pool
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_text.detokenizer import StreamDecoder

TOKEN_LEVEL = Capabilities(
    token_ids=True,
    prefix_caching=True,
    priority=True,
    abort=True,
    output_offset=True,
    embeddings=False,
)
TEXT_LEVEL = Capabilities(
    token_ids=False,
    prefix_caching=False,
    priority=False,
    abort=True,
    output_offset=False,
    embeddings=False,
)


@dataclass(slots=True)
class _Timer:
    callback: Callable[[], None] | None

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """`Clock` that stands still until `advance`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> _Timer:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (self._now + delay, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            self._now, _, timer = heapq.heappop(self._timers)
            if (callback := timer.callback) is not None:
                timer.callback = None
                callback()
        self._now = end


def next_token(token_ids: Iterable[int], vocab: int = 97) -> int:
    """Depends on all tokens before it, so that a wrong resume is seen at once."""
    state = 7
    for token_id in token_ids:
        state = (state * 31 + token_id + 1) % 1_000_003
    return state % vocab


def answer_ids(prompt: Iterable[int], count: int) -> list[int]:
    """What an undisturbed engine generates."""
    ids = list(prompt)
    start = len(ids)
    for _ in range(count):
        ids.append(next_token(ids))
    return ids[start:]


class ScriptedCall:
    """One engine call that goes on when told to."""

    def __init__(self, engine: "ScriptedEngine", request: EngineRequest, sink: TokenSink) -> None:
        self._engine = engine
        self.request = request
        self._sink = sink
        self._ids = list(request.token_ids or ())
        self.made = 0
        self.over = False
        self.aborted = False
        self.paused = False

    def abort(self) -> None:
        self.aborted = self.aborted or not self.over
        self.over = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def step(self, tokens: int = 1, finish: bool = True) -> None:
        """Generates; ends the call once `max_tokens` are reached. Nothing while paused."""
        if self.over or self.paused:
            return
        if self.request.token_ids is None:
            self._step_text(tokens)
            return
        wanted = min(tokens, self.request.max_tokens - self.made)
        ids = []
        for _ in range(wanted):
            self._ids.append(next_token(self._ids))
            ids.append(self._ids[-1])
        self.made += wanted
        last = self.made >= self.request.max_tokens
        self._sink.on_chunk(
            TokenChunk(token_ids=ids, finish_reason="length" if last and finish else None)
        )
        if last and finish:
            self._end()

    def _step_text(self, tokens: int) -> None:
        self.made += tokens
        self._sink.on_chunk(TokenChunk(raw=b'{"n":%d}' % self.made, text="x" * tokens))

    def _end(self) -> None:
        if not self.over:
            self.over = True
            self._sink.on_end()

    def send(self, chunk: TokenChunk) -> None:
        if not self.over:
            self._sink.on_chunk(chunk)

    def end(self, chunk: TokenChunk | None = None) -> None:
        if chunk is not None:
            self.send(chunk)
        self._end()

    def fail(self, failure: EngineFailure) -> None:
        if not self.over:
            self.over = True
            self._sink.on_failure(failure)


class ScriptedEngine:
    """An `EngineAdapter` that records its calls; `next_failure` ends the next one at once."""

    engine_type = "simulated"

    def __init__(self, clock: Clock, capabilities: Capabilities = TOKEN_LEVEL) -> None:
        self._clock = clock
        self.capabilities = capabilities
        self.calls: list[ScriptedCall] = []
        self.next_failure: EngineFailure | None = None

    @property
    def live(self) -> list[ScriptedCall]:
        return [call for call in self.calls if not call.over]

    def start(self, request: EngineRequest, sink: TokenSink) -> ScriptedCall:
        call = ScriptedCall(self, request, sink)
        self.calls.append(call)
        failure, self.next_failure = self.next_failure, None
        if failure is not None:
            self._clock.call_later(0, lambda: call.fail(failure))
        return call

    async def tokenize(self, address: str, model: str, text: str) -> list[int]:
        return list(text.encode())

    async def forward(self, address: str, path: str, body: bytes) -> tuple[int, bytes]:
        return 200, b"{}"


class LetterDecoder:
    """Token 0 is `a`, 1 is `b`, ...: what was delivered shows at a glance."""

    def step(self, token_id: int) -> str:
        return chr(ord("a") + token_id % 26)

    def flush(self) -> str:
        return ""


@dataclass(slots=True)
class LetterDecoders:
    """`Decoders` for every pool; `reason` is why its engines' tokens cannot be trusted."""

    reason: str = ""

    def decoder(self, pool: Pool, context_ids: tuple[int, ...]) -> StreamDecoder | None:
        return LetterDecoder()

    def eos_token_ids(self, pool: Pool) -> frozenset[int]:
        return frozenset()

    def mismatch(self, pool: Pool) -> str:
        return self.reason


@dataclass(slots=True)
class RecordingSink:
    """A `ClientSink` that keeps what the client got, and fails on anything after the end."""

    assigned: list[str] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    outcome: Outcome | None = None
    error: ClientError | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    @property
    def ended(self) -> bool:
        return self.outcome is not None or self.error is not None

    def on_assigned(self, instance: str, pool: str) -> None:
        assert not self.ended
        self.assigned.append(instance)

    def on_delta(self, delta: Delta) -> None:
        assert not self.ended
        self.deltas.append(delta)

    def on_done(self, outcome: Outcome) -> None:
        assert not self.ended
        self.outcome = outcome

    def on_error(self, error: ClientError) -> None:
        assert not self.ended
        self.error = error


@dataclass(slots=True)
class CountingObserver:
    counts: dict[str, int] = field(default_factory=dict)

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def retried(self, reason: str) -> None:
        self._count(f"retried {reason}")

    def moved(self, rung: str, stall_s: float) -> None:
        self._count(f"moved {rung}")

    def move_aborted(self, rung: str, reason: str) -> None:
        self._count(f"aborted {reason}")

    def unmovable(self, reason: str) -> None:
        self._count(f"unmovable {reason}")

    def placed_without_scheduler(self) -> None:
        self._count("alone")


def topology_message(
    instances: Mapping[str, str], context_length: int = 4096, engine_type: str = "simulated"
) -> pb.Topology:
    """Instances by name, each with its pool; a pool serves the model of its own name."""
    return pb.Topology(
        version=1,
        block_tokens=64,
        rule_headers=["x-tier"],
        pools=[
            pb.Topology.Pool(
                name=pool,
                model_names=[pool, f"{pool}-alias"],
                model_source=f"sim://{pool}",
                revision=f"sim://{pool}",
                engine_type=engine_type,
                context_length=context_length,
                migration_mode="Auto",
                max_retries=3,
            )
            for pool in dict.fromkeys(instances.values())
        ],
        instances=[
            pb.Topology.Instance(
                name=name,
                pool=pool,
                profile="l4",
                address=f"{name}:1",
                engine_type=engine_type,
                prefill_tokens_per_s=1000,
                decode_tokens_per_s=50,
            )
            for name, pool in instances.items()
        ],
    )


class FakeScheduler:
    """A `SchedulerLink` with a scheduler behind it that assigns round robin, at once.

    `auto` False: tests send the commands. It keeps the ledger that a scheduler would keep.
    """

    def __init__(self, clock: Clock, topology: pb.Topology) -> None:
        self._clock = clock
        self.topology = topology
        self.listener: SessionListener | None = None
        self.auto = True
        self.lost_since: float | None = None
        self.heard_at = 0.0
        self.events: list[SchedulerEvent] = []
        self.ledger: dict[str, tuple[int, str]] = {}  # request -> (epoch, instance)
        self.waiting: dict[str, pb.Submitted] = {}
        self._turn = 0

    def connect(self, listener: SessionListener) -> None:
        self.listener = listener
        self.lost_since = None
        self.command(pb.SchedulerCommand(topology=self.topology))
        listener.on_session()

    def lose(self) -> None:
        """The scheduler dies, and with it what it knew."""
        self.lost_since = self._clock.time()
        self.ledger.clear()
        self.waiting.clear()

    def command(self, *commands: pb.SchedulerCommand) -> None:
        assert self.listener is not None
        self.heard_at = self._clock.time()
        self.listener.on_commands(pb.SchedulerCommands(commands=commands))

    def send(self, event: SchedulerEvent) -> None:
        if self.lost_since is not None:
            return
        self.events.append(event)
        match event:
            case pb.Submitted():
                self.ledger.pop(event.request_id, None)
                self.waiting[event.request_id] = event
                if self.auto:
                    self._clock.call_later(0, lambda: self._answer(event))
            case pb.Running():
                request = event.request
                self.waiting.pop(request.request_id, None)
                self.ledger[request.request_id] = (request.epoch, event.instance)
            case pb.Finished() | pb.Failed():
                self.waiting.pop(event.request_id, None)
                self.ledger.pop(event.request_id, None)
            case pb.MoveDone() if event.moved:
                self.ledger[event.request_id] = (event.epoch, event.instance)
            case _:
                pass

    def _answer(self, event: pb.Submitted) -> None:
        if self.waiting.get(event.request_id) is not event or self.lost_since is not None:
            return
        candidates = [
            instance
            for instance in self.topology.instances
            if instance.pool == event.model.removesuffix("-alias")
            and instance.name not in event.excluded_instances
        ]
        if not candidates:
            reject = pb.Reject(request_id=event.request_id, epoch=event.epoch, reason="no_instance")
            del self.waiting[event.request_id]
            self.command(pb.SchedulerCommand(reject=reject))
            return
        self._turn += 1
        self.assign(event, candidates[self._turn % len(candidates)].name)

    def assign(self, event: pb.Submitted, instance: str) -> None:
        target = next(i for i in self.topology.instances if i.name == instance)
        self.waiting.pop(event.request_id, None)
        self.ledger[event.request_id] = (event.epoch, instance)
        assign = pb.Assign(
            request_id=event.request_id,
            epoch=event.epoch,
            instance=instance,
            pool=target.pool,
            address=target.address,
        )
        self.command(pb.SchedulerCommand(assign=assign))

    def move(self, request_id: str, destination: str) -> None:
        epoch, _ = self.ledger[request_id]
        target = next(i for i in self.topology.instances if i.name == destination)
        move = pb.Move(
            request_id=request_id,
            epoch=epoch,
            destination=destination,
            address=target.address,
            rung="replay",
            reason="test",
        )
        self.command(pb.SchedulerCommand(move=move))

    def suspend(self, request_id: str) -> None:
        epoch, _ = self.ledger[request_id]
        self.command(pb.SchedulerCommand(suspend=pb.Suspend(request_id=request_id, epoch=epoch)))

    def sent(self, kind: type[SchedulerEvent]) -> list[SchedulerEvent]:
        return [event for event in self.events if isinstance(event, kind)]
