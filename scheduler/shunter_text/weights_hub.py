"""`hf://ORG/NAME[@REVISION][/FILE.gguf]` as an `Origin`: the commit's files by the hub's API."""

import json
import urllib.error
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

from shunter_text.hub import (
    HubError,
    ModelReference,
    open_hub,
    read_beginning,
    refusal,
    refusal_reason,
)
from shunter_text.model_fetch import download
from shunter_text.model_files import FetchOptions, ModelFileError
from shunter_text.weights_origin import (
    RemoteFile,
    checked_name,
    told_names,
    wanted_files,
    wanted_shards,
)

_TIMEOUT_S = 60.0
_MAX_LISTING_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class HubOrigin:
    """`revision` is the commit: a branch that moves on meanwhile mixes no files."""

    model: ModelReference
    revision: str
    files: Sequence[RemoteFile]

    def fetch(self, file: RemoteFile, part: Path, options: FetchOptions) -> None:
        pinned = ModelReference(self.model.name, self.revision)
        try:
            download(pinned.url(options.hub.endpoint, file.key), part, options, file.sha256)
        except HubError as error:
            raise ModelFileError(str(error), error.reason) from error


def hub_origin(rest: str, options: FetchOptions) -> HubOrigin:
    """Raises `ModelFileError`."""
    org, _, tail = rest.partition("/")
    name, _, file_name = tail.rstrip("/").partition("/")
    source = f"hf://{rest}"
    if file_name and not file_name.endswith(".gguf"):
        raise ModelFileError(
            f"{source}: expected hf://ORG/NAME, hf://ORG/NAME@REVISION or one .gguf file of it"
        )
    try:
        model = ModelReference.parse(f"{org}/{name}")
        listing = _listing(model, source, options)
    except HubError as error:
        raise ModelFileError(str(error), error.reason) from error
    commit, files = _parse(listing, source)
    wanted = wanted_shards(files, file_name) if file_name else wanted_files(files)
    if not wanted:
        found = told_names([f.name for f in files if f.name.endswith(".gguf")]) or "no .gguf file"
        raise ModelFileError(f"{source}: the repository has {found}", "WeightsNotFound")
    if file_name:  # beside each other, under their own names
        wanted = [replace(f, name=f.name.rpartition("/")[2]) for f in wanted]
    return HubOrigin(model, commit, wanted)


def _listing(model: ModelReference, source: str, options: FetchOptions) -> Any:
    revision = urllib.parse.quote(model.revision, safe="")
    url = f"{options.hub.endpoint}/api/models/{model.name}/revision/{revision}?blobs=true"
    try:
        with open_hub(url, options.hub, _TIMEOUT_S).response as response:
            content = read_beginning(response, _MAX_LISTING_BYTES + 1, _TIMEOUT_S)
        if len(content) > _MAX_LISTING_BYTES:
            raise ModelFileError(f"{source}: its list of files is above {_MAX_LISTING_BYTES} bytes")
        return json.loads(content)
    except urllib.error.HTTPError as error:
        with error:
            said = refusal(url, error, options.hub.remedy)
            raise ModelFileError(f"{source}: {said}", refusal_reason(error)) from error
    except (OSError, HTTPException) as error:
        raise ModelFileError(f"{source}: {url}: {error}", "WeightsUnavailable") from error
    except ValueError as error:
        raise ModelFileError(f"{source}: {url} answers with no JSON: {error}") from error


def _parse(listing: Any, source: str) -> tuple[str, list[RemoteFile]]:
    """`GET /api/models/ID/revision/REVISION?blobs=true`: the commit is `sha`; a file of Git LFS
    has its digest in `lfs`."""
    try:
        return str(listing["sha"]), [
            RemoteFile(
                name=checked_name(str(entry["rfilename"]), source),
                size=int((entry.get("lfs") or entry)["size"]),
                key=str(entry["rfilename"]),
                sha256=str((entry.get("lfs") or {}).get("sha256") or ""),
            )
            for entry in listing["siblings"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{source}: the hub's list of files is not understood: {error!r}"
        ) from error
