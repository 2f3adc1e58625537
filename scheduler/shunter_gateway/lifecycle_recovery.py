"""What happens to one request whose engine failed, or goes: it goes on elsewhere, or ends with an
error."""

from typing import Protocol

from shunter_gateway import lifecycle_events as events
from shunter_gateway.journal import Owner
from shunter_gateway.lifecycle_answer import Answer
from shunter_gateway.lifecycle_binding import Binding
from shunter_gateway.lifecycle_ports import Services, Timer
from shunter_gateway.lifecycle_retry import RetryCase, backoff_s, retry_refusal
from shunter_gateway.moves.rules import DRAIN
from shunter_gateway.ports import EngineFailure, FinishReason
from shunter_gateway.request import ClientError, RequestSpec

DRAINED = "drained"


class FailedRequest(Protocol):
    """The request, as its recovery sees it."""

    spec: RequestSpec
    answer: Answer
    binding: Binding | None
    instance: str

    @property
    def epoch(self) -> int: ...
    @property
    def finishing(self) -> bool: ...
    def on_engine_end(self) -> None: ...
    def submit(self) -> None: ...
    def leave_engine(self, reason: str) -> None: ...
    def finish(self, reason: FinishReason) -> None: ...
    def fail_client(self, error: ClientError, finish_reason: str | None) -> None: ...


class Recovery:
    """Remembers which instances the request has left so, and waits where there is no other."""

    __slots__ = ("_backoff", "_failures", "_life", "_services", "left_instances")

    def __init__(self, services: Services, life: FailedRequest) -> None:
        self._services = services
        self._life = life
        self._backoff: Timer | None = None
        self._failures = 0
        self.left_instances: list[str] = []

    @property
    def backing_off(self) -> bool:
        return self._backoff is not None

    def cancel(self) -> None:
        timer, self._backoff = self._backoff, None
        if timer is not None:
            timer.cancel()

    def excluded_instances(self, binding: Binding) -> tuple[str, ...]:
        topology = self._services.topology()
        return events.excluded_instances(self.left_instances, binding.pool.name, topology)

    def on_failure(self, failure: EngineFailure, binding: Binding) -> None:
        """`failure` is not the client's fault."""
        life = self._life
        blamed = failure.reason != "unread"
        if blamed:
            self._report(failure)
        if life.answer.exhausted:
            life.finish("length")
        elif why := self._refusal(binding, blamed):
            life.fail_client(events.engine_error(failure, why), "error")
        elif blamed:
            self._retry(binding, failure)
        else:
            life.leave_engine("unread")
            life.submit()

    def on_cancel(self, reason: str) -> bool:
        """Where the instance goes, what would outlive its death goes on elsewhere; that is no
        engine's failure. False: the request ends."""
        life = self._life
        if life.finishing:
            life.on_engine_end()
        elif not reason.startswith(DRAIN):
            return False
        elif life.answer.exhausted:
            life.finish("length")
        elif life.binding is not None and self._case_refusal(life.binding):
            return False
        else:
            self._leave_drained()
        return True

    def _leave_drained(self) -> None:
        life = self._life
        if life.instance:
            self.left_instances.append(life.instance)
        self._services.observer.retried(DRAINED)
        life.leave_engine(DRAINED)
        life.submit()

    def _report(self, failure: EngineFailure) -> None:
        life = self._life
        self._failures += 1
        self.left_instances.append(life.instance)
        owner, tokens = Owner(life.instance, life.epoch), life.answer.output_tokens
        self._services.link.send(events.failed(owner, life.spec.request_id, failure.reason, tokens))

    def _refusal(self, binding: Binding, blamed: bool) -> str:
        if why := self._case_refusal(binding):
            return why
        allow, pool = self._services.allow_retry, binding.pool.name
        if not blamed or allow(pool, self._life.instance, self._failures):
            return ""
        return "too many retries in this pool"

    def _case_refusal(self, binding: Binding) -> str:
        case = RetryCase(
            failures=self._failures,
            max_retries=binding.pool.max_retries,
            began=self._life.answer.began,
            token_level=binding.token_level,
            unmovable_reason=self._life.spec.unmovable_reason,
        )
        return retry_refusal(case)

    def _retry(self, binding: Binding, failure: EngineFailure) -> None:
        services, life = self._services, self._life
        services.observer.retried(failure.reason)
        life.leave_engine("source_failed")
        if self.excluded_instances(binding):
            life.submit()
            return
        # Nothing else is there: the same instance gets time to come back.
        delay_s = backoff_s(services.limits, self._failures, failure.retry_after_s)
        self._backoff = services.clock.call_later(delay_s, self._again)

    def _again(self) -> None:
        self._backoff = None
        self._life.submit()
