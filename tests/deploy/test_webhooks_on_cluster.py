"""The webhooks of a cluster-wide release, in its pods.

The release is kept to its own namespace, since the cluster may be shared: by `--namespace`, and
without the job before the removal, which looks after every namespace.
"""

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import yaml

from helm_chart import CHART, Helm, Object
from helm_release import REAL_NODE, Installed, Machine, image_settings, wait_for
from shunter_operator.testing import pool_body

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
WAIT_S = 90.0
KINDS = ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")


@dataclass(frozen=True, slots=True)
class Release(Installed):
    """A cluster-wide one, but for one namespace."""

    @property
    def name(self) -> str:
        """Of Helm's release, and no other's."""
        return self.namespace

    @property
    def configuration(self) -> str:
        return f"shunter-webhook-{self.namespace}"

    @property
    def settings(self) -> list[str]:
        only = f"--namespace={self.namespace}"
        values = (
            *image_settings(), "scope=cluster", "hooks.enabled=false", "gateway.replicas=1",
            "scheduler.replicas=1", f"nodeSelector.{REAL_NODE}=yes",
            f"operator.extraArgs={{{only}}}", f"scheduler.extraArgs={{{only}}}",
        )  # fmt: skip
        return [f"--set={value}" for value in values]

    def install(self) -> None:
        self.kubectl("create", "namespace", self.namespace)
        # Servers before 1.21 do not do this themselves.
        label = f"kubernetes.io/metadata.name={self.namespace}"
        self.kubectl("label", "namespace", self.namespace, label)
        flags = ("--skip-crds", "--wait", "--timeout=180s")
        self.helm("install", self.name, str(CHART), *flags, *self.settings)

    def prepare_removal(self) -> None:
        """As the job does that is left out here, but for this namespace only."""
        command = [
            *(sys.executable, "-m", "shunter", "hook", "removal", "--wait=20"),
            *(f"--release={self.name}", f"--namespace={self.namespace}"),
            f"--webhooks={self.configuration}",
        ]
        env = self.machine.environment
        subprocess.run(command, env=env, check=True, timeout=120, capture_output=True)

    def remove(self) -> None:
        self.prepare_removal()
        self.helm("uninstall", self.name, "--ignore-not-found", "--timeout=120s")
        gone = ("--ignore-not-found", "--wait=false")
        self.kubectl("delete", "namespace", self.namespace, *gone)

    def create(self, *flags: str, **spec: object) -> tuple[bool, str]:
        """Whether kubectl could create a pool, and what it said."""
        name = f"p-{uuid.uuid4().hex[:6]}"
        body = {**pool_body(name, **spec), "metadata": {"name": name}}
        return self._ask("create", *flags, "-f-", text=yaml.safe_dump(body))

    def may(self, account: str, verb: str, what: str) -> bool:
        who = f"--as=system:serviceaccount:{self.namespace}:{account}"
        return self._ask("auth", "can-i", verb, what, who)[0]

    def _ask(self, *arguments: str, text: str = "") -> tuple[bool, str]:
        command = [self.machine.kubectl, f"--namespace={self.namespace}", *arguments]
        env = self.machine.environment
        done = subprocess.run(
            command, input=text, env=env, capture_output=True, text=True, timeout=60
        )
        return done.returncode == 0, done.stdout + done.stderr

    def left(self) -> list[str]:
        found = [self.machine.get(plural)["items"] for plural in KINDS]
        names = [item["metadata"]["name"] for items in found for item in items]
        return [name for name in names if name == self.configuration]


@dataclass
class Asking:
    """Creates pools (dry) one after the other, and keeps what was refused."""

    release: Release
    asked: int = 0
    refused: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def _run(self) -> None:
        while not self._stop.is_set():
            taken, said = self.release.create("--dry-run=server")
            self.asked += 1
            if not taken:
                self.refused.append(said)

    @contextmanager
    def running(self) -> Iterator["Asking"]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()


