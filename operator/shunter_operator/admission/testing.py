"""AdmissionReviews as the API server writes them, and an API server in memory for the webhooks."""

import copy
from typing import Any

import msgspec

from shunter_operator.admission.review import Object, Request, parse

PLURALS = {"ModelPool": "modelpools", "RoutingPolicy": "routingpolicies", "Scale": "modelpools"}


def review_body(
    operation: str, new: Object | None, old: Object | None = None, **more: Any
) -> bytes:
    """A review of one object; `more` goes into the request, in its JSON names."""
    shown = new or old
    assert shown is not None
    metadata = shown.get("metadata", {})
    scale = {"subResource": "scale"} if shown["kind"] == "Scale" else {}
    request = {
        "uid": "u-1",
        "kind": {"kind": shown["kind"]},
        "resource": {
            "group": "shunter.dev",
            "version": "v1alpha1",
            "resource": PLURALS[shown["kind"]],
        },
        "operation": operation,
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "object": new,
        "oldObject": old,
        **scale,
        **more,
    }
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return msgspec.json.encode(body)


def request_of(
    operation: str, new: Object | None, old: Object | None = None, **more: Any
) -> Request:
    return parse(review_body(operation, copy.deepcopy(new), copy.deepcopy(old), **more))
