"""What each process must be allowed to do: of the file that the chart makes its roles of. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from shunter.doctor.facts import Object, Part, Place, Right

Rules = Mapping[str, list[Object]]


def needs(rules: Rules, part: Part, place: Place) -> tuple[Right, ...]:
    """The part's own rules where the release works, and those of its Lease in the release's
    namespace; of an operator also what concerns nodes and, where it has them, webhooks."""
    scope = "cluster" if place.wide else "namespace"
    where = "" if place.wide else place.namespace
    found = [
        *_rights(part, [r for r in rules[part] if r.get("scope", scope) == scope], where),
        *_rights(part, rules[f"{part}-lease"], place.namespace),
    ]
    if part == "operator":
        found += [replace(right, optional=True) for right in _rights(part, rules[NODES], "")]
    if part == "operator" and place.webhooks:
        found += _rights(part, rules[WEBHOOK], place.namespace)
        found += _rights(part, rules[CONFIGURATIONS], "")
    own = place.namespace
    return tuple(replace(r, name=r.name.replace("$(NAMESPACE)", own)) for r in found)


NODES = "operator-nodes"
WEBHOOK = "operator-webhook"
CONFIGURATIONS = "operator-webhook-configurations"


def _rights(part: Part, rules: list[Object], namespace: str) -> Iterator[Right]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames") or ("",):
                        yield Right(part, group, resource, verb, namespace, name)


def review(right: Right, user: str) -> Object:
    """The body that asks an API server for one right; of the asker itself where `user` is empty."""
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "verb": right.verb,
        "namespace": right.namespace,
        "name": right.name,
    }
    spec: dict[str, object] = {"resourceAttributes": {k: v for k, v in attributes.items() if v}}
    if not user:
        return {**_REVIEW, "kind": "SelfSubjectAccessReview", "spec": spec}
    groups = ["system:serviceaccounts", "system:authenticated"]
    namespace = user.split(":")[2]
    spec |= {"user": user, "groups": [*groups, f"system:serviceaccounts:{namespace}"]}
    return {**_REVIEW, "kind": "SubjectAccessReview", "spec": spec}


_REVIEW = {"apiVersion": "authorization.k8s.io/v1"}
