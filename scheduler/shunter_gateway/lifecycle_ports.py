"""What a request's lifecycle needs from outside: a clock, the scheduler, adapters, observers."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shunter_gateway.lifecycle_spans import Spans
from shunter_gateway.moves.ports import EngineMoves, SlotServers
from shunter_gateway.ports import EngineAdapter
from shunter_gateway.topology import Pool, Topology
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_text.detokenizer import StreamDecoder

SchedulerEvent = (
    pb.Submitted | pb.Running | pb.FirstToken | pb.Progress | pb.Finished | pb.Failed | pb.MoveDone
)


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """An event loop is one."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer: ...


class SchedulerLink(Protocol):
    """The session with the scheduler, as those see it who report to it."""

    @property
    def lost_since(self) -> float | None:
        """Clock instant since which there is no session; None while there is one."""

    @property
    def heard_at(self) -> float:
        """Clock instant of the last message from the scheduler."""

    def send(self, event: SchedulerEvent) -> None:
        """Never blocks. Without a session only the ends of epochs are kept for the next one."""


class SessionListener(Protocol):
    """Who hears the scheduler."""

    def on_commands(self, commands: pb.SchedulerCommands) -> None: ...
    def on_session(self) -> None:
        """A session begins: report what runs and what waits."""


class Decoders(Protocol):
    """The tokenizers, as far as the lifecycle needs them."""

    def decoder(self, pool: Pool, context_ids: tuple[int, ...]) -> StreamDecoder | None: ...
    def eos_token_ids(self, pool: Pool) -> frozenset[int]: ...
    def ids_within(self, pool: Pool, text: str) -> Sequence[int]:
        """Ids of a piece of text in mid-answer; empty where they cannot be told."""

    def same_tokenizer(self, source: str, other: str) -> bool:
        """Whether tokens of one model source are tokens of the other."""

    def mismatch(self, pool: Pool) -> str:
        """Why tokens of this pool's engines cannot be trusted; empty if they can."""


class Observer(Protocol):
    """Counts what happens; see `lifecycle_metrics`."""

    def retried(self, reason: str) -> None: ...
    def moved(self, rung: str, stall_s: float) -> None: ...
    def move_aborted(self, rung: str, reason: str) -> None: ...
    def copied(self, rung: str, size_bytes: int) -> None:
        """KV cache that a move has brought, whatever became of the move."""

    def unmovable(self, reason: str) -> None: ...
    def placed_without_scheduler(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LifecycleLimits:
    """Knobs of the request lifecycle."""

    scheduler_grace_s: float = 1.0  # without a scheduler this long, the gateway places by itself
    progress_interval_s: float = 0.5
    answer_s: float = 5.0  # for a scheduler to place, hold or reject; then it is asked again
    unanswered_s: float = 30.0  # then the request ends
    max_requests: int = 20_000  # in flight in one gateway
    warm_rounds: int = 3
    warm_delta_tokens: int = 32  # switch once the destination is at most this far behind
    warm_timeout_s: float = 30.0  # of one move's warm-ups together
    kv_call_s: float = 5.0  # for an engine to answer one call of a move; it waits for a step
    kv_copy_s: float = 30.0  # of a KV cache, while its source goes on decoding
    kv_tail_s: float = 1.0  # for the stream to bring what was generated before the source froze
    kv_again_s: float = 0.5  # then a call that a client waits for is sent again
    kv_lease_s: float = 15.0  # of what an engine holds for a move; calls and chunks begin it again
    kv_frozen_s: float = 40.0  # of a frozen source: outlasts all that may go unanswered then
    retry_backoff_s: float = 0.5  # before the same instance is tried again
    max_backoff_s: float = 5.0  # longest an overloaded engine is waited for
    retry_after_s: float = 1.0  # told to clients that are turned away


@dataclass(frozen=True, slots=True)
class Services:
    """All that the requests of one gateway share."""

    clock: Clock
    link: SchedulerLink
    adapters: Mapping[str, EngineAdapter]
    decoders: Decoders
    observer: Observer
    spans: Spans
    rng: random.Random
    limits: LifecycleLimits
    topology: Callable[[], Topology | None]
    allow_retry: Callable[[str, str, int], bool]  # pool, instance that failed, failures so far
    connect: Callable[[str], None] = lambda _: None  # to an address that will be called soon
    engine_moves: EngineMoves | None = None  # None: no KV caches go by `EngineMoves`
    slot_servers: SlotServers | None = None  # None: none go by llama-servers' slots
