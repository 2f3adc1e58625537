"""The webhooks on a real API server, which calls operator processes of this machine."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from kube_cluster import Cluster, cluster, kubeconfig
from kubectl import Server, cluster_server
from shunter_operator.admission.certificates import SETTLE, Stored, issue, read, written
from shunter_operator.admission.registration import CONFIGURATIONS, KINDS
from shunter_operator.admission.review import Object
from shunter_operator.admission.testing import review_body
from shunter_operator.testing import pool_body
from shunter_runtime.kube_api import MERGE, NotFound

pytestmark = pytest.mark.cluster
WAIT_S = 40.0
REACHED_AT = "127.0.0.1"  # by an API server on this machine
LABEL = "kubernetes.io/metadata.name"  # servers before 1.21 do not set it themselves


@dataclass
class Installed:
    """What the chart makes for the webhooks, in a namespace of its own."""

    kube: Cluster
    kubectl: Server
    folder: Path
    replicas: list["Operator"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"shunter-webhook-{self.kube.namespace}"

    @property
    def configurations(self) -> list[str]:
        return [f"{CONFIGURATIONS}/{plural}/{self.name}" for plural in KINDS]

    async def create(self) -> None:
        kube = self.kube
        labels = {"metadata": {"labels": {LABEL: kube.namespace}}}
        await kube.api.patch(f"/api/v1/namespaces/{kube.namespace}", labels, MERGE)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shunter-webhook"}}
        await kube.api.create(f"/api/v1/namespaces/{kube.namespace}/secrets", secret)
        for plural in KINDS:
            body = {"metadata": {"name": self.name}}
            await kube.api.create(f"{CONFIGURATIONS}/{plural}", body)

    async def delete(self) -> None:
        for path in self.configurations:
            try:
                await self.kube.api.delete(path)
            except NotFound:
                continue

    @contextmanager
    def operator(self) -> Iterator["Operator"]:
        """One more replica, a process of its own."""
        log = self.folder / f"operator-{len(self.replicas)}.log"
        kube = self.kube
        command = [
            *(sys.executable, "-m", "shunter", "operator", "--engine-image=shunter:test"),
            *(f"--namespace={kube.namespace}", f"--lease-namespace={kube.namespace}"),
            *(f"--scheduler={kube.scheduler_address}", "--metrics-port=0", "--webhook-port=0"),
            *(f"--webhooks={self.name}", f"--webhook-host={REACHED_AT}"),
        ]
        with log.open("wb") as output:
            env = {**os.environ, "KUBECONFIG": str(self.kubectl.kubeconfig)}
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        self.replicas.append(Operator(process, log))
        try:
            yield self.replicas[-1]
        finally:
            process.kill()
            process.wait(timeout=10)

    async def ready(self) -> None:
        """The API server knows whom to ask."""
        for path in self.configurations:
            await self.kube.becomes(lambda path=path: self._filled(path), True)  # type: ignore[misc]

    async def _filled(self, path: str) -> bool:
        newest = self.replicas[-1]
        assert newest.process.poll() is None, newest.log.read_text()
        found = (await self.kube.api.get(path)).get("webhooks") or []
        return bool(found) and all(entry["clientConfig"].get("caBundle") for entry in found)

    async def apply(self, *resources: Object, flags: tuple[str, ...] = ()) -> tuple[bool, str]:
        """Whether kubectl took all of them, and what it said."""
        text = yaml.safe_dump_all(resources)
        namespace = f"--namespace={self.kube.namespace}"
        done = await self.run(namespace, "apply", *flags, "-f", "-", text=text)
        return done.returncode == 0, done.stdout + done.stderr

    async def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.kubectl.run, *arguments, text=text)

    def pool(self, name: str, **spec: Any) -> Object:
        return _resource(pool_body(name, **spec))

    def policy(self, name: str, *pools: str, **annotations: str) -> Object:
        route = [{"pool": pool} for pool in pools]
        return {
            "apiVersion": "shunter.dev/v1alpha1",
            "kind": "RoutingPolicy",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"rules": [{"name": "r", "route": route}]},
        }


@dataclass
class Operator:
    process: "subprocess.Popen[bytes]"
    log: Path

    def events(self, name: str) -> list[Object]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in lines if line.get("event") == name]

    def port(self) -> int:
        deadline = time.monotonic() + WAIT_S
        while not (found := self.events("webhooks.serving")):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return int(found[0]["port"])


def _resource(body: Object) -> Object:
    return {**body, "metadata": {"name": body["metadata"]["name"]}}


@pytest.fixture(scope="session")
def config() -> str:
    return kubeconfig()


@pytest.fixture
async def installed(
    config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Installed]:
    monkeypatch.setenv("KUBECONFIG", config)
    async with cluster(config) as kube:
        made = Installed(kube, cluster_server(), tmp_path)
        await made.create()
        try:
            yield made
        finally:
            await made.delete()


async def test_kubectl_is_told_which_field_is_wrong_and_what_would_do(installed: Installed) -> None:
    """What a schema cannot say: this server knows no CEL."""
    with installed.operator():
        await installed.ready()
        taken, said = await installed.apply(installed.pool("first"))
        assert taken, said
        stored = await installed.kube.pool("first")
        assert stored["spec"]["model"]["name"] == "first"

        wrong = installed.pool("second", engine={"type": "vllm"})
        taken, said = await installed.apply(wrong)
        assert not taken
        assert 'The ModelPool "second" is invalid: spec: engine type vllm loads a model' in said

        rival = installed.pool("second", model={"source": "sim://m", "aliases": ["first"]})
        taken, said = await installed.apply(rival)
        assert not taken
        assert "spec.model.aliases[0]: model name 'first' belongs to pool 'first'" in said

        taken, said = await installed.apply(installed.policy("main", "frist"))
        assert not taken
        assert (
            "spec.rules[0].route[0].pool: there is no pool 'frist'; did you mean 'first'?; apply"
            in said
        )

        edit = installed.pool("first", profiles=[{"name": "a", "accelerator": "l4"}] * 2)
        taken, said = await installed.apply(edit)
        assert not taken and "spec.profiles: two profiles are called 'a'" in said


async def test_what_belongs_together_is_applied_in_one_go(installed: Installed) -> None:
    with installed.operator():
        await installed.ready()
        policy = installed.policy("main", "chat")
        taken, said = await installed.apply(installed.pool("chat"), policy)
        assert taken, said
        ahead = installed.policy("ahead", "later", **{"shunter.dev/missing-references": "allow"})
        taken, said = await installed.apply(ahead)
        assert taken and "Warning: spec.rules[0].route[0].pool: there is no pool 'later'" in said
        dry = ("--dry-run=server",)
        both = (installed.pool("new"), installed.policy("second", "new"))
        taken, said = await installed.apply(*both, flags=dry)
        assert taken and "Warning: spec.rules[0].route[0].pool: there is no pool 'new'" in said


async def test_what_is_applied_again_changes_nothing(installed: Installed) -> None:
    """Neither way of applying takes the default for a change of somebody else's."""
    with installed.operator():
        await installed.ready()
        for name, flags in (("here", ()), ("there", ("--server-side",))):
            pool = installed.pool(name)
            for _ in range(2):
                taken, said = await installed.apply(pool, flags=flags)
                assert taken, said
            stored = await installed.kube.pool(name)
            assert stored["metadata"]["generation"] == 1
            assert stored["spec"]["model"]["name"] == name


