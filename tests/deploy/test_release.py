"""What the chart's hooks do, on an API in memory."""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import pytest

from shunter.release import (
    DEFINITIONS,
    STOP_S,
    Pause,
    Release,
    apply_definitions,
    apply_demo,
    prepare_removal,
)
from shunter_operator.names import FINALIZER
from shunter_runtime.kube_api import (
    APPLY,
    MERGE,
    Conflict,
    Listing,
    NotFound,
    Object,
    Unreachable,
)

RELEASE = Release("r", "serving", wide=False)
POOLS = "/apis/shunter.dev/v1alpha1/namespaces/serving/modelpools"
OPERATOR = "/apis/apps/v1/namespaces/serving/deployments/shunter-operator"
WAIT_S = 30.0


@dataclass
class ApiInMemory:
    """Objects by path. With `operator_lets_go` an operator that runs removes its finalizer from
    pools that are deleted; `rivals` writers come first to a patch of a pool."""

    objects: dict[str, Object] = field(default_factory=dict)
    operator_lets_go: bool = True
    rivals: int = 0
    version: Object = field(default_factory=lambda: {"major": "1", "minor": "34"})
    now: float = 0.0

    async def get(self, path: str) -> Object:
        if path == "/version":
            return self.version
        if path == "/apis/policy":
            return {"preferredVersion": {"groupVersion": "policy/v1"}}
        if path not in self.objects:
            raise NotFound(404, path)
        return deepcopy(self.objects[path])

    async def list(self, path: str, query: Mapping[str, str] | None = None) -> Listing:
        pattern = path.replace("/modelpools", "(/namespaces/[^/]+)?/modelpools/[^/]+")
        found = [o for p, o in self.objects.items() if re.fullmatch(pattern, p)]
        if query:
            label, _, value = query["labelSelector"].partition("=")
            found = [o for o in found if o["metadata"].get("labels", {}).get(label) == value]
        return Listing(tuple(deepcopy(found)), "1")

    async def create(self, path: str, body: Object) -> Object:
        self.objects[f"{path}/{body['metadata']['name']}"] = body
        return body

    async def replace(self, path: str, body: Object) -> Object:
        self.objects[path] = body
        return body

    async def patch(
        self, path: str, body: Object, content_type: str, query: Mapping[str, str] | None = None
    ) -> Object:
        assert content_type == MERGE
        if path.endswith("/scale"):
            await self.get(path.removesuffix("/scale"))
            self.objects[path.removesuffix("/scale")]["spec"] = body["spec"]
            return body
        metadata = self.objects[path]["metadata"]
        if self.rivals:
            self.rivals -= 1
            metadata["resourceVersion"] += "x"
            metadata["finalizers"].append(f"rival/{self.rivals}")
        if body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise Conflict(409, path)
        metadata["finalizers"] = body["metadata"]["finalizers"]
        self._collect(path)
        return body

    async def delete(self, path: str) -> Object:
        metadata = (await self.get(path))["metadata"]
        self.objects[path]["metadata"] = {**metadata, "deletionTimestamp": "now"}
        self._collect(path)
        return {}

    async def sleep(self, seconds: float) -> None:
        """The operator works meanwhile, and stops when it is told to."""
        self.now += seconds
        operator = self.objects.get(OPERATOR)
        if operator is None:
            return
        if operator["spec"]["replicas"] == 0:
            operator["status"] = {}
            return
        for path, value in list(self.objects.items()):
            metadata = value["metadata"]
            if self.operator_lets_go and "deletionTimestamp" in metadata:
                metadata["finalizers"].remove(FINALIZER)
                self._collect(path)

    def _collect(self, path: str) -> None:
        metadata = self.objects[path]["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            del self.objects[path]

    @property
    def pause(self) -> Pause:
        return Pause(lambda: self.now, self.sleep)


def pool(name: str, namespace: str = "serving", release: str = "") -> dict[str, Object]:
    path = f"/apis/shunter.dev/v1alpha1/namespaces/{namespace}/modelpools/{name}"
    labels = {"app.kubernetes.io/instance": release} if release else {}
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": labels,
        "resourceVersion": "1",
        "finalizers": [FINALIZER],
    }
    return {path: {"metadata": metadata}}


def operator() -> dict[str, Object]:
    metadata = {"name": "shunter-operator", "namespace": "serving"}
    return {OPERATOR: {"metadata": metadata, "spec": {"replicas": 2}, "status": {"replicas": 2}}}


