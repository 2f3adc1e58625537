"""A release with certificates everywhere and keys of its owner's, as pods; looked over by the
doctor; then changed by `helm upgrade`."""

import base64
import hashlib
import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import yaml

from certificates import certificates_in
from helm_chart import CHART
from helm_release import DEMO, Installed, Machine, image_settings, installed, wait_for
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, channel_credentials

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
HOSTS = ("shunter-scheduler", "shunter-schedulers", "shunter-gateway")
KEY = "sk-of-the-owner"
SETTINGS = (
    *DEMO,
    "gateway.drainDelaySeconds=1",
    "gateway.tls.secretName=edge",
    "gateway.auth.mode=existing",
    "gateway.auth.existingSecret=keys",
    "scheduler.tls.secretName=internal",
    "scheduler.tls.clientSecretName=internal-clients",
)
CHAT = {"model": "chat", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True, slots=True)
class Secured:
    release: Installed
    server: TlsFiles
    client: TlsFiles

    def status(self, path: str, key: str) -> int:
        """Of a request by HTTPS, with the certificate checked for the Service's name."""
        context = ssl.create_default_context(cafile=str(self.server.ca))
        address = self.release.address("shunter-gateway")
        connection = _Named(address, 80, timeout=30, context=context)
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        try:
            connection.request("POST", path, json.dumps(CHAT), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def scheduler(self, files: TlsFiles) -> grpc.StatusCode | None:
        """What the leader's gRPC port answers to who shows these certificates; None: it serves."""
        options = [("grpc.ssl_target_name_override", "shunter-schedulers")]
        codes = []
        for pod in self.release.part("scheduler"):
            address = f"{pod['status']['podIP']}:50051"
            with grpc.secure_channel(address, channel_credentials(files), options) as channel:
                try:
                    pb_grpc.SchedulerStub(channel).Status(pb.StatusRequest(), timeout=5)
                    return None
                except grpc.RpcError as error:
                    codes.append((error.code(), error.details()))
        if any("lead" in (details or "") for _, details in codes):
            return None  # a standby answered, by name of the leader
        return codes[0][0]


class _Named(http.client.HTTPSConnection):
    """Calls an address by the name of its Service."""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(self.sock, server_hostname="shunter-gateway")


@pytest.fixture(scope="module")
def secured(cluster: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    make = certificates_in(tmp_path_factory.mktemp("tls"), HOSTS)
    server, client = make("server"), make("client")

    def prepare(release: Installed) -> None:
        release.kubectl("create", "namespace", release.namespace)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        keys = yaml.safe_dump([{"name": "owner", "sha256": digest}])
        release.apply(
            _secret("keys", {"keys.yaml": keys.encode()}),
            _secret("edge", _pair(server), "kubernetes.io/tls"),
            _secret("internal", _pair(server), "kubernetes.io/tls"),
            _secret("internal-clients", _pair(client), "kubernetes.io/tls"),
        )

    with installed(cluster, *SETTINGS, prepare=prepare) as release:
        release.fix_replicas()
        wait_for("the demo pool is ready", release.whole, 180.0)
        yield Secured(release, server, client)


def _pair(files: TlsFiles) -> dict[str, bytes]:
    assert files.cert and files.key and files.ca
    named = {"tls.crt": files.cert, "tls.key": files.key, "ca.crt": files.ca}
    return {name: path.read_bytes() for name, path in named.items()}


def _secret(name: str, data: dict[str, bytes], kind: str = "Opaque") -> dict[str, Any]:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    metadata = {"name": name}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": kind,
        "data": encoded,
    }


def test_a_chat_by_https_with_a_key_of_the_owner(secured: Secured) -> None:
    assert secured.status("/v1/chat/completions", KEY) == 200
    assert secured.status("/v1/chat/completions", "sk-guessed") == 401


def test_the_scheduler_answers_who_shows_a_certificate(secured: Secured) -> None:
    assert secured.scheduler(secured.client) is None
    stranger = TlsFiles(ca=secured.server.ca)
    assert secured.scheduler(stranger) is grpc.StatusCode.UNAVAILABLE


def test_the_charts_own_test_passes(secured: Secured) -> None:
    assert "Succeeded" in secured.release.helm("test", "shunter", "--timeout=120s")


Findings = dict[tuple[str, str], list[str]]


def _by_check(text: str) -> tuple[int, Findings]:
    report = json.loads(text)
    found: Findings = {}
    for row in report["findings"]:
        found.setdefault((row["check"], row["state"]), []).append(row["message"])
    return report["failed"], found


def _from_a_laptop(secured: Secured) -> tuple[int, Findings]:
    environment = {**os.environ, "KUBECONFIG": secured.release.machine.kubeconfig}
    command = [sys.executable, "-m", "shunter", "doctor", "--json"]
    done = subprocess.run(
        [*command, "--namespace", secured.release.namespace],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.stdout, done.stderr
    return _by_check(done.stdout)


def test_a_doctor_with_a_kubeconfig_finds_it_sound(secured: Secured) -> None:
    failed, found = _from_a_laptop(secured)
    assert failed == 0, found
    for check in ("resources", "rights", "processes", "leaders", "schedulers", "gateway",
                  "admission", "gpus", "placement", "engines", "tokenizers", "clocks"):  # fmt: skip
        assert (check, "ok") in found, found
    assert len(found["rights", "ok"]) == 2
    assert any("3 engines as promised" in message for message in found["engines", "ok"])


def test_a_doctor_in_the_operators_pod_asks_the_scheduler_by_grpc(secured: Secured) -> None:
    text = secured.release.kubectl(
        "exec", "deploy/shunter-operator", "--", "shunter", "doctor", "--json"
    )
    failed, found = _by_check(text)
    assert failed == 0, found
    assert any("is SERVING and leads" in message for message in found["scheduler", "ok"])
    assert ("gateway", "ok") in found
    assert any("shunter-operator may do all" in message for message in found["rights", "ok"])


def test_an_upgrade_carries_new_values_and_puts_back_what_was_taken(secured: Secured) -> None:
    """The doctor misses a right that somebody took; the upgrade puts it back, and takes the demo
    down with its engines."""
    release = secured.release
    release.kubectl("delete", "role", "shunter-operator")
    failed, found = _from_a_laptop(secured)
    assert failed and any("may not" in message for message in found["rights", "failed"])
    settings = [s for s in SETTINGS if s not in DEMO]
    flags = [f"--set={s}" for s in (*image_settings(), *settings, "gateway.replicas=1")]
    release.helm(
        "upgrade", "shunter", str(CHART), "--skip-crds", "--wait", "--timeout=180s",
        "--set=scope=namespace", "--set=nodeSelector.shunter-e2e=yes", *flags,
    )  # fmt: skip
    assert _from_a_laptop(secured)[1]["rights", "ok"]
    wait_for("one gateway is left", lambda: len(release.part("gateway")) == 1, 60.0)
    wait_for("the demo is gone", lambda: release.names("modelpools") == [], 120.0)
    wait_for("its engines, too", lambda: not release.pods("shunter.dev/pool=chat"), 120.0)