async def test_kubectl_scale_is_refused_where_the_scheduler_scales(installed: Installed) -> None:
    with installed.operator():
        await installed.ready()
        manual = {"scaling": {"mode": "Manual"}}
        taken, said = await installed.apply(
            installed.pool("auto"), installed.pool("hand", **manual)
        )
        assert taken, said
        namespace = f"--namespace={installed.kube.namespace}"
        done = await installed.run(namespace, "scale", "smp/auto", "--replicas=0")
        assert done.returncode and "spec.replicas: replicas is decided by" in done.stderr
        done = await installed.run(namespace, "scale", "smp/hand", "--replicas=2")
        assert done.returncode and "replicas.max add up to 1" in done.stderr
        done = await installed.run(namespace, "scale", "smp/hand", "--replicas=1")
        assert done.returncode == 0, done.stderr


async def test_a_standby_answers_and_takes_over(installed: Installed) -> None:
    with installed.operator() as one:
        await installed.ready()
        with installed.operator() as other:
            await _same_answer(installed, one.port(), other.port())
            leader, standby = (one, other) if one.events("lease.leading") else (other, one)
            assert not standby.events("lease.leading")
            leader.process.send_signal(signal.SIGKILL)
            taken, said = await installed.apply(installed.pool("chat"))
            assert not taken and "failed calling webhook" in said, "it fails closed"
            await installed.kube.becomes(lambda: _asked(installed), standby.port())
            taken, said = await installed.apply(installed.pool("chat"))
            assert taken, said


