"""HTTP to the processes: directly where this machine can, else through the API server."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shunter.doctor.facts import Page, Silent, Unread
from shunter_runtime.kube_api import KubeApi, KubeError, Object

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 5.0
MAX_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """One port of a pod or a service. `host` is where it is called directly."""

    host: str  # host:port
    kind: str = ""  # pods, services
    namespace: str = ""
    name: str = ""
    port: str = ""
    tls: bool = False

    @property
    def proxy_path(self) -> str:
        """Of the API server: it does not ask what certificate the process has."""
        scheme = "https:" if self.tls else ""
        port = f":{self.port}"
        return f"/api/v1/namespaces/{self.namespace}/{self.kind}/{scheme}{self.name}{port}/proxy"


class Reach(Protocol):
    async def call(self, target: Target, path: str, body: Object | None = None) -> Page | Unread:
        """A GET, or a POST of `body` as JSON."""


class ThroughApiServer:
    """From a laptop. Needs the right to `get` and `create` pods/proxy and services/proxy."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def call(self, target: Target, path: str, body: Object | None = None) -> Page | Unread:
        method = "GET" if body is None else "POST"
        try:
            answer = await self._api.ask(method, target.proxy_path + path, body, TIMEOUT_S)
        except KubeError as error:  # the API server itself has answered before
            return Silent(str(error))
        text = answer.body.decode("utf-8", "replace")
        if answer.status == 403 and '"kind":"Status"' in text.replace(" ", ""):
            return Unread(f"this user may not reach {target.kind} through the API server")
        return Page(answer.status, text)


class Direct:
    """From a pod of the cluster, and on one machine."""

    def __init__(self, http: "aiohttp.ClientSession") -> None:
        self._http = http

    async def call(self, target: Target, path: str, body: Object | None = None) -> Page | Unread:
        import aiohttp

        url = f"{'https' if target.tls else 'http'}://{target.host}{path}"
        data = None if body is None else json.dumps(body)
        try:
            async with self._http.request(
                "GET" if body is None else "POST",
                url,
                data=data,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
                ssl=False,  # whether it answers is the question, not who it is
            ) as reply:
                whole = bytearray()
                async for part in reply.content.iter_any():
                    whole += part
                    if len(whole) > MAX_PAGE_BYTES:
                        return Unread(f"{url}: more than {MAX_PAGE_BYTES} bytes")
                return Page(reply.status, whole.decode("utf-8", "replace"))
        except TimeoutError:
            return Silent(f"no answer within {TIMEOUT_S:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Silent(str(error) or type(error).__name__)


@asynccontextmanager
async def direct() -> AsyncIterator[Direct]:
    import aiohttp

    limits = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=limits, trust_env=False) as http:
        yield Direct(http)
