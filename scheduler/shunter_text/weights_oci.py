"""`oci://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST][/FILE.gguf]` as an `Origin`. A digest wins.

Artifacts whose layers are files, as `oras push` and ModelPack's raw layers make them: the title or
the file path of a layer names its file. By the OCI distribution specification 1.1: a manifest, a
token where one is asked for, blobs by digest. OCI_USERNAME and OCI_PASSWORD give access.
"""

import base64
import hashlib
import json
import re
import urllib.error
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

from shunter_text.hub import HubError, HubOptions, open_hub, read_beginning, refusal, refusal_reason
from shunter_text.model_fetch import download
from shunter_text.model_files import FetchOptions, ModelFileError, OciAccess
from shunter_text.weights_origin import (
    RemoteFile,
    checked_name,
    told_names,
    wanted_files,
    wanted_shards,
)

_TIMEOUT_S = 60.0
_MAX_MANIFEST_BYTES = 4 << 20  # what registries accept, by the specification
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d+)?)/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*?)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
    r"(?:/(?P<file>[^/:@]+\.gguf))?"
)
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_NAMES = ("org.cncf.model.filepath", "org.opencontainers.image.title")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_LOOPBACK = ("127.0.0.1", "localhost")
_HOSTS = {"docker.io": "registry-1.docker.io"}
_REMEDY = "give OCI_USERNAME and OCI_PASSWORD that may pull it"


@dataclass(frozen=True, slots=True)
class _Repository:
    source: str
    base: str  # https://HOST/v2/NAME
    access: OciAccess

    def authorised(self) -> HubOptions:
        """With what the registry asks for. Tokens live for minutes: one is had for each file."""
        options = HubOptions(remedy=_REMEDY)
        probe = f"{self.base.partition('/v2/')[0]}/v2/"
        try:
            open_hub(probe, options, _TIMEOUT_S).response.close()
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 401:
                    raise
                challenge = error.headers.get("WWW-Authenticate") or ""
            return self._answer(challenge, options)
        return options

    def _answer(self, challenge: str, options: HubOptions) -> HubOptions:
        pair = f"{self.access.username}:{self.access.password}"
        basic = base64.b64encode(pair.encode()).decode() if self.access.username else ""
        known = replace(options, token=basic, token_type="Basic")
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() != "bearer":
            return known
        asked = dict(_CHALLENGE.findall(rest))
        if self.base.startswith("https://") and not asked.get("realm", "").startswith("https://"):
            raise ModelFileError(f"{self.source}: the registry wants credentials sent in the clear")
        name = self.base.partition("/v2/")[2]
        query = {"service": asked.get("service", ""), "scope": f"repository:{name}:pull"}
        url = f"{asked.get('realm', '')}?{urllib.parse.urlencode(query)}"
        answer = json.loads(self._get(url, known, "application/json"))
        return replace(options, token=answer.get("token") or answer["access_token"])

    def manifest(self, reference: str) -> bytes:
        """Raises `ModelFileError` where `reference` is a digest, and not of what comes."""
        accept = f"{_MANIFEST}, {_INDEX}, {_DOCKER}"
        content = self._get(f"{self.base}/manifests/{reference}", self.authorised(), accept)
        if _DIGEST.fullmatch(reference) and reference != _digest(content):
            raise ModelFileError(
                f"{self.source}: for {reference} the registry gives a manifest with another digest",
                "WeightsCorrupt",
            )
        return content

    def _get(self, url: str, options: HubOptions, accept: str) -> bytes:
        with open_hub(url, options, _TIMEOUT_S, {"Accept": accept}).response as response:
            content = read_beginning(response, _MAX_MANIFEST_BYTES + 1, _TIMEOUT_S)
        if len(content) > _MAX_MANIFEST_BYTES:
            raise ModelFileError(f"{self.source}: {url} is above {_MAX_MANIFEST_BYTES} bytes")
        return content