@pytest.fixture(scope="module")
def webhooks(cluster: Machine) -> Iterator[Release]:
    release = Release(cluster, f"e-{uuid.uuid4().hex[:8]}")
    try:
        release.install()
        yield release
    finally:
        release.remove()


def test_after_an_installation_that_waits_the_webhooks_work(webhooks: Release) -> None:
    assert len(webhooks.part("operator")) == 2
    taken, said = webhooks.create("--dry-run=server")
    assert taken, said
    taken, said = webhooks.create("--dry-run=server", engine={"type": "vllm"})
    assert not taken and "is invalid: spec: engine type vllm loads a model from" in said


def _leader(release: Release) -> str:
    lease = release.get("lease", "shunter-operator")
    return str(lease["spec"]["holderIdentity"]).partition("_")[0]


def test_nothing_is_refused_while_the_leader_goes(webhooks: Release) -> None:
    with Asking(webhooks).running() as asking:
        gone = _leader(webhooks)
        webhooks.kubectl("delete", "pod", gone)
        wait_for("another replica leads", lambda: _leader(webhooks) not in ("", gone), WAIT_S)
        wait_for("both serve again", lambda: len(webhooks.part("operator")) == 2, WAIT_S)
    assert asking.asked > 3 and asking.refused == []


def test_an_upgrade_leaves_what_the_operator_filled_in(webhooks: Release) -> None:
    def entries() -> list[Object]:
        found = [webhooks.machine.get(plural, webhooks.configuration) for plural in KINDS]
        return [entry for one in found for entry in one["webhooks"]]

    before = entries()
    with Asking(webhooks).running() as asking:
        more = ("--set=operator.logLevel=debug", "--wait", "--timeout=180s")
        webhooks.helm("upgrade", webhooks.name, str(CHART), *webhooks.settings, *more)
    assert asking.asked > 3 and asking.refused == []
    assert entries() == before
    assert all(entry["clientConfig"]["caBundle"] for entry in before)


def test_no_process_but_the_operator_may_read_the_certificate(webhooks: Release) -> None:
    secret = "secrets/shunter-webhook"
    assert webhooks.may("shunter-operator", "get", secret)
    for account, verb, what in (
        ("shunter-scheduler", "get", secret),
        ("shunter-gateway", "get", secret),
        ("shunter-operator", "get", "secrets/shunter-api-key"),
        ("shunter-operator", "create", "secrets"),
        ("shunter-operator", "create", KINDS[0]),
        ("shunter-operator", "patch", f"{KINDS[0]}/another"),
    ):
        assert not webhooks.may(account, verb, what), (account, verb, what)


def test_the_job_before_the_removal_may_take_them_away(webhooks: Release, helm: Helm) -> None:
    """Its rights, as rendered: the job itself would look after every namespace."""
    objects = helm.template("hooks.enabled=true", namespace=webhooks.namespace)
    name = f"shunter-removal-webhooks-{webhooks.namespace}"
    rights = [v for v in objects if v["metadata"]["name"] == name]
    assert [v["kind"] for v in rights] == ["ClusterRole", "ClusterRoleBinding"]
    webhooks.apply(*rights)
    try:
        for plural in KINDS:
            assert webhooks.may("shunter-removal", "delete", f"{plural}/{webhooks.configuration}")
            assert not webhooks.may("shunter-removal", "delete", f"{plural}/another")
    finally:
        webhooks.kubectl("delete", "clusterrole,clusterrolebinding", name)


def test_a_removal_takes_the_webhooks_along(webhooks: Release) -> None:
    """The last one: the release is of no use afterwards."""
    assert webhooks.left() == [webhooks.configuration] * 2
    taken, said = webhooks.create()
    assert taken, said
    wait_for("the operator holds the pool", lambda: _held(webhooks), WAIT_S)
    webhooks.prepare_removal()
    assert webhooks.left() == [] and not _held(webhooks)
    taken, said = webhooks.create("--dry-run=server", engine={"type": "vllm"})
    assert taken, said


def _held(release: Release) -> list[str]:
    pools = release.get("modelpools")["items"]
    return [name for pool in pools for name in pool["metadata"].get("finalizers", ())]
