"""The beginning of a hub's GGUF file, which holds its tokenizer: a gateway does not download 40 GB
of weights for it."""

import urllib.error
from http.client import HTTPException
from pathlib import Path

from shunter_text.gguf import GgufError, read_header
from shunter_text.hub import (
    HubError,
    ModelReference,
    open_hub,
    read_beginning,
    refusal,
    refusal_reason,
    write_atomically,
)
from shunter_text.model_files import FetchOptions, ModelFileError, cached_file

_FIRST_BYTES = 16 << 20  # the headers of Llama 3 and Qwen 2.5 take 6 to 8 MB
_MOST_BYTES = 64 << 20  # it is read into memory, and a damaged file is tried again
_TIMEOUT_S = 60.0


def gguf_head(source: str, options: FetchOptions) -> Path:
    """The whole file of `hf://ORG/NAME/FILE.gguf` where it is in the cache, else one that is cut
    behind its header. Raises `ModelFileError`, `GgufError`."""
    whole = cached_file(source, options)
    if whole.is_file():
        return whole
    head = options.cache / "heads" / whole.relative_to(options.cache / "models")
    if head.is_file():
        return head
    if options.hub.offline:
        raise ModelFileError(f"{source} is not in {options.cache} and HF_HUB_OFFLINE is set")
    try:
        _fetch(source, head, options)
    except HubError as error:
        raise ModelFileError(f"{source}: {error}", error.reason) from error
    return head


def _fetch(source: str, head: Path, options: FetchOptions) -> None:
    """Twice as much at each try, since only reading it tells where the header ends."""
    count = _FIRST_BYTES
    while True:
        content = _beginning(source, count, options)
        write_atomically(head, content)
        try:
            read_header(head)
        except GgufError:
            head.unlink(missing_ok=True)
            if len(content) < count or content[:4] != b"GGUF" or 2 * count > _MOST_BYTES:
                raise
            count *= 2
        else:
            return


def _beginning(source: str, count: int, options: FetchOptions) -> bytes:
    org, _, rest = source.partition("://")[2].partition("/")
    name, _, file_name = rest.partition("/")
    url = ModelReference.parse(f"{org}/{name}").url(options.hub.endpoint, file_name)
    ranges = {"Range": f"bytes=0-{count - 1}"}
    try:
        with open_hub(url, options.hub, _TIMEOUT_S, ranges).response as response:
            # A server may ignore the range.
            return read_beginning(response, count, options.hub.deadline_s)
    except urllib.error.HTTPError as error:
        with error:
            said = refusal(url, error, options.hub.remedy)
            raise ModelFileError(said, refusal_reason(error)) from error
    except (OSError, HTTPException) as error:
        raise ModelFileError(f"{url}: {error}", "WeightsUnavailable") from error
