"""The Kubernetes API over HTTP: read, write, list and watch. All that is said to it goes through
here."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from shunter_runtime.kube_access import KubeAccess

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
PAGE_OBJECTS = 500
MAX_EVENT_BYTES = 16 * 1024 * 1024  # etcd takes objects of 1.5 MiB
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # of a process behind the API server
WATCH_OVERTIME_S = 15.0  # the server ends a watch itself; beyond this it is dead

# Media types; the last three say what a PATCH's body is.
JSON = "application/json"
APPLY = "application/apply-patch+yaml"  # server-side apply; JSON is YAML
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

Object = dict[str, Any]


class KubeError(Exception):
    """The API did not do what was asked. `Unreachable` has no status."""


class Unreachable(KubeError):
    """No answer: no connection, no time left, a broken stream, or a server that is overloaded."""


class Refused(KubeError):
    """The API answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class NotFound(Refused):
    """No such object, or no such kind."""


class Conflict(Refused):
    """The object is there already, or is no longer as the writer saw it."""


class Gone(Refused):
    """The resource version is too old to go on from: list again."""


_REFUSALS: Mapping[int, type[Refused]] = {404: NotFound, 409: Conflict, 410: Gone}


@dataclass(frozen=True, slots=True)
class WatchEvent:
    type: str  # ADDED, MODIFIED, DELETED, BOOKMARK
    object: Object


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[Object, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Of any status, with any body. `date` is the header: the server's clock, to the second."""

    status: int
    date: str
    body: bytes


class KubeApi:
    """Paths begin with /api or /apis. Every call raises `KubeError`."""

    def __init__(self, access: KubeAccess, http: "aiohttp.ClientSession") -> None:
        self._access = access
        self._http = http

    @property
    def namespace(self) -> str:
        """The namespace that this process belongs to."""
        return self._access.namespace

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
    ) -> Object:
        return await self._call(_Call("GET", path, query or {}), timeout_s)

    async def create(self, path: str, body: Object, timeout_s: float = TIMEOUT_S) -> Object:
        return await self._call(_Call("POST", path, body=body), timeout_s)

    async def replace(self, path: str, body: Object, timeout_s: float = TIMEOUT_S) -> Object:
        """Raises `Conflict` where the object is no longer of the body's resourceVersion."""
        return await self._call(_Call("PUT", path, body=body), timeout_s)

    async def patch(
        self, path: str, body: Object, content_type: str, query: Mapping[str, str] | None = None
    ) -> Object:
        """`content_type` says how the body is to be read: `APPLY`, `MERGE` or `STRATEGIC`."""
        return await self._call(_Call("PATCH", path, query or {}, body, content_type), TIMEOUT_S)

    async def delete(self, path: str, body: Object | None = None) -> Object:
        """`body` is a DeleteOptions. Raises `NotFound` where the object is not there."""
        return await self._call(_Call("DELETE", path, body=body), TIMEOUT_S)

    async def list(self, path: str, query: Mapping[str, str] | None = None) -> Listing:
        """All objects, read in pages, as of one resource version."""
        items: list[Object] = []
        page_query = {**(query or {}), "limit": str(PAGE_OBJECTS)}
        while True:
            page = await self.get(path, page_query)
            items.extend(page.get("items") or ())
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return Listing(tuple(items), str(metadata.get("resourceVersion", "")))
            page_query["continue"] = metadata["continue"]

    async def watch(
        self, path: str, resource_version: str, query: Mapping[str, str], timeout_s: float
    ) -> AsyncGenerator[WatchEvent]:
        """Every change after `resource_version`; ends when the server ends it, after about
        `timeout_s`. Raises `Gone` where the version is too old."""
        import aiohttp

        whole_query = {
            **query,
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, round(timeout_s))),
        }
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=timeout_s + WATCH_OVERTIME_S
        )
        async with self._open(_Call("GET", path, whole_query), limits) as reply:
            await _check(reply)
            async for line in _lines(reply.content):
                yield _event(line)

    async def ask(
        self, method: str, path: str, body: Object | None = None, timeout_s: float = TIMEOUT_S
    ) -> Answer:
        """For what the API server passes on from a pod or a service (`.../proxy/...`): an error
        status is an answer, too. Raises `Unreachable` only."""
        import aiohttp

        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        async with self._open(_Call(method, path, body=body), limits) as reply:
            whole = bytearray()
            async for part in reply.content.iter_any():
                whole += part
                if len(whole) > MAX_ANSWER_BYTES:
                    raise Unreachable(f"{path}: an answer of more than {MAX_ANSWER_BYTES} bytes")
            return Answer(reply.status, reply.headers.get("Date", ""), bytes(whole))

    async def _call(self, call: "_Call", timeout_s: float) -> Object:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        async with self._open(call, limits) as reply:
            await _check(reply)
            return _decoded(await reply.read())

    @asynccontextmanager
    async def _open(
        self, call: "_Call", limits: "aiohttp.ClientTimeout"
    ) -> AsyncIterator["aiohttp.ClientResponse"]:
        import aiohttp

        access = self._access
        headers = {"Accept": "application/json", "Content-Type": call.content_type}
        try:
            if authorization := await asyncio.to_thread(access.authorization):
                headers["Authorization"] = authorization
            async with self._http.request(
                call.method,
                access.server + call.path,
                params=call.query,
                data=None if call.body is None else msgspec.json.encode(call.body),
                headers=headers,
                timeout=limits,
                ssl=access.tls,
                server_hostname=access.server_name,
                allow_redirects=False,
            ) as reply:
                yield reply
        except TimeoutError as error:
            raise Unreachable(f"{call}: no answer from {access.server} in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{call}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Object | None = None
    content_type: str = JSON

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@asynccontextmanager
async def kube_api(access: KubeAccess) -> AsyncIterator[KubeApi]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0, socket_factory=_watched_socket)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as http:
        yield KubeApi(access, http)


def _watched_socket(address: Any) -> socket.socket:
    """A watch is silent for minutes, so the kernel asks whether the peer is still there: a peer
    that is gone is noticed within 30 s."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return made


async def _check(reply: "aiohttp.ClientResponse") -> None:
    if reply.status < 400:
        return
    text = (await reply.content.read(64 * 1024)).decode("utf-8", "replace")
    try:
        message = str(msgspec.json.decode(text)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        message = text[:200]
    raise _refusal(reply.status, message)


def _refusal(status: int, message: str) -> KubeError:
    if status == 429 or status >= 500:
        return Unreachable(f"{status}: {message}")
    return _REFUSALS.get(status, Refused)(status, message)


def _decoded(body: bytes) -> Object:
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Unreachable(f"an answer that is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unreachable("an answer that is no object")
    return value


def _event(line: bytes) -> WatchEvent:
    event = _decoded(line)
    kind, value = event.get("type"), event.get("object")
    if not isinstance(kind, str) or not isinstance(value, dict):
        raise Unreachable("a watch event without type or object")
    if kind == "ERROR":
        raise _refusal(int(value.get("code") or 500), str(value.get("message", "watch failed")))
    return WatchEvent(kind, value)


async def _lines(content: "aiohttp.StreamReader") -> AsyncIterator[bytes]:
    rest = bytearray()
    async for part in content.iter_any():
        rest += part
        if b"\n" not in part:
            if len(rest) > MAX_EVENT_BYTES:
                raise Unreachable(f"a watch event of more than {MAX_EVENT_BYTES} bytes")
            continue
        *whole, last = rest.split(b"\n")
        rest = bytearray(last)
        for line in whole:
            if line:
                yield bytes(line)
