"""What happens to one request whose engine failed: it goes on elsewhere, or ends with an error."""

from typing import Protocol

from shunter_gateway import lifecycle_events as events
from shunter_gateway.journal import Owner
from shunter_gateway.lifecycle_answer import Answer
from shunter_gateway.lifecycle_binding import Binding
from shunter_gateway.lifecycle_ports import Services, Timer
from shunter_gateway.lifecycle_retry import RetryCase, backoff_s, retry_refusal
from shunter_gateway.ports import EngineFailure, FinishReason
from shunter_gateway.request import ClientError, RequestSpec


class FailedRequest(Protocol):
    """The request, as its recovery sees it."""

    spec: RequestSpec
    answer: Answer
    binding: Binding | None
    instance: str

    @property
    def epoch(self) -> int: ...
    def submit(self) -> None: ...
    def leave_engine(self, reason: str) -> None: ...
    def finish(self, reason: FinishReason) -> None: ...
    def fail_client(self, error: ClientError, finish_reason: str | None) -> None: ...


class Recovery:
    """Remembers which instances failed the request, and waits where there is no other."""

    __slots__ = ("_backoff", "_life", "_services", "failed_instances")

    def __init__(self, services: Services, life: FailedRequest) -> None:
        self._services = services
        self._life = life
        self._backoff: Timer | None = None
        self.failed_instances: list[str] = []

    @property
    def backing_off(self) -> bool:
        return self._backoff is not None

    def cancel(self) -> None:
        timer, self._backoff = self._backoff, None
        if timer is not None:
            timer.cancel()

    def excluded_instances(self, binding: Binding) -> tuple[str, ...]:
        topology = self._services.topology()
        return events.excluded_instances(self.failed_instances, binding.pool.name, topology)

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

    def _report(self, failure: EngineFailure) -> None:
        life = self._life
        self.failed_instances.append(life.instance)
        owner, tokens = Owner(life.instance, life.epoch), life.answer.output_tokens
        self._services.link.send(events.failed(owner, life.spec.request_id, failure.reason, tokens))

    def _refusal(self, binding: Binding, blamed: bool) -> str:
        failures, pool = len(self.failed_instances), binding.pool
        case = RetryCase(
            failures=failures,
            max_retries=pool.max_retries,
            began=self._life.answer.began,
            token_level=binding.token_level,
            unmovable_reason=self._life.spec.unmovable_reason,
        )
        if why := retry_refusal(case):
            return why
        if not blamed or self._services.allow_retry(pool.name, self._life.instance, failures):
            return ""
        return "too many retries in this pool"

    def _retry(self, binding: Binding, failure: EngineFailure) -> None:
        services, life = self._services, self._life
        services.observer.retried(failure.reason)
        life.leave_engine("source_failed")
        if self.excluded_instances(binding):
            life.submit()
            return
        # Nothing else is there: the same instance gets time to come back.
        delay_s = backoff_s(services.limits, len(self.failed_instances), failure.retry_after_s)
        self._backoff = services.clock.call_later(delay_s, self._again)

    def _again(self) -> None:
        self._backoff = None
        self._life.submit()
