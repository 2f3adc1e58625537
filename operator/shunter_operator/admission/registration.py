"""What the API server is to call, and when: the entries of the two webhook configurations. Pure.

The chart makes both configurations empty, and the operator fills them in once it has a certificate:
nothing is ever refused because nobody can answer yet, and what an entry may say follows from the
API server's version.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shunter_operator.admission.review import Object
from shunter_operator.names import GROUP, VERSION

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1"
VALIDATING = "validatingwebhookconfigurations"
MUTATING = "mutatingwebhookconfigurations"
KINDS = (VALIDATING, MUTATING)
# KEP-3716: on by default since 1.28. An older server drops the field, and would then ask about
# every change of labels and finalizers.
MATCH_CONDITIONS_SINCE = (1, 28)
TIMEOUT_S = 5
SERVICE_PORT = 443
SPEC_CHANGES = {"name": "spec-changes", "expression": "object.spec != oldObject.spec"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where an API server finds the webhooks: a Service, or a URL for a process outside."""

    namespace: str = ""
    service: str = ""
    url: str = ""

    def config(self, path: str, bundle: bytes) -> Object:
        trusted = {"caBundle": base64.b64encode(bundle).decode()}
        if self.url:
            return {"url": f"{self.url}/{path}", **trusted}
        service = {"namespace": self.namespace, "name": self.service, "port": SERVICE_PORT}
        return {"service": {**service, "path": f"/{path}"}, **trusted}


@dataclass(frozen=True, slots=True)
class Registration:
    """`namespaces` empty: those of the whole cluster."""

    address: Address
    server_version: tuple[int, int]
    namespaces: Sequence[str] = ()
    owner: Mapping[str, str] = field(default_factory=dict)  # an owner reference

    def entries(self, plural: str, bundle: bytes) -> list[Object]:
        """The `webhooks` of a configuration: all that a server would add is said."""
        if plural == MUTATING:
            entry = self._entry("create.default", bundle, ["CREATE"], ["modelpools"])
            return [{**entry, "reinvocationPolicy": "Never"}]
        both = ["modelpools", "routingpolicies"]
        return [
            self._entry("create.validate", bundle, ["CREATE"], both),
            {**self._entry("update.validate", bundle, ["UPDATE"], both), **self._on_update()},
            self._entry("scale.validate", bundle, ["UPDATE"], ["modelpools/scale"]),
        ]

    def _on_update(self) -> Object:
        """Fails closed on a change of the spec alone. Where that cannot be said, an operator that
        is away must not hold up finalizers: an edit then passes, and reconciling looks at it."""
        if self.server_version >= MATCH_CONDITIONS_SINCE:
            return {"matchConditions": [SPEC_CHANGES]}
        return {"failurePolicy": "Ignore"}

    def _entry(
        self, name: str, bundle: bytes, operations: list[str], resources: list[str]
    ) -> Object:
        rule = {
            "apiGroups": [GROUP],
            "apiVersions": [VERSION],
            "operations": operations,
            "resources": resources,
            "scope": "Namespaced",
        }
        return {
            "name": f"{name}.{GROUP}",
            "clientConfig": self.address.config(name.partition(".")[2], bundle),
            "rules": [rule],
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "namespaceSelector": self._selector(),
            "objectSelector": {},
            "sideEffects": "None",
            "timeoutSeconds": TIMEOUT_S,
            "admissionReviewVersions": ["v1"],
        }

    def _selector(self) -> Object:
        """Every namespace has this label since Kubernetes 1.21; before, one is of the cell where it
        was given the label."""
        operator, names = (
            ("In", list(self.namespaces)) if self.namespaces else ("NotIn", ["kube-system"])
        )
        key = "kubernetes.io/metadata.name"
        return {"matchExpressions": [{"key": key, "operator": operator, "values": names}]}


def change(
    live: Object, plural: str, registration: Registration, bundle: bytes, leads: bool
) -> Object | None:
    """A merge patch of a configuration; None where it is as it should be.

    Only the leader brings entries into the form of its own version: while an operator is being
    replaced, two versions would else write against each other. Everybody fills in what is empty and
    adds an authority that is missing, since the API server refuses everything without.
    """
    wanted = registration.entries(plural, bundle)
    found = live.get("webhooks") or []
    if not found or (leads and not _covers(found, wanted)):
        changed = wanted
    elif trusts(live, bundle):
        changed = None
    else:
        trusted = {"caBundle": base64.b64encode(bundle).decode()}
        changed = [{**one, "clientConfig": {**one["clientConfig"], **trusted}} for one in found]
    metadata: Object = {}
    owner, owners = dict(registration.owner), live["metadata"].get("ownerReferences") or []
    if owner and leads and owner not in owners:
        metadata["ownerReferences"] = [*owners, owner]
    if changed is None and not metadata:
        return None
    metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    return {"metadata": metadata, **({} if changed is None else {"webhooks": changed})}


def trusts(live: Object, authorities: bytes) -> bool:
    """Whether every entry has these authorities (PEM, one or several) in its bundle, and there are
    entries."""
    found = live.get("webhooks") or []
    return bool(found) and all(
        set(_split(authorities)) <= set(_split(_bundle_of(entry))) for entry in found
    )


def _bundle_of(entry: Object) -> bytes:
    return base64.b64decode(entry["clientConfig"].get("caBundle") or "")


def _split(pem: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----"
    return [part.strip() for part in pem.split(end) if part.strip()]


def _covers(found: list[Object], wanted: list[Object]) -> bool:
    """Whether the same entries are there, whatever else a newer server has added to each."""
    by_name = {entry["name"]: entry for entry in found}
    return len(found) == len(wanted) and all(
        _says(by_name.get(entry["name"], {}), entry) for entry in wanted
    )


def _says(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and _says(found[key], value) for key, value in wanted.items())
    return bool(found == wanted)
