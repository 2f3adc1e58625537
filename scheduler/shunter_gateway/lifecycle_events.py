"""What the lifecycle says to the scheduler and to the client. Pure."""

from collections.abc import Iterable, Mapping

from shunter_gateway.journal import Owner
from shunter_gateway.ports import Capabilities, EngineFailure, Penalty, SamplingParams
from shunter_gateway.request import ClientError, RequestSpec, WorkflowStage
from shunter_gateway.topology import Pool, Topology
from shunter_proto.v1 import scheduler_pb2 as pb

_REJECTIONS: Mapping[str, tuple[int, str, str]] = {
    "unknown_model": (404, "invalid_request_error", "model_not_found"),
    "overloaded": (429, "rate_limit_error", "overloaded"),
    "queue_timeout": (429, "rate_limit_error", "queue_timeout"),
    "hold_full": (503, "server_error", "hold_full"),
    "hold_timeout": (503, "server_error", "hold_timeout"),
    "no_instance": (503, "server_error", "no_instance"),
    "context_length": (400, "invalid_request_error", "context_length_exceeded"),
    "class_not_allowed": (403, "invalid_request_error", "class_not_allowed"),
    "rate_limited": (429, "rate_limit_error", "rate_limit_exceeded"),
    "deadline": (504, "timeout_error", "deadline_exceeded"),
}
_WITH_RETRY_AFTER = frozenset((429, 503))


def submitted(
    spec: RequestSpec, epoch: int, now: float, arrived_at: float, topology: Topology | None
) -> pb.Submitted:
    """The first submission; later ones set what a continuation adds."""
    wanted = topology.rule_headers if topology is not None else frozenset()
    waited_s = now - arrived_at
    message = pb.Submitted(
        request_id=spec.request_id,
        epoch=epoch,
        model=spec.model,
        tenant=spec.tenant,
        slo_class=spec.slo_class,
        allowed_classes=spec.allowed_classes,
        headers={name: value for name, value in spec.headers.items() if name in wanted},
        prompt_tokens=spec.prompt_tokens,
        prompt_tokens_exact=spec.prompt_token_ids is not None,
        max_output_tokens=spec.max_tokens,
        block_hashes=spec.block_hashes,
        waited_ms=int(waited_s * 1000),
        unmovable_reason=spec.unmovable_reason,
        trace_parent=spec.trace_parent,
    )
    if spec.deadline_s:
        message.deadline_in_ms = max(1, int((spec.deadline_s - waited_s) * 1000))
    if spec.workflow is not None:
        _fill_workflow(message.workflow, spec.workflow, waited_s)
    return message


def _fill_workflow(message: pb.Workflow, stage: WorkflowStage, waited_s: float) -> None:
    message.id, message.stage = stage.workflow, stage.stage
    message.stages_left.extend(stage.stages_left)
    if stage.deadline_s:
        message.deadline_in_ms = max(1, int((stage.deadline_s - waited_s) * 1000))


def first_token(
    request_id: str, epoch: int, ttft_s: float, cached_tokens: int | None, unordered: bool
) -> pb.FirstToken:
    return pb.FirstToken(
        request_id=request_id,
        epoch=epoch,
        ttft_ms=int(ttft_s * 1000),
        cached_tokens=cached_tokens,
        unordered=unordered,
    )


def failed(owner: Owner, request_id: str, reason: str, output_tokens: int) -> pb.Failed:
    return pb.Failed(
        request_id=request_id,
        epoch=owner.epoch,
        instance=owner.instance,
        reason=reason,
        output_tokens=output_tokens,
    )


def finished(request_id: str, epoch: int, output_tokens: int, reason: str) -> pb.Finished:
    return pb.Finished(
        request_id=request_id, epoch=epoch, output_tokens=output_tokens, finish_reason=reason
    )


def excluded_instances(
    failed: Iterable[str], pool: str, topology: Topology | None
) -> tuple[str, ...]:
    """Those that failed this request; nobody where that would leave no instance at all."""
    names = tuple(failed)
    if topology is None:
        return names
    members = topology.instances_by_pool.get(pool, ())
    return names if any(member.name not in names for member in members) else ()


def sampling_state(sampling: SamplingParams, capabilities: Capabilities) -> str:
    """The part of sampling that the engine loses across a replay; empty: none."""
    if capabilities.output_offset:
        return ""
    asked: set[Penalty] = set()
    if sampling.presence_penalty:
        asked.add("presence")
    if sampling.frequency_penalty:
        asked.add("frequency")
    if sampling.repetition_penalty not in (None, 1.0):
        asked.add("repetition")
    return "penalties" if asked - capabilities.prompt_penalties else ""


def rejection(reject: pb.Reject) -> ClientError:
    status, kind, code = _REJECTIONS.get(reject.reason, (503, "server_error", reject.reason))
    retry_after_s = reject.retry_after_ms / 1000
    if status in _WITH_RETRY_AFTER:
        retry_after_s = max(retry_after_s, 1.0)
    message = reject.message or f"the request was turned away: {reject.reason}"
    param = "model" if reject.reason == "unknown_model" else None
    return ClientError(status, message, kind, code, param, retry_after_s)


def engine_client_error(failure: EngineFailure) -> ClientError:
    """An engine's 4xx: the client's own fault, told in the engine's words."""
    status = failure.status if 400 <= failure.status < 500 else 400
    return ClientError(status, failure.message, "invalid_request_error", body=failure.body)


def engine_error(failure: EngineFailure, why: str) -> ClientError:
    """The end of a request whose engine failed and that cannot go on elsewhere."""
    message = f"{why}: {failure.message}"
    if failure.reason == "overloaded" or failure.status == 503:
        wait_s = max(failure.retry_after_s, 1.0)
        return ClientError(429, message, "rate_limit_error", "overloaded", retry_after_s=wait_s)
    status = 504 if failure.reason == "timeout" else 502
    return ClientError(status, message, "server_error", "engine_failed")


def unavailable(message: str, code: str, retry_after_s: float) -> ClientError:
    return ClientError(503, message, "server_error", code, retry_after_s=retry_after_s)


def hold_full(pool: Pool, retry_after_s: float) -> ClientError:
    message = f"{pool.max_held} requests wait already for the first instance of {pool.name!r}"
    return unavailable(message, "hold_full", retry_after_s)


def hold_timeout(pool: Pool, retry_after_s: float) -> ClientError:
    message = f"no instance of {pool.name!r} came within {pool.hold_timeout_s:g} s"
    return unavailable(message, "hold_timeout", retry_after_s)


def unknown_pool(pool: str) -> ClientError:
    return unavailable(f"this gateway cannot serve pool {pool!r}", "no_instance", 1.0)


def deadline_error(deadline_s: float) -> ClientError:
    message = f"not finished within the request's deadline of {deadline_s:g} s"
    return ClientError(504, message, "timeout_error", "deadline_exceeded")


def cancelled(reason: str) -> ClientError:
    message = f"cancelled by the scheduler: {reason or 'no reason given'}"
    return ClientError(503, message, "server_error", "cancelled", retry_after_s=1.0)


def diverged() -> ClientError:
    message = "the answer was interrupted, and the engine that went on did not repeat it"
    return ClientError(502, message, "server_error", "replay_mismatch")
