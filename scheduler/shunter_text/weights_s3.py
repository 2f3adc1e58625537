"""`s3://BUCKET/PREFIX` and `s3://BUCKET/KEY.gguf` as an `Origin`, on any server that speaks S3.

The environment says who asks and where, as it does for AWS's own tools: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, AWS_SKIP_SIGNATURE; without
keys a web identity, a container's or a machine's role is used.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from shunter_text.model_files import FetchOptions, ModelFileError
from shunter_text.weights_origin import RemoteFile, checked_name, shard_names, wanted_files

if TYPE_CHECKING:
    from obstore.store import S3Store

_SAID_CHARACTERS = 400
_STATUS = re.compile(r"status code: (\d{3})")
_PART_BYTES = 16 << 20  # of one request; a file is written part by part
_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
)
_CLIENT: dict[str, Any] = {
    "allow_http": True,  # AWS_ENDPOINT_URL decides
    "connect_timeout": "10s",
    "timeout": "120s",  # of one part
}


@dataclass(frozen=True, slots=True)
class S3Origin:
    store: "S3Store"
    source: str
    revision: str
    files: Sequence[RemoteFile]

    def fetch(self, file: RemoteFile, part: Path, options: FetchOptions) -> None:
        """What is in `part` belongs to this revision: the store of weights sees to it."""
        import obstore
        from obstore.exceptions import BaseError

        done = part.stat().st_size // _PART_BYTES * _PART_BYTES if part.is_file() else 0
        size = file.size or 0
        with part.open("r+b" if done else "wb") as out:
            out.seek(done)
            while done < size:
                end = min(done + _PART_BYTES, size)
                asked: dict[str, Any] = {"range": (done, end)}
                if file.etag:
                    asked["if_match"] = file.etag
                try:
                    content = obstore.get(self.store, file.key, options=asked).bytes()  # type: ignore[arg-type]
                except (BaseError, FileNotFoundError, PermissionError) as error:
                    raise _failure(self.source, error) from error
                out.write(content)
                done = end
                options.progress(f"downloading {file.name}", done, size)


def s3_origin(rest: str, options: FetchOptions) -> S3Origin:
    """Lists what is there. Raises `ModelFileError`."""
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as error:
        raise ModelFileError("s3:// needs obstore: pip install 'shunter[s3]'") from error
    source = f"s3://{rest}"
    bucket, _, path = rest.strip("/").partition("/")
    try:
        store = S3Store(bucket, config=_trimmed(), client_options=_CLIENT)  # type: ignore[arg-type]
        if path.endswith(".gguf"):
            found = [obstore.head(store, key) for key in shard_names(path)]
        else:
            found = [one for page in obstore.list(store, prefix=path or None) for one in page]
    except (BaseError, FileNotFoundError, PermissionError) as error:
        raise _failure(source, error) from error
    files = _files(found, path, source)
    if not files:
        raise ModelFileError(f"{source}: nothing is there", "WeightsNotFound")
    return S3Origin(store, source, _revision(files), files)


def _trimmed() -> dict[str, str]:
    """Variables that came with the line end of a file, which a request cannot carry."""
    values = {name: os.environ.get(name, "") for name in _VARIABLES}
    return {name: value.strip() for name, value in values.items() if value != value.strip()}


def _files(found: Sequence[Any], path: str, source: str) -> list[RemoteFile]:
    """Named by what follows the prefix; files that were named themselves keep their last part."""
    folder = path.rpartition("/")[0] if path.endswith(".gguf") else path
    folders = {
        folder,
        *(str(parent) for one in found for parent in PurePosixPath(one["path"]).parents),
    }
    files = []
    for one in found:
        key = str(one["path"])
        if one["size"] == 0 and key in folders:
            continue  # a marker of a folder, whose key ends in a slash that obstore leaves out
        name = checked_name(key[len(folder) :].strip("/"), source)
        files.append(RemoteFile(name, one["size"], key, etag=one["e_tag"] or ""))
    return wanted_files(files)


def _revision(files: Sequence[RemoteFile]) -> str:
    listing = "\n".join(sorted(f"{f.key} {f.size} {f.etag}" for f in files))
    return hashlib.sha256(listing.encode()).hexdigest()


def _failure(source: str, error: Exception) -> ModelFileError:
    """The request and S3's answer; not the library's debug text, which holds headers."""
    from obstore import exceptions as s3

    said = " ".join(str(error).partition("Debug source")[0].split())[:_SAID_CHARACTERS]
    found = _STATUS.search(said)
    status = int(found[1]) if found else 0
    denied = (PermissionError, s3.PermissionDeniedError, s3.UnauthenticatedError)
    if status in (401, 403) or isinstance(error, denied):
        remedy = "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY that may list and read it"
        return ModelFileError(f"{source}: {remedy}: {said}", "WeightsUnauthorized")
    if status == 404 or isinstance(error, FileNotFoundError | s3.NotFoundError):
        return ModelFileError(f"{source} is not there: {said}", "WeightsNotFound")
    if status == 412 or isinstance(error, s3.PreconditionError):
        return ModelFileError(f"{source} changes while it is read: {said}", "WeightsUnavailable")
    return ModelFileError(f"{source}: {said}", "WeightsUnavailable")
