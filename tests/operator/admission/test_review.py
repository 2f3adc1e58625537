"""The wire form: AdmissionReview in, AdmissionReview out."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.problems import Problem
from shunter_api.validate import Known
from shunter_operator.admission.checks import Cell, advice, examine, lenient
from shunter_operator.admission.defaults import defaults
from shunter_operator.admission.review import (
    Findings,
    Object,
    Request,
    ReviewError,
    parse,
    patched,
    verdict,
)
from shunter_operator.admission.testing import request_of, review_body
from shunter_operator.testing import pool_body

REQUEST = request_of("CREATE", pool_body())
OWN = Problem("", 0, "spec.engine.type", "must be one of a or b")
CLASH = Problem("", 0, "spec.model.name", "is taken")


def said(answer: Object) -> Any:
    """As the API server reads it."""
    body = json.loads(msgspec.json.encode(answer))
    assert (body["apiVersion"], body["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert body["response"]["uid"] == "u-1"
    return body["response"]


def test_nothing_found_is_allowed() -> None:
    assert said(verdict(REQUEST, Findings(), lenient=False)) == {"uid": "u-1", "allowed": True}


def test_a_refusal_names_each_field_for_people_and_programs() -> None:
    answer = said(verdict(REQUEST, Findings((OWN,), (CLASH,)), lenient=False, advice="or so"))
    assert answer["allowed"] is False
    status = answer["status"]
    assert (status["code"], status["reason"]) == (422, "Invalid")
    assert status["message"].splitlines() == [
        "spec.engine.type: must be one of a or b",
        "spec.model.name: is taken; or so",
    ]
    assert (status["details"]["kind"], status["details"]["name"]) == ("ModelPool", "chat")
    causes = status["details"]["causes"]
    assert [cause["field"] for cause in causes] == ["spec.engine.type", "spec.model.name"]


def test_lenient_means_warned_but_never_of_own_mistakes() -> None:
    warned = said(verdict(REQUEST, Findings(clashes=(CLASH,)), lenient=True, advice="or so"))
    assert warned["allowed"] and warned["warnings"] == ["spec.model.name: is taken"]
    both = said(verdict(REQUEST, Findings((OWN,), (CLASH,)), lenient=True, advice="or so"))
    assert not both["allowed"]
    assert both["status"]["message"] == "spec.engine.type: must be one of a or b"


def test_what_stood_before_is_a_warning() -> None:
    answer = said(verdict(REQUEST, Findings(standing=(CLASH,)), lenient=False))
    assert answer["allowed"] and answer["warnings"] == ["spec.model.name: is taken"]


def test_answers_are_bounded() -> None:
    many = tuple(Problem("", 0, f"spec.f{n}", "x" * 1000) for n in range(100))
    refused = said(verdict(REQUEST, Findings(many), lenient=False))["status"]
    assert refused["message"].endswith("and 80 more")
    warnings = said(verdict(REQUEST, Findings(clashes=many), lenient=True))["warnings"]
    assert len(warnings) == 16 and all(len(w) <= 256 for w in warnings)
    assert sum(map(len, warnings)) <= 4096


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"request": {"uid": 1}}', b"[" * 9000])
def test_what_is_no_review_is_refused(body: bytes) -> None:
    with pytest.raises(ReviewError, match="AdmissionReview"):
        parse(body)


def test_fields_that_are_not_known_are_passed_over() -> None:
    body = json.loads(review_body("CREATE", pool_body()))
    body["request"] |= {"userInfo": {"username": "me"}, "options": None, "new": [1]}
    assert parse(json.dumps(body).encode()) == REQUEST


def applied(request: Request) -> Object:
    """The object after the patch."""
    response = said(patched(request, defaults(request)))
    assert response["allowed"] is True
    made: Object = json.loads(json.dumps(request.object))
    if "patch" in response:
        assert response["patchType"] == "JSONPatch"
    for operation in json.loads(base64.b64decode(response.get("patch", "W10="))):
        assert operation["op"] == "add"
        *folders, last = operation["path"].strip("/").split("/")
        at = made
        for folder in folders:
            at = at[folder]
        assert at.get(last) is None, "a field that was given is changed"
        at[last] = operation["value"]
    return made


def test_a_pool_gets_its_model_name() -> None:
    assert applied(REQUEST)["spec"]["model"]["name"] == "chat"
    given = pool_body(model={"source": "sim://m", "name": "m"})
    assert applied(request_of("CREATE", given)) == given


def test_defaults_are_for_new_pools() -> None:
    assert defaults(request_of("UPDATE", pool_body(), pool_body())) == []
    scale = {"kind": "Scale", "metadata": {}, "spec": {}}
    assert defaults(request_of("CREATE", scale)) == []
    policy = {"kind": "RoutingPolicy", "metadata": {"name": "p"}, "spec": {"model": {}}}
    assert defaults(request_of("CREATE", policy)) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
MODELS = st.fixed_dictionaries({}, optional={"name": VALUES, "source": VALUES, "aliases": VALUES})
POOLS = st.fixed_dictionaries(
    {"kind": st.just("ModelPool")},
    optional={
        "metadata": st.fixed_dictionaries({}, optional={"name": VALUES, "generateName": VALUES}),
        "spec": st.fixed_dictionaries({"model": MODELS | VALUES}) | VALUES,
    },
)


@given(POOLS)
def test_defaulting_twice_is_defaulting_once(pool: Object) -> None:
    """And nothing that is given changes, whatever it is: the schema has not been asked yet."""
    once = applied(parse(_created(pool)))
    assert applied(parse(_created(once))) == once
    assert _given_is_kept(pool, once)


@given(
    st.sampled_from(["CREATE", "UPDATE", "DELETE", "?"]),
    st.sampled_from(["modelpools", "routingpolicies", "other"]),
    st.sampled_from(["", "scale", "status"]),
    st.dictionaries(st.sampled_from(["kind", "metadata", "spec", "status"]), VALUES),
    st.none() | st.dictionaries(st.sampled_from(["metadata", "spec"]), VALUES),
)
def test_whatever_is_asked_there_is_an_answer(
    operation: str, plural: str, sub_resource: str, new: Object, old: Object | None
) -> None:
    """Anybody who reaches the port may ask."""
    body = {
        "uid": "u-1",
        "operation": operation,
        "resource": {"group": "shunter.dev", "resource": plural},
        "subResource": sub_resource,
        "namespace": "serving",
        "name": "chat",
        "object": {"apiVersion": "shunter.dev/v1alpha1", "kind": "ModelPool", **new},
        "oldObject": old,
    }
    request = parse(json.dumps({"request": body}).encode())
    found = parse_object(pool_body())
    assert isinstance(found, ModelPool)
    findings = examine(request, Cell((found,)), Known())
    answer = verdict(request, findings, lenient=lenient(request, True), advice=advice(request))
    assert said(answer)["allowed"] in (True, False)
    assert said(patched(request, defaults(request)))["allowed"] is True


def _created(pool: Object) -> bytes:
    body: Object = json.loads(review_body("CREATE", {"kind": "ModelPool"}))
    body["request"]["object"] = pool
    return json.dumps(body).encode()


def _given_is_kept(before: Any, after: Any) -> bool:
    if isinstance(before, dict):
        return all(before[key] is None or _given_is_kept(before[key], after[key]) for key in before)
    return bool(before == after)