@dataclass(frozen=True, slots=True)
class OciOrigin:
    """`revision` is the manifest's digest."""

    repository: _Repository
    revision: str
    files: Sequence[RemoteFile]

    def fetch(self, file: RemoteFile, part: Path, options: FetchOptions) -> None:
        """A token that ends on the way is replaced as long as each brings the file further."""
        while True:
            had = _size(part)
            try:
                return self._fetch(file, part, options)
            except ModelFileError as error:
                if error.reason != "WeightsUnauthorized" or _size(part) <= had:
                    raise

    def _fetch(self, file: RemoteFile, part: Path, options: FetchOptions) -> None:
        with _told(self.repository.source):
            hub = self.repository.authorised()
        try:
            url = f"{self.repository.base}/blobs/{file.key}"
            download(url, part, replace(options, hub=hub), file.sha256)
        except HubError as error:
            raise ModelFileError(str(error), error.reason) from error


def oci_origin(rest: str, options: FetchOptions) -> OciOrigin:
    """Raises `ModelFileError`."""
    source = f"oci://{rest}"
    found = _REFERENCE.fullmatch(rest)
    if found is None:
        raise ModelFileError(f"{source}: expected oci://REGISTRY/REPOSITORY:TAG or one .gguf of it")
    repository = _Repository(source, _base(found, options.oci), options.oci)
    with _told(source):
        content = repository.manifest(found["digest"] or found["tag"] or "latest")
        manifest = json.loads(content)
        if chosen := _of_index(manifest, source):
            content = repository.manifest(chosen)
            manifest = json.loads(content)
        files = _files(manifest, source)
    wanted = wanted_shards(files, found["file"]) if found["file"] else wanted_files(files)
    if not wanted:
        names = told_names([file.name for file in files]) or "no files"
        raise ModelFileError(f"{source}: the artifact has {names}", "WeightsNotFound")
    return OciOrigin(repository, _digest(content), wanted)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _base(found: re.Match[str], access: OciAccess) -> str:
    host = found["host"]
    plain = access.plain_http or host.partition(":")[0] in _LOOPBACK
    return f"{'http' if plain else 'https'}://{_HOSTS.get(host, host)}/v2/{found['name']}"


def _of_index(manifest: Any, source: str) -> str | None:
    """Weights are the same on every platform, so any manifest of an index will do."""
    listed = manifest.get("manifests") or ()
    return next((_checked_digest(entry["digest"], source) for entry in listed), None)


def _files(manifest: Any, source: str) -> list[RemoteFile]:
    files = []
    for layer in manifest["layers"]:
        notes = layer.get("annotations") or {}
        name = next((notes[key] for key in _NAMES if notes.get(key)), "")
        if not name or re.search(r"[.+]tar\b|\btar\b", layer.get("mediaType", "")):
            raise ModelFileError(
                f"{source}: layer {layer['digest']} ({layer.get('mediaType')}) is not one named "
                "file: push the files as `oras push` does; images and archives are not unpacked"
            )
        digest = _checked_digest(layer["digest"], source)
        files.append(
            RemoteFile(
                name=checked_name(str(name), source),
                size=int(layer["size"]),
                key=digest,
                sha256=digest.partition(":")[2],
            )
        )
    return files


def _checked_digest(digest: Any, source: str) -> str:
    if not _DIGEST.fullmatch(str(digest)):
        raise ModelFileError(f"{source}: {digest} is no sha256 digest")
    return str(digest)


@contextmanager
def _told(source: str) -> Iterator[None]:
    """Failures of calls that write no file, as `ModelFileError`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            url = (error.url or source).partition("?")[0]  # what follows may be a signature
            said = refusal(url, error, _REMEDY)
            raise ModelFileError(f"{source}: {said}", refusal_reason(error)) from error
    except HubError as error:
        raise ModelFileError(f"{source}: {error}", error.reason) from error
    except (OSError, HTTPException) as error:
        raise ModelFileError(f"{source}: {error}", "WeightsUnavailable") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelFileError(f"{source}: the registry's answer is not understood: {error!r}") from (
            error
        )