async def test_who_loses_the_lead_goes_on_answering_and_stands_by(installed: Installed) -> None:
    kube = installed.kube
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{kube.namespace}/leases/shunter-operator"
    with installed.operator() as operator:
        await installed.ready()
        rival = {"holderIdentity": "rival", "leaseTransitions": 7}
        await kube.api.patch(lease, {"spec": rival}, MERGE)
        await kube.becomes(lambda: _terms(operator), (1, 1))
        taken, said = await installed.apply(installed.pool("chat"))
        assert taken, said
        await kube.becomes(lambda: _terms(operator), (2, 1))  # the rival renews nothing
        await kube.becomes(lambda: _finalizers(kube), ["shunter.dev/drain"])
        assert operator.process.poll() is None


async def _terms(operator: Operator) -> tuple[int, int]:
    """How often it came to lead, and ceased to."""
    return len(operator.events("lease.leading")), len(operator.events("lease.lost"))


async def _asked(installed: Installed) -> int:
    """The port of the process that the API server asks."""
    found = await installed.kube.api.get(installed.configurations[0])
    return int(found["webhooks"][0]["clientConfig"]["url"].split(":")[2].split("/")[0])


async def test_nothing_is_refused_while_a_certificate_is_renewed(installed: Installed) -> None:
    """The one that serves is due, and the next one has waited long enough."""
    kube, now = installed.kube, datetime.now(UTC)
    old, coming = (issue([REACHED_AT], now - age) for age in (timedelta(70), 2 * SETTLE))
    secret = f"/api/v1/namespaces/{kube.namespace}/secrets/shunter-webhook"
    await kube.api.patch(secret, {"data": written(Stored(old, coming))}, MERGE)
    with installed.operator() as operator:
        await installed.ready()
        for _ in range(5):
            taken, said = await installed.apply(installed.pool("chat"), flags=("--dry-run=server",))
            assert taken, said
        served = len(operator.events("webhooks.certificate_served"))
        shown = await asyncio.to_thread(
            ssl.get_server_certificate, (REACHED_AT, operator.port()), timeout=10
        )
    assert served == 2 and shown.strip().encode() == coming.certificate.strip()
    stored = read((await kube.api.get(secret))["data"])
    assert stored == Stored(coming, None, old.authority)


async def _same_answer(installed: Installed, *ports: int) -> None:
    body = pool_body("chat", engine={"type": "typo"})
    body["metadata"]["namespace"] = installed.kube.namespace
    answers = []
    for port in ports:
        url = f"https://{REACHED_AT}:{port}/validate"
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                async with (
                    aiohttp.ClientSession() as http,
                    http.post(url, data=review_body("CREATE", body), ssl=False) as answer,
                ):
                    answers.append(await answer.json())
                    break
            except aiohttp.ClientConnectionError:  # it has no certificate yet
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
    assert answers[0] == answers[1] and not answers[0]["response"]["allowed"]


async def test_nothing_is_stuck_while_the_operator_is_gone(installed: Installed) -> None:
    kube = installed.kube
    with installed.operator():
        await installed.ready()
        taken, said = await installed.apply(installed.pool("chat"))
        assert taken, said
        await kube.becomes(lambda: _finalizers(kube), ["shunter.dev/drain"])
    refused = await installed.apply(installed.pool("new"))
    assert not refused[0] and "failed calling webhook" in refused[1]
    path = kube.path("modelpools", "chat")
    await kube.api.patch(path, {"metadata": {"labels": {"a": "b"}}}, MERGE)
    await kube.api.patch(f"{path}/status", {"status": {"model": "m"}}, MERGE)
    await kube.api.delete(path)
    await kube.api.patch(path, {"metadata": {"finalizers": None}}, MERGE)
    with pytest.raises(NotFound):
        await kube.pool("chat")


async def _finalizers(kube: Cluster) -> list[str]:
    return list((await kube.pool("chat"))["metadata"].get("finalizers") or ())


async def test_the_configurations_go_with_the_namespace(installed: Installed) -> None:
    """Else a release that was not uninstalled would refuse every pool of the cluster for ever."""
    kube = installed.kube
    with installed.operator():
        await installed.ready()
        await kube.becomes(lambda: _owned(installed), True)
    await kube.api.delete(f"/api/v1/namespaces/{kube.namespace}")
    await kube.becomes(lambda: _left(installed), 0)


async def _owned(installed: Installed) -> bool:
    found = [await installed.kube.api.get(path) for path in installed.configurations]
    return all(one["metadata"].get("ownerReferences") for one in found)


async def _left(installed: Installed) -> int:
    left = 0
    for path in installed.configurations:
        try:
            await installed.kube.api.get(path)
            left += 1
        except NotFound:
            continue
    return left
