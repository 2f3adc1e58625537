"""Servers of weights: a Hugging Face hub, an S3 and an OCI registry, with bytes in memory."""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.sax.saxutils import escape

CHUNK_BYTES = 1 << 16


@dataclass
class FakeStore:
    """What both have: files, who may read them, and how far a download gets.

    `hold_after` bytes of each file the server waits for `go`, when it is not set.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    hold_after: int = 0
    go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    downloads: Counter[str] = field(default_factory=Counter)
    starts: list[int] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    address: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@dataclass
class FakeHub(FakeStore):
    """One repository, `org/name`; files above 1 kB are kept as by Git LFS, with their digest."""

    commit: str = "c0ffee" * 6 + "c0ff"
    token: str = ""
    error: tuple[int, str] | None = None  # of every answer: status, the hub's explanation
    lies: bool = False  # about digests
    storage: str = ""  # an address or a path that files are redirected to, as small ones are


@dataclass
class FakeS3(FakeStore):
    """One bucket, `weights`. Lists two keys a page; requests must be signed unless `public`."""

    public: bool = False
    page: int = 2
    pages: int = 0


@dataclass
class FakeRegistry(FakeStore):
    """One repository, `org/model`, with the tag `v1`. `scheme` is how it wants to be asked."""

    scheme: str = ""  # Basic, Bearer, or nothing
    password: str = "p4ss"
    media_type: str = "application/octet-stream"
    title: str = "org.opencontainers.image.title"
    index: bool = False
    lies: bool = False  # serves other blobs than it lists
    forges: bool = False  # serves another manifest than the digest says
    tokens: int = 0
    breaks_after: int = 0  # bytes of a blob's answer; then its token is no good any more


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_file(self, store: FakeStore, name: str, etag: str, most: int = 0) -> None:
        """`most`: bytes after which the connection ends, where it is given."""
        content = store.files[name]
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        start = int(found[1]) if found else 0
        end = min(int(found[2]) + 1, len(content)) if found and found[2] else len(content)
        self.send_response(206 if found else 200)
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(end - start))
        if found:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        store.downloads[name] += 1
        store.starts.append(start)
        if most and start + most < end:
            end, self.close_connection = start + most, True
        for at in range(start, end, CHUNK_BYTES):
            if store.hold_after and at >= store.hold_after and not store.go.is_set():
                store.begun.set()
                store.go.wait(30)
            self.wfile.write(content[at : min(at + CHUNK_BYTES, end)])


def _hub_handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        def do_GET(self) -> None:
            authorization = self.headers["Authorization"] or ""
            hub.authorizations.append(authorization)
            path, _, query = self.path.partition("?")
            if hub.error is not None:
                self.answer(hub.error[0], b"", X_Error_Message=hub.error[1])
            elif hub.token and authorization != f"Bearer {hub.token}":
                self.answer(401, b"", X_Error_Message="Access to model org/name is restricted.")
            elif re.fullmatch(r"/api/models/org/name/revision/[\w.-]+", path):
                assert query == "blobs=true"
                self.answer(200, json.dumps(_listing(hub)).encode())
            elif hub.storage and path.startswith("/org/name/resolve/"):
                self.answer(307, b"", Location=f"{hub.storage}{path}")
            elif name := _resolved(path.removeprefix(hub.storage), hub):
                digest = hashlib.sha256(hub.files[name]).hexdigest()
                self.send_file(hub, name, f'"{digest}"')
            else:
                self.answer(404, b"", X_Error_Message="Repository not found")

    return Handler


def _listing(hub: FakeHub) -> dict[str, object]:
    siblings: list[dict[str, object]] = []
    for name, content in hub.files.items():
        entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
        if len(content) > 1000:
            digest = "0" * 64 if hub.lies else hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    return {"id": "org/name", "sha": hub.commit, "siblings": siblings}


def _resolved(path: str, hub: FakeHub) -> str:
    found = re.fullmatch(rf"/org/name/resolve/(?:{hub.commit}|main)/(.+)", path)
    name = urllib.parse.unquote(found[1]) if found else ""
    return name if name in hub.files else ""


def _s3_handler(s3: FakeS3) -> type[BaseHTTPRequestHandler]:
    signed = re.compile(
        r"AWS4-HMAC-SHA256 Credential=AKIDTEST/\d{8}/[\w-]+/s3/aws4_request, ?"
        r"SignedHeaders=host;[\w;-]*x-amz-date[\w;-]*, ?Signature=[0-9a-f]{64}"
    )

    class Handler(_Handler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            authorization = self.headers["Authorization"] or ""
            s3.authorizations.append(authorization)
            path, _, query = self.path.partition("?")
            asked = dict(urllib.parse.parse_qsl(query))
            key = urllib.parse.unquote(path.removeprefix("/weights").lstrip("/"))
            if not s3.public and not signed.fullmatch(authorization):
                code = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
                self.answer(403, code.encode())
            elif not path.startswith("/weights"):
                self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            elif asked.get("list-type") == "2":
                self.answer(200, _page(s3, asked).encode())
            elif key in s3.files and self.headers["If-Match"] not in (
                None,
                _etag(s3.files[key]),
            ):
                self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            elif key in s3.files:
                self.send_file(s3, key, _etag(s3.files[key]))
            else:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    return Handler


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _page(s3: FakeS3, asked: dict[str, str]) -> str:
    """ListObjectsV2."""
    s3.pages += 1
    keys = sorted(key for key in s3.files if key.startswith(asked.get("prefix", "")))
    start = int(asked.get("continuation-token", "0"))
    shown = keys[start : start + s3.page]
    more = start + s3.page < len(keys)
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>{escape(_etag(s3.files[key]))}</ETag><Size>{len(s3.files[key])}</Size></Contents>"
        for key in shown
    )
    token = f"<NextContinuationToken>{start + s3.page}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>weights</Name>'
        f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(shown)}</KeyCount>"
        f"{contents}{token}</ListBucketResult>"
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _manifest(registry: FakeRegistry) -> bytes:
    layers = [
        {
            "mediaType": registry.media_type,
            "digest": _digest(content),
            "size": len(content),
            "annotations": {registry.title: name},
        }
        for name, content in registry.files.items()
    ]
    return json.dumps({"schemaVersion": 2, "layers": layers}).encode()


def _registry_handler(registry: FakeRegistry) -> type[BaseHTTPRequestHandler]:
    spent: set[str] = set()

    class Handler(_Handler):
        def do_GET(self) -> None:
            authorization = self.headers["Authorization"] or ""
            registry.authorizations.append(authorization)
            path, _, query = self.path.partition("?")
            pair = base64.b64encode(f"me:{registry.password}".encode()).decode()
            if path == "/token":
                asked = dict(urllib.parse.parse_qsl(query))
                assert asked == {"service": "reg", "scope": "repository:org/model:pull"}
                registry.tokens += 1
                right = authorization == f"Basic {pair}"
                token = json.dumps({"token": f"t0k{registry.tokens}"}).encode()
                self.answer(*((200, token) if right else (401, b"{}")))
                return
            tokens = {f"Bearer t0k{n + 1}" for n in range(registry.tokens)} - spent
            known = {"Basic": {f"Basic {pair}"}, "Bearer": tokens, "": {""}}[registry.scheme]
            if authorization not in known:
                realm = f'realm="{registry.url}/token",service="reg"'
                self.answer(401, b"{}", WWW_Authenticate=f"{registry.scheme} {realm}")
                return
            self._content(path, authorization)

        def _content(self, path: str, authorization: str) -> None:
            manifest, prefix = _manifest(registry), "/v2/org/model/"
            index = json.dumps({"manifests": [{"digest": _digest(manifest)}]}).encode()
            names = {_digest(content): name for name, content in registry.files.items()}
            if path == "/v2/":
                self.answer(200, b"{}")
            elif path == f"{prefix}manifests/v1":
                self.answer(200, index if registry.index else manifest)
            elif path == f"{prefix}manifests/{_digest(manifest)}":
                self.answer(200, b" " + manifest if registry.forges else manifest)
            elif name := names.get(path.removeprefix(f"{prefix}blobs/")):
                if registry.lies:
                    self.answer(200, registry.files[name][::-1])
                else:
                    if registry.breaks_after:
                        spent.add(authorization)
                    self.send_file(registry, name, f'"{name}"', registry.breaks_after)
            else:
                self.answer(404, b"{}")

    return Handler


_HANDLERS: dict[type[FakeStore], Callable[[Any], type[BaseHTTPRequestHandler]]] = {
    FakeHub: _hub_handler,
    FakeS3: _s3_handler,
    FakeRegistry: _registry_handler,
}


@contextmanager
def serving(store: FakeStore, host: str = "127.0.0.1") -> Iterator[None]:
    server = ThreadingHTTPServer((host, 0), _HANDLERS[type(store)](store))
    server.daemon_threads = True
    store.address = f"{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        store.go.set()
        server.shutdown()
        thread.join()
        server.server_close()
