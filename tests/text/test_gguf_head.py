"""A tokenizer out of a hub's GGUF file, of which only the beginning is fetched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import FakeHub, serving
from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_text import gguf_head
from shunter_text.hub import HubOptions
from shunter_text.model_files import FetchOptions, model_file
from shunter_text.sources import TokenizerUnavailable, load_tokenizer

SOURCE = "hf://org/name/m.gguf"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    content = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    store = FakeHub(files={"m.gguf": content + bytes(1 << 20)})  # more weights
    with serving(store):
        yield store


def options_of(hub: FakeHub, root: Path, offline: bool = False) -> FetchOptions:
    return FetchOptions(cache=root / "cache", hub=HubOptions(endpoint=hub.url, offline=offline))


def held(options: FetchOptions) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in options.cache.rglob("*") if p.is_file()}


def test_only_the_beginning_is_fetched_and_only_once(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_head, "_FIRST_BYTES", 1 << 10)  # too little for the header
    options = options_of(hub, tmp_path)
    tokenizer = load_tokenizer(SOURCE, options)
    whole = load_tokenizer(f"file://{tmp_path}/tiny.gguf", options)
    assert tokenizer is not None and whole is not None
    assert tokenizer.encode("the thing") == whole.encode("the thing")
    assert hub.downloads["m.gguf"] > 1, "it asked for more until the header was whole"
    (size,) = held(options).values()
    assert size < len(hub.files["m.gguf"]) / 2
    hub.downloads.clear()
    assert load_tokenizer(SOURCE, options) is not None and not hub.downloads


def test_a_whole_file_of_the_cache_is_used(hub: FakeHub, tmp_path: Path) -> None:
    options = options_of(hub, tmp_path)
    model_file(SOURCE, options)
    hub.downloads.clear()
    assert load_tokenizer(SOURCE, options) is not None and not hub.downloads


def test_what_is_no_gguf_is_not_asked_for_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["m.gguf"] = b"<html>" * 1000
    with pytest.raises(TokenizerUnavailable, match="no GGUF magic"):
        load_tokenizer(SOURCE, options_of(hub, tmp_path))
    assert hub.downloads == {"m.gguf": 1}
    assert held(options_of(hub, tmp_path)) == {}


def test_what_may_not_be_read(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_other"
    with pytest.raises(TokenizerUnavailable, match="set HF_TOKEN"):
        load_tokenizer(SOURCE, options_of(hub, tmp_path))
    with pytest.raises(TokenizerUnavailable, match="HF_HUB_OFFLINE"):
        load_tokenizer(SOURCE, options_of(hub, tmp_path, offline=True))
    with pytest.raises(TokenizerUnavailable, match="expected hf://ORG/NAME"):
        load_tokenizer("hf://m.gguf", options_of(hub, tmp_path))
