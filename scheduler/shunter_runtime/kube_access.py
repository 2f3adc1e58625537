"""Where the Kubernetes API is and how to authenticate there: inside a pod, or by a kubeconfig."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_KUBECONFIG = Path(".kube", "config")  # in the home folder
# The kubelet renews a pod's token when a fifth of its life is left, minutes at the least.
TOKEN_KEPT_S = 60.0


class KubeAccessError(Exception):
    """No cluster is configured, or its kubeconfig or service account cannot be used."""


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """`authorization` gives the header's value, empty where a certificate authenticates; it may
    block for seconds, when a kubeconfig's plug-in is asked."""

    server: str  # https://host:port
    tls: ssl.SSLContext
    authorization: Callable[[], str]
    namespace: str = "default"  # of the pod, or of the kubeconfig's context
    server_name: str | None = None  # where it differs from the host in `server`


def find_access(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> KubeAccess:
    """`$KUBECONFIG` where it is set, else the pod's service account, else `~/.kube/config`.

    Raises `KubeAccessError`.
    """
    if named := environ.get("KUBECONFIG"):
        return from_kubeconfig(named)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return from_service_account(environ, service_account)
    home = Path(environ.get("HOME", "/")) / DEFAULT_KUBECONFIG
    if home.is_file():
        return from_kubeconfig(str(home))
    raise KubeAccessError(
        f"no Kubernetes cluster is configured: set KUBECONFIG, write {home}, or run in a pod that "
        "mounts its service account's token"
    )


def from_service_account(environ: Mapping[str, str], folder: Path) -> KubeAccess:
    """Raises `KubeAccessError`."""
    host = environ["KUBERNETES_SERVICE_HOST"]
    port = environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = _Kept(lambda: f"Bearer {(folder / 'token').read_text().strip()}", time.monotonic)
    try:
        tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        namespace = (folder / "namespace").read_text().strip()
        token()
    except (OSError, ssl.SSLError) as error:
        raise KubeAccessError(
            f"the service account in {folder} cannot be used: {error}; is "
            "automountServiceAccountToken off?"
        ) from error
    host = f"[{host}]" if ":" in host else host
    return KubeAccess(f"https://{host}:{port}", tls, token, namespace)


def from_kubeconfig(paths: str) -> KubeAccess:
    """The current context of one file, or of several with `:` between. Raises `KubeAccessError`.

    The client library reads it, because of the plug-ins by which clouds authenticate.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise KubeAccessError(
            "a kubeconfig needs the extra `kubernetes`: pip install 'shunter[kubernetes]'"
        ) from error
    library: Any = config  # parts of it have no types
    settings = client.Configuration()
    try:
        library.load_kube_config(
            config_file=paths, client_configuration=settings, persist_config=False
        )
        _, active = library.list_kube_config_contexts(config_file=paths)
        tls = _tls(settings)
    except (config.ConfigException, OSError, ssl.SSLError) as error:
        raise KubeAccessError(f"kubeconfig {paths}: {error}") from error

    def authorization() -> str:
        # The key's name in the library's table: authorization before 36, BearerToken since.
        key = settings.get_api_key_with_prefix("BearerToken", alias="authorization")
        return key or ""

    return KubeAccess(
        settings.host.rstrip("/"),
        tls,
        _Kept(authorization, time.monotonic),
        active["context"].get("namespace") or "default",
        settings.tls_server_name or None,
    )


def _tls(settings: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    if not settings.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Kept:
    """Reads again once what was read is old."""

    def __init__(self, read: Callable[[], str], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._value = ""
        self._until = float("-inf")

    def __call__(self) -> str:
        now = self._clock()
        if now >= self._until:
            self._value, self._until = self._read(), now + TOKEN_KEPT_S
        return self._value
