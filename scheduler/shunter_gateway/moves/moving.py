"""A request, as those see it who move it."""

from typing import Protocol

from shunter_gateway.lifecycle_answer import Answer
from shunter_gateway.lifecycle_binding import Binding
from shunter_gateway.lifecycle_call import OwnerCall
from shunter_gateway.ports import EngineFailure, EngineRequest
from shunter_gateway.request import RequestSpec
from shunter_gateway.topology import Instance


class MovingRequest(Protocol):
    spec: RequestSpec
    answer: Answer
    binding: Binding | None
    call: OwnerCall
    instance: str
    last_heard_at: float  # last token of the engine, or when it was called

    @property
    def epoch(self) -> int: ...
    @property
    def finishing(self) -> bool:
        """The engine has said how the answer ends."""

    def engine_request(self, address: str, trace_parent: str) -> EngineRequest: ...
    def take_over(self, destination: Instance, kv_lease: str = "") -> bool:
        """Stops the source, then starts the destination from the journal under the next epoch."""

    def keep_owner(self, epoch: int) -> None: ...
    def on_engine_failure(self, failure: EngineFailure) -> None: ...
