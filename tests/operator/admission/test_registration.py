"""What is asked of the webhooks, when an operator that is away refuses, and who writes it."""

from typing import Any

import pytest

from shunter_operator.admission.registration import (
    MUTATING,
    VALIDATING,
    Address,
    Registration,
    change,
    trusts,
)
from shunter_operator.admission.review import Object

OLD, NEW = (
    f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n".encode()
    for name in ("old", "new")
)
SERVICE = Address("serving", "shunter-webhook")
OWNER = {"apiVersion": "v1", "kind": "Namespace", "name": "serving", "uid": "u"}
MODERN = Registration(SERVICE, (1, 30))
PLURALS = pytest.mark.parametrize("plural", [VALIDATING, MUTATING])


def by_name(registration: Registration, plural: str = VALIDATING) -> dict[str, Object]:
    return {e["name"].partition(".")[0]: e for e in registration.entries(plural, NEW)}


def live(webhooks: list[Object] | None, **metadata: Any) -> Object:
    found: Object = {"metadata": {"name": "c", "resourceVersion": "7", **metadata}}
    return found if webhooks is None else {**found, "webhooks": webhooks}


def served(entries: list[Object]) -> list[Object]:
    """As a newer server gives them back: with more in them."""
    return [
        {**e, "rules": e["rules"], "newField": 1, "clientConfig": {**e["clientConfig"], "x": 1}}
        for e in entries
    ]


def test_creation_and_scaling_fail_closed() -> None:
    for registration in (MODERN, Registration(SERVICE, (1, 20))):
        entries = by_name(registration)
        assert entries["create"]["failurePolicy"] == entries["scale"]["failurePolicy"] == "Fail"
        assert entries["scale"]["rules"][0]["resources"] == ["modelpools/scale"]
        (default,) = registration.entries(MUTATING, NEW)
        assert default["failurePolicy"] == "Fail"
        assert default["rules"][0]["operations"] == ["CREATE"]


@pytest.mark.parametrize(("version", "closed"), [((1, 20), False), ((1, 27), False),
                                                  ((1, 28), True), ((2, 0), True)])  # fmt: skip
def test_an_edit_fails_closed_where_only_spec_changes_are_asked_about(
    version: tuple[int, int], closed: bool
) -> None:
    entry = by_name(Registration(SERVICE, version))["update"]
    conditions = [c["expression"] for c in entry.get("matchConditions", ())]
    assert (entry["failurePolicy"] == "Fail") == closed
    assert conditions == (["object.spec != oldObject.spec"] if closed else [])


@PLURALS
def test_deletions_and_status_are_never_asked_about(plural: str) -> None:
    for entry in MODERN.entries(plural, NEW):
        (rule,) = entry["rules"]
        assert rule["apiGroups"] == ["shunter.dev"]
        assert not {"DELETE", "*", "CONNECT"} & set(rule["operations"])
        assert all(
            "*" not in name and not name.endswith(("/status", "/finalizers"))
            for name in rule["resources"]
        )
        assert entry["sideEffects"] == "None"


def test_which_namespaces_are_asked_about() -> None:
    (everywhere,) = by_name(MODERN)["create"]["namespaceSelector"]["matchExpressions"]
    assert (everywhere["operator"], everywhere["values"]) == ("NotIn", ["kube-system"])
    some = Registration(SERVICE, (1, 30), namespaces=("a", "b"))
    (given,) = by_name(some)["create"]["namespaceSelector"]["matchExpressions"]
    assert (given["operator"], given["values"]) == ("In", ["a", "b"])


def test_the_service_or_the_process_is_called() -> None:
    service = by_name(MODERN)["create"]["clientConfig"]["service"]
    assert service == {
        "namespace": "serving", "name": "shunter-webhook", "port": 443, "path": "/validate"
    }  # fmt: skip
    outside = Registration(Address(url="https://127.0.0.1:1"), (1, 30))
    (entry,) = outside.entries(MUTATING, NEW)
    assert entry["clientConfig"]["url"] == "https://127.0.0.1:1/default"
    assert "service" not in entry["clientConfig"]


@PLURALS
@pytest.mark.parametrize("leads", [True, False])
def test_everybody_fills_an_empty_configuration_and_then_leaves_it(
    plural: str, leads: bool
) -> None:
    patch = change(live(None), plural, MODERN, NEW, leads)
    assert patch is not None
    assert patch["webhooks"] == MODERN.entries(plural, NEW)
    assert patch["metadata"]["resourceVersion"] == "7"
    again = live(served(patch["webhooks"]))
    assert change(again, plural, MODERN, NEW, leads) is None


@PLURALS
@pytest.mark.parametrize("leads", [True, False])
def test_a_new_authority_is_added_by_everybody(plural: str, leads: bool) -> None:
    before = live(MODERN.entries(plural, OLD))
    assert trusts(before, OLD) and not trusts(before, NEW)
    patch = change(before, plural, MODERN, OLD + NEW, leads)
    assert patch is not None
    after = live(patch["webhooks"])
    assert trusts(after, NEW) and trusts(after, OLD) and trusts(after, NEW + OLD)


def test_only_the_leader_changes_what_another_version_has_written() -> None:
    other = Registration(SERVICE, (1, 20)).entries(VALIDATING, NEW)
    assert change(live(other), VALIDATING, MODERN, NEW, leads=False) is None
    patch = change(live(other), VALIDATING, MODERN, NEW, leads=True)
    assert patch is not None and patch["webhooks"] == MODERN.entries(VALIDATING, NEW)
    extra = [*MODERN.entries(VALIDATING, NEW), {**other[0], "name": "old.shunter.dev"}]
    assert change(live(extra), VALIDATING, MODERN, NEW, leads=True) is not None


def test_the_configurations_go_with_the_namespace() -> None:
    """Else a deleted namespace would leave webhooks that refuse everything and that nobody is."""
    owned = Registration(SERVICE, (1, 30), owner=OWNER)
    entries = owned.entries(VALIDATING, NEW)
    assert change(live(entries), VALIDATING, owned, NEW, leads=False) is None
    patch = change(live(entries), VALIDATING, owned, NEW, leads=True)
    assert patch == {"metadata": {"ownerReferences": [OWNER], "resourceVersion": "7"}}
    settled = live(entries, ownerReferences=[OWNER])
    assert change(settled, VALIDATING, owned, NEW, leads=True) is None


def test_nothing_is_trusted_without_entries() -> None:
    assert not trusts(live(None), NEW) and not trusts(live([]), NEW)
    broken = [{"name": "x", "clientConfig": {}}]
    assert not trusts(live(broken), NEW)
