"""Who asks, and what of their headers counts: one rule for HTTP headers and gRPC metadata."""

import re
from collections.abc import Iterable, Mapping

from shunter_gateway.edge.errors import invalid, unauthorized
from shunter_gateway.edge.job import Caller
from shunter_gateway.keys import ApiKey, Keys

# Names that a routing rule never sees, whatever it asks for.
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
_SANE_ID = re.compile(r"[\w.:@/+=-]{1,128}", re.ASCII)
_MAX_DEADLINE_MS = 7 * 24 * 3600 * 1000
_MAX_HEADER_CHARS = 256


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
    if trusted:
        # The second name of each pair is the Gateway API Inference Extension's.
        tenant = _value(headers, "x-shunter-tenant", "x-gateway-inference-fairness-id")
        slo_class = _value(headers, "x-shunter-class", "x-gateway-inference-objective")
        deadline_s = _deadline_s(headers.get("x-shunter-deadline-ms"))
    return Caller(
        request_id=request_id,
        tenant=tenant or key.tenant,
        slo_class=slo_class,
        allowed_classes=key.classes,
        headers=_rule_values(headers, rule_headers, trusted),
        deadline_s=deadline_s,
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


def _deadline_s(value: str | None) -> float:
    if not value:
        return 0.0
    if not value.isascii() or not value.isdigit() or not 0 < int(value[:12]) <= _MAX_DEADLINE_MS:
        raise invalid(
            f"`x-shunter-deadline-ms` is a number of milliseconds from 1 to {_MAX_DEADLINE_MS}.",
            "x-shunter-deadline-ms",
        )
    return int(value) / 1000


def _rule_values(headers: Mapping[str, str], names: Iterable[str], trusted: bool) -> dict[str, str]:
    found = {}
    for name in names:
        if name in SECRET_HEADERS or (name.startswith("x-shunter-") and not trusted):
            continue
        value = headers.get(name)
        if value is not None and len(value) <= _MAX_HEADER_CHARS:
            found[name] = value
    return found
