"""Folders of fetched weights: readable, safe, and one for each source."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.weights import (
    HF_SOURCE,
    OCI_SOURCE,
    PVC_SOURCE,
    S3_SOURCE,
    claim_and_path,
    fetched_path,
    folder_name,
)


@pytest.mark.parametrize(
    ("source", "readable"),
    [
        ("hf://meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("hf://meta-llama/Llama-3.1-8B@main", "Llama-3.1-8B-main"),
        ("hf://org/name/Q4_K_M.gguf", "Q4-K-M"),
        ("s3://bucket/models/llama/", "llama"),
        ("s3://bucket/..", "model"),
    ],
)
def test_a_folder_says_what_it_holds(source: str, readable: str) -> None:
    assert re.fullmatch(re.escape(readable) + "-[0-9a-f]{10}", folder_name(source))


@given(st.text(min_size=1))
def test_a_folder_is_one_safe_name(rest: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", folder_name(f"hf://{rest}"))
    assert len(folder_name(f"hf://{rest}")) <= 61


@given(st.lists(st.text(min_size=1), min_size=2, max_size=6, unique=True))
def test_two_sources_never_share_a_folder(rests: list[str]) -> None:
    assert len({folder_name(f"hf://{rest}") for rest in rests}) == len(rests)


def test_an_engine_opens_the_folder_or_its_one_file() -> None:
    assert fetched_path("hf://org/name") == folder_name("hf://org/name")
    one = "hf://org/name/sub/m.gguf"
    assert fetched_path(one) == f"{folder_name(one)}/m.gguf"


@pytest.mark.parametrize(
    ("source", "claim"),
    [("pvc://weights", ("weights", "")), ("pvc://weights/a/b.gguf", ("weights", "a/b.gguf"))],
)
def test_a_claim_and_its_path(source: str, claim: tuple[str, str]) -> None:
    assert re.search(PVC_SOURCE, source) and claim_and_path(source) == claim


@pytest.mark.parametrize("source", ["pvc://", "pvc://W", "pvc://w/../x", "pvc://w//x", "pvc://w/"])
def test_what_is_no_path_in_a_claim(source: str) -> None:
    assert re.search(PVC_SOURCE, source) is None


@pytest.mark.parametrize("source", ["s3://", "s3://b", "s3://Bucket/x", "s3://bucket/../x"])
def test_what_is_no_place_in_a_bucket(source: str) -> None:
    assert re.search(S3_SOURCE, source) is None
    assert re.search(S3_SOURCE, "s3://bucket/a/b.gguf")


@pytest.mark.parametrize(
    ("pattern", "source", "fits"),
    [
        (HF_SOURCE, "hf://org/name", True),
        (HF_SOURCE, "hf://org/name@main/q4/m-00001-of-00002.gguf", True),
        (HF_SOURCE, "hf://gpt2", False),
        (HF_SOURCE, "hf://org/name/", False),
        (HF_SOURCE, "hf://org/name/folder", False),
        (HF_SOURCE, "hf://org/name@refs/pr/1", False),
        (HF_SOURCE, "hf://org/name/../m.gguf", False),
        (HF_SOURCE, "hf://org/name/m.gguf?download=true", False),
        (OCI_SOURCE, "oci://reg.example:5000/org/model", True),
        (OCI_SOURCE, "oci://ghcr.io/org/model:v1/m.gguf", True),
        (OCI_SOURCE, f"oci://ghcr.io/org/model:v1@sha256:{'a' * 64}", True),
        (OCI_SOURCE, "oci://ghcr.io/org/model@sha256:abc", False),
        (OCI_SOURCE, "oci://ghcr.io/Org/model:v1", False),
        (OCI_SOURCE, "oci://ghcr.io/org/model:v1/folder/m.gguf", False),
    ],
)
def test_a_source_that_cannot_be_fetched_is_seen_before(
    pattern: str, source: str, fits: bool
) -> None:
    assert (re.search(pattern, source) is not None) == fits