async def test_the_webhooks_go_before_anything_else() -> None:
    """With them a pool that is deleted could be held up by an operator that has stopped."""
    paths = [
        f"/apis/admissionregistration.k8s.io/v1/{plural}/hooks"
        for plural in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")
    ]
    order: list[str] = []

    class Recording(ApiInMemory):
        async def delete(self, path: str) -> Object:
            order.append(path)
            return await super().delete(path)

    hooks: Object = {"metadata": {"name": "hooks"}}
    api = Recording({**dict.fromkeys(paths, hooks), **operator(), **pool("demo", release="r")})
    release = Release("r", "serving", wide=True, webhooks="hooks")
    await prepare_removal(api, release, WAIT_S, api.pause)
    assert order == [*paths, f"{POOLS}/demo"]
    assert not set(paths) & set(api.objects)
    await prepare_removal(api, release, WAIT_S, api.pause)


async def test_own_pools_are_drained_and_others_stay_without_finalizer() -> None:
    api = ApiInMemory({**operator(), **pool("demo", release="r"), **pool("mine")})
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert sorted(api.objects) == [OPERATOR, f"{POOLS}/mine"]
    assert "deletionTimestamp" not in api.objects[f"{POOLS}/mine"]["metadata"]
    assert api.objects[f"{POOLS}/mine"]["metadata"]["finalizers"] == []
    assert api.objects[OPERATOR]["status"] == {}
    assert api.now < WAIT_S


async def test_without_an_operator_no_disruption_budget_holds_evictions() -> None:
    folder = "/apis/policy/v1/namespaces/serving/poddisruptionbudgets"
    budgets: dict[str, Object] = {f"{folder}/{n}": {"metadata": {"name": n}} for n in "ab"}
    api = ApiInMemory({**operator(), **pool("a"), **budgets})
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert f"{folder}/a" not in api.objects and f"{folder}/b" in api.objects


@pytest.mark.parametrize("there", [True, False], ids=["that hangs", "that is gone"])
async def test_without_an_operator_that_works_the_pool_still_goes(there: bool) -> None:
    objects = {**(operator() if there else {}), **pool("demo", release="r")}
    api = ApiInMemory(objects, operator_lets_go=False)
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert f"{POOLS}/demo" not in api.objects
    assert WAIT_S <= api.now <= WAIT_S + 2


async def test_pools_that_do_not_drain_leave_the_operator_time_to_stop() -> None:
    """It puts its finalizer back for as long as it runs."""

    class Busy(ApiInMemory):
        told_at: float | None = None

        async def sleep(self, seconds: float) -> None:
            self.now += seconds
            found = self.objects[OPERATOR]
            if self.told_at is None and found["spec"]["replicas"] == 0:
                self.told_at = self.now
            if self.told_at is not None and self.now >= self.told_at + 3:
                found["status"] = {}

        async def get(self, path: str) -> Object:
            if path == f"{POOLS}/mine":
                assert self.objects[OPERATOR]["status"] == {}, "the operator still runs"
            return await super().get(path)

    objects = {**operator(), **pool("demo", release="r"), **pool("mine")}
    api = Busy(objects, operator_lets_go=False)
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert api.objects[f"{POOLS}/mine"]["metadata"]["finalizers"] == []
    assert WAIT_S <= api.now < WAIT_S + STOP_S


async def test_a_release_goes_although_its_definitions_went_first() -> None:
    class Undefined(ApiInMemory):
        async def list(self, path: str, query: Mapping[str, str] | None = None) -> Listing:
            raise NotFound(404, "the server could not find the requested resource")

    api = Undefined(operator())
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert api.objects[OPERATOR]["status"] == {} and api.now < WAIT_S


async def test_finalizers_of_others_survive_a_race() -> None:
    api = ApiInMemory({**operator(), **pool("mine")}, rivals=2)
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert api.objects[f"{POOLS}/mine"]["metadata"]["finalizers"] == ["rival/1", "rival/0"]


async def test_a_namespaced_release_leaves_other_namespaces_alone() -> None:
    elsewhere = pool("theirs", namespace="other", release="r")
    api = ApiInMemory({**operator(), **deepcopy(elsewhere)})
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert {p: api.objects[p] for p in elsewhere} == elsewhere


async def test_a_wide_release_takes_care_of_every_namespace() -> None:
    elsewhere = pool("theirs", namespace="other")
    api = ApiInMemory({**operator(), **elsewhere})
    await prepare_removal(api, Release("r", "serving", wide=True), WAIT_S, api.pause)
    (path,) = elsewhere
    assert api.objects[path]["metadata"]["finalizers"] == []


