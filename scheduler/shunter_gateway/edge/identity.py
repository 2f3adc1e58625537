"""Who asks, and what of their headers counts: one rule for HTTP headers and gRPC metadata."""

import re
from collections.abc import Iterable, Mapping

from shunter_gateway.edge.errors import invalid, unauthorized
from shunter_gateway.edge.job import Caller
from shunter_gateway.keys import ApiKey, Keys
from shunter_gateway.request import WorkflowStage

# Names that a routing rule never sees, whatever it asks for.
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
_SANE_ID = re.compile(r"[\w.:@/+=-]{1,128}", re.ASCII)
_MAX_DEADLINE_MS = 7 * 24 * 3600 * 1000
_MAX_HEADER_CHARS = 256
_WORKFLOW, _WORKFLOW_DEADLINE = "x-shunter-workflow", "x-shunter-workflow-deadline-ms"
_STAGE, _STAGES_LEFT = "x-shunter-stage", "x-shunter-stages-left"
_STAGE_NAME = re.compile(r"[\w.:@/+=-]{1,64}", re.ASCII)
_STAGE_FORM = "is a name of at most 64 letters, digits and .:@/+=-_"
MAX_STAGES = 64  # that may be left of a workflow


def identify(keys: Keys, headers: Mapping[str, str]) -> ApiKey:
    """Raises `RequestError` (401)."""
    authorization = headers.get("authorization")
    key = keys.identify(authorization)
    if key is None:
        problem = "No API key was given" if not authorization else "The API key is not valid"
        raise unauthorized(f"{problem}: send it as `Authorization: Bearer KEY`.")
    return key


def caller_of(
    request_id: str, key: ApiKey, headers: Mapping[str, str], rule_headers: Iterable[str]
) -> Caller:
    """`headers` is looked up by lower-case names. Raises `RequestError` (400)."""
    trusted = key.may_set_headers
    tenant = slo_class = ""
    deadline_s = 0.0
    workflow = None
    if trusted:
        # The second name of each pair is the Gateway API Inference Extension's.
        tenant = _value(headers, "x-shunter-tenant", "x-gateway-inference-fairness-id")
        slo_class = _value(headers, "x-shunter-class", "x-gateway-inference-objective")
        deadline_s = _deadline_s(headers, "x-shunter-deadline-ms")
        workflow = _workflow(headers)
    return Caller(
        request_id=request_id,
        tenant=tenant or key.tenant,
        slo_class=slo_class,
        allowed_classes=key.classes,
        headers=_rule_values(headers, rule_headers, trusted),
        deadline_s=deadline_s,
        workflow=workflow,
    )


def client_request_id(headers: Mapping[str, str]) -> str:
    """The client's own id where it is short and printable, else empty."""
    value = headers.get("x-request-id") or ""
    return value if _SANE_ID.fullmatch(value) else ""


def _value(headers: Mapping[str, str], *names: str) -> str:
    for name in names:
        value = headers.get(name)
        if value:
            if len(value) > _MAX_HEADER_CHARS:
                raise invalid(f"The header `{name}` is too long.", name)
            return value
    return ""


def _deadline_s(headers: Mapping[str, str], name: str) -> float:
    value = headers.get(name)
    if not value:
        return 0.0
    if not value.isascii() or not value.isdigit() or not 0 < int(value[:12]) <= _MAX_DEADLINE_MS:
        raise invalid(
            f"`{name}` is a number of milliseconds from 1 to {_MAX_DEADLINE_MS}.",
            name,
        )
    return int(value) / 1000


def _workflow(headers: Mapping[str, str]) -> WorkflowStage | None:
    workflow, stage = headers.get(_WORKFLOW) or "", headers.get(_STAGE) or ""
    deadline_s = _deadline_s(headers, _WORKFLOW_DEADLINE)
    if not (workflow or stage or deadline_s):
        return None
    if workflow and not _SANE_ID.fullmatch(workflow):
        form = "is an id of at most 128 letters, digits and .:@/+=-_"
        raise invalid(f"`{_WORKFLOW}` {form}.", _WORKFLOW)
    if stage and not _STAGE_NAME.fullmatch(stage):
        raise invalid(f"`{_STAGE}` {_STAGE_FORM}.", _STAGE)
    listed = headers.get(_STAGES_LEFT) or ""
    left = tuple(name.strip(" \t") for name in listed.split(",", MAX_STAGES)) if listed else ()
    if len(left) > MAX_STAGES or not all(map(_STAGE_NAME.fullmatch, left)):
        problem = f"lists at most {MAX_STAGES} stages, with commas between; each {_STAGE_FORM}"
        raise invalid(f"`{_STAGES_LEFT}` {problem}.", _STAGES_LEFT)
    return WorkflowStage(workflow, stage, left, deadline_s)


def _rule_values(headers: Mapping[str, str], names: Iterable[str], trusted: bool) -> dict[str, str]:
    found = {}
    for name in names:
        if name in SECRET_HEADERS or (name.startswith("x-shunter-") and not trusted):
            continue
        value = headers.get(name)
        if value is not None and len(value) <= _MAX_HEADER_CHARS:
            found[name] = value
    return found
