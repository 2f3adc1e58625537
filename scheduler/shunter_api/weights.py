"""Where a model's weights come from, where engines find them, and why they cannot be had. Pure."""

import hashlib
import re
from typing import Literal, get_args

# Fetched into a folder before an engine starts; other sources are there already.
FETCHED_SCHEMES = ("hf", "s3", "oci", "pypi")
# Those whose Secret `model.credentialsSecretRef` may name.
CREDENTIAL_SCHEMES = ("hf", "s3", "oci")

# A claim of the pool's namespace and a path in it, no part of which begins with a dot.
PVC_SOURCE = r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/.\s][^/\s]*)*$"
# A repository, a branch, tag or commit of it, and one file, no part of which begins with a dot.
HF_SOURCE = (
    r"^hf://[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9_.-]*)?"
    r"((/[^/.\s?#][^/\s?#]*)*/[^/.\s?#][^/\s?#]*\.gguf)?$"
)
OCI_SOURCE = (
    r"^oci://[A-Za-z0-9.-]+(:[0-9]+)?/[a-z0-9]+([._/-]+[a-z0-9]+)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?(/[^/:@.\s][^/:@\s]*\.gguf)?$"
)
S3_SOURCE = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/.\s][^/\s]*)*/?$"

# The reasons that a fetch ends with, as conditions show them.
WeightsReason = Literal[
    "WeightsUnauthorized",
    "WeightsNotFound",
    "WeightsUnavailable",
    "WeightsCorrupt",
    "WeightsVolumeFull",
    "WeightsFetchFailed",
]
WEIGHTS_REASONS: tuple[WeightsReason, ...] = get_args(WeightsReason)

_DIGEST_CHARACTERS = 10
_READABLE_CHARACTERS = 50
_NOT_READABLE = re.compile(r"[^A-Za-z0-9.]+")


def scheme_of(source: str) -> str:
    return source.partition("://")[0]


def names_file(source: str) -> bool:
    """Whether a source is one GGUF file, not a folder of files."""
    return source.endswith(".gguf")


def folder_name(source: str) -> str:
    """The folder of a fetched source, unique and readable: `Llama-3.1-8B-main-1f0a9c2b7e`."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    last = source.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    readable = _NOT_READABLE.sub("-", last)[:_READABLE_CHARACTERS].strip("-.")
    return f"{readable or 'model'}-{digest}"


def fetched_path(source: str) -> str:
    """What an engine opens, below the root of fetched weights: the folder, or its GGUF file."""
    folder = folder_name(source)
    return f"{folder}/{source.rpartition('/')[2]}" if names_file(source) else folder


def claim_and_path(source: str) -> tuple[str, str]:
    """Of `pvc://CLAIM/PATH`; the path is empty for the whole volume."""
    claim, _, path = source.partition("://")[2].partition("/")
    return claim, path