async def test_an_upgrade_replaces_definitions_and_keeps_their_identity() -> None:
    api = ApiInMemory()
    old = {"metadata": {"name": "modelpools.shunter.dev", "uid": "u"}, "spec": {"old": True}}
    api.objects[f"{DEFINITIONS}/modelpools.shunter.dev"] = old
    await apply_definitions(api)
    pools = api.objects[f"{DEFINITIONS}/modelpools.shunter.dev"]
    assert pools["metadata"]["uid"] == "u"
    assert pools["spec"]["names"]["kind"] == "ModelPool"
    policies = api.objects[f"{DEFINITIONS}/routingpolicies.shunter.dev"]
    assert policies["spec"]["names"]["kind"] == "RoutingPolicy"


@pytest.mark.parametrize(("minor", "cel"), [("20+", False), ("24", False), ("25", True)])
async def test_servers_without_cel_get_no_rules(minor: str, cel: bool) -> None:
    api = ApiInMemory(version={"major": "1", "minor": minor})
    await apply_definitions(api)
    text = repr(api.objects[f"{DEFINITIONS}/modelpools.shunter.dev"])
    assert ("x-kubernetes-validations" in text) == cel


DEMO = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: chat}
spec: {}
---
apiVersion: shunter.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: main}
spec: {}
"""
CONFIG = "/api/v1/namespaces/serving/configmaps/shunter-demo"


@dataclass
class StartingApi(ApiInMemory):
    """Takes nothing before its webhooks answer, `starts_at`."""

    starts_at: float = 0.0
    applied: dict[str, Object] = field(default_factory=dict)

    async def patch(
        self, path: str, body: Object, content_type: str, query: Mapping[str, str] | None = None
    ) -> Object:
        assert content_type == APPLY
        assert query == {"fieldManager": "shunter-demo", "force": "true"}
        if self.now < self.starts_at:
            raise Unreachable("500: failed calling webhook")
        self.applied[path.removeprefix("/apis/shunter.dev/v1alpha1/")] = body
        return body


def starting_api(starts_at: float) -> StartingApi:
    config = {"metadata": {"uid": "u-1"}, "data": {"demo.yaml": DEMO}}
    return StartingApi({CONFIG: config}, starts_at=starts_at)


async def test_the_demo_waits_for_webhooks_and_belongs_to_its_config_map() -> None:
    api = starting_api(starts_at=7.0)
    await apply_demo(api, "serving", WAIT_S, api.pause)
    assert api.applied.keys() == {
        "namespaces/serving/modelpools/chat",
        "namespaces/serving/routingpolicies/main",
    }
    owners = [body["metadata"]["ownerReferences"] for body in api.applied.values()]
    assert [[o["name"], o["uid"]] for (o,) in owners] == [["shunter-demo", "u-1"]] * 2
    assert api.now >= 7.0


async def test_the_demo_fails_where_webhooks_never_answer() -> None:
    api = starting_api(starts_at=10_000.0)
    with pytest.raises(Unreachable, match="failed calling webhook"):
        await apply_demo(api, "serving", WAIT_S, api.pause)
    assert api.now <= WAIT_S + 1
    assert api.applied == {}


async def test_finalizers_go_once_the_operator_has_given_its_lease_away() -> None:
    """A pod that terminates is no replica any more, and its operator may be in a last pass."""

    class Lingering(ApiInMemory):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if self.now < 4:
                self.objects[f"{POOLS}/mine"]["metadata"]["finalizers"] = [FINALIZER]
            else:
                self.objects[RELEASE.lease]["spec"] = {"holderIdentity": ""}

    lease: Object = {"metadata": {"name": "shunter-operator"}, "spec": {"holderIdentity": "me"}}
    api = Lingering({**operator(), **pool("mine"), RELEASE.lease: lease})
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert api.objects[f"{POOLS}/mine"]["metadata"]["finalizers"] == []
    assert 4 <= api.now < WAIT_S


async def test_a_lease_that_nobody_gives_away_is_not_waited_for_long() -> None:
    lease: Object = {"metadata": {"name": "shunter-operator"}, "spec": {"holderIdentity": "dead"}}
    api = ApiInMemory({**operator(), **pool("mine"), RELEASE.lease: lease})
    await prepare_removal(api, RELEASE, WAIT_S, api.pause)
    assert api.objects[f"{POOLS}/mine"]["metadata"]["finalizers"] == []
    assert api.now < WAIT_S
