"""AdmissionReview of admission.k8s.io/v1: what the API server asks, and what it is told. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from shunter_api.problems import Problem

API_VERSION = "admission.k8s.io/v1"
# The API server cuts warnings off: at 256 bytes each where they come to more than 4096 in all.
MAX_WARNINGS = 16
MAX_WARNING = 250
MAX_REFUSALS = 20

Object = dict[str, Any]


class ReviewError(ValueError):
    """A body that is no AdmissionReview."""


class ReviewedResource(msgspec.Struct, frozen=True):
    group: str = ""
    resource: str = ""


class ReviewedKind(msgspec.Struct, frozen=True):
    kind: str = ""


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """`object` is absent for a deletion, `old_object` for a creation."""

    uid: str
    operation: str
    resource: ReviewedResource
    kind: ReviewedKind = ReviewedKind()
    sub_resource: str = ""
    namespace: str = ""
    name: str = ""
    object: Object | None = None
    old_object: Object | None = None
    dry_run: bool = False


def part(value: Object | None, name: str) -> Object:
    """A part of an object that is a mapping; empty where it is absent, or not one."""
    found = (value or {}).get(name)
    return found if isinstance(found, dict) else {}


class _Review(msgspec.Struct):
    request: Request


@dataclass(frozen=True, slots=True)
class Findings:
    """What a review brought to light.

    `own` is wrong whatever else there is; `clashes` are new disagreements with other resources;
    `standing` are disagreements that were there before and that this request does not add to.
    """

    own: tuple[Problem, ...] = ()
    clashes: tuple[Problem, ...] = ()
    standing: tuple[Problem, ...] = ()


def parse(body: bytes) -> Request:
    """Raises `ReviewError`."""
    try:
        return msgspec.json.decode(body, type=_Review).request
    except (msgspec.DecodeError, RecursionError) as error:
        raise ReviewError(f"not an AdmissionReview of {API_VERSION}: {error}") from error


def verdict(request: Request, findings: Findings, *, lenient: bool, advice: str = "") -> Object:
    """The answer of a validation. `lenient`: clashes are told as warnings, not refused; `advice`
    is added to clashes that are refused."""
    clashes = [] if lenient else [_advised(problem, advice) for problem in findings.clashes]
    refused = [*findings.own, *clashes]
    told = [*findings.standing, *(findings.clashes if lenient else ())]
    response: Object = {"uid": request.uid, "allowed": not refused}
    if refused:
        response["status"] = _status(request, refused)
    if told:
        response["warnings"] = _warnings(told)
    return _answer(response)


def patched(request: Request, operations: Sequence[Object]) -> Object:
    """The answer of a defaulting: RFC 6902 operations, none where nothing is to be added."""
    response: Object = {"uid": request.uid, "allowed": True}
    if operations:
        # msgspec writes bytes in base64, as the API server wants its patch.
        response |= {"patchType": "JSONPatch", "patch": msgspec.json.encode(operations)}
    return _answer(response)


def _answer(response: Object) -> Object:
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def _advised(problem: Problem, advice: str) -> Problem:
    return replace(problem, message=f"{problem.message}; {advice}") if advice else problem


def _status(request: Request, refused: Sequence[Problem]) -> Object:
    """As the API server refuses by a schema: kubectl shows kind, name and each cause."""
    shown = refused[:MAX_REFUSALS]
    more = len(refused) - len(shown)
    lines = [_line(problem) for problem in shown] + ([f"and {more} more"] if more else [])
    causes = [
        {"reason": "FieldValueInvalid", "field": problem.field, "message": problem.message}
        for problem in shown
    ]
    group, kind = request.resource.group, request.kind.kind
    return {
        "code": 422,
        "reason": "Invalid",
        "message": "\n".join(lines),
        "details": {"group": group, "kind": kind, "name": request.name, "causes": causes},
    }


def _line(problem: Problem) -> str:
    return f"{problem.field}: {problem.message}" if problem.field else problem.message


def _warnings(problems: Sequence[Problem]) -> list[str]:
    lines = [_line(problem) for problem in problems[:MAX_WARNINGS]]
    return [line if len(line) <= MAX_WARNING else f"{line[: MAX_WARNING - 3]}..." for line in lines]
