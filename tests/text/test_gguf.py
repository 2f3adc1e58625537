import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_engine.numpy_testing import CHAT_TEMPLATE, tiny_vocabulary, write_tiny_gguf
from shunter_text.gguf import (
    GgufError,
    GgufHeader,
    read_header,
    tokenizer_from_gguf,
    tokenizer_from_header,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def header(path: Path) -> GgufHeader:
    return read_header(path)


def changed(header: GgufHeader, metadata: Mapping[str, object]) -> GgufHeader:
    return replace(header, metadata={**header.metadata, **metadata})


def test_metadata_and_tensors(header: GgufHeader) -> None:
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert header.tensors["blk.1.ffn_down.weight"].shape == (64, 96)
    embedding = header.tensors["token_embd.weight"]
    assert (embedding.shape, embedding.offset % 32) == ((len(tiny_vocabulary()), 64), 0)


def test_the_tokenizer_of_a_file(path: Path) -> None:
    found = tokenizer_from_gguf(path)
    tokens = tiny_vocabulary()
    encoding = found.tokenizer.encode("the<|im_end|> 12")
    assert encoding.tokens == ["the", "<|im_end|>", "Ġ", "1", "2"]
    assert encoding.ids == [tokens.index(token) for token in encoding.tokens]
    assert found.eos_token_ids == (2, 0)  # the file's own first
    assert found.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert found.chat_template == CHAT_TEMPLATE


@given(st.text())
def test_text_survives(path: Path, text: str) -> None:
    tokenizer = tokenizer_from_gguf(path).tokenizer
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["Ġ1234", "Ġthe", "'ll"]),
        ("smollm", ["Ġ", "1", "2", "3", "4", "Ġthe", "'ll"]),
        ("llama-bpe", ["Ġ", "123", "4", "Ġthe", "'ll"]),
        ("qwen2", ["Ġ", "1", "2", "3", "4", "Ġthe", "'ll"]),
    ],
)
def test_how_text_is_split(header: GgufHeader, pre: str, pieces: list[str]) -> None:
    tokenizer = tokenizer_from_header(changed(header, {"tokenizer.ggml.pre": pre})).tokenizer
    assert tokenizer.pre_tokenizer is not None
    assert [p for p, _ in tokenizer.pre_tokenizer.pre_tokenize_str(" 1234 the'll")] == pieces


def test_bos_where_the_file_asks_for_it(header: GgufHeader) -> None:
    asked = tokenizer_from_header(changed(header, {"tokenizer.ggml.add_bos_token": True}))
    assert asked.tokenizer.encode("the").ids[0] == 1
    assert asked.tokenizer.encode("the", add_special_tokens=False).ids[0] != 1


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"tokenizer.ggml.model": "llama"}, "only byte-level BPE"),
        ({"tokenizer.ggml.pre": "viking"}, "'viking'; supported: gpt-2, smollm, llama-bpe"),
        ({"tokenizer.ggml.merges": None}, "no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["never heard"]}, "merges and tokens do not fit together"),
        ({"tokenizer.ggml.merges": ["one-word"]}, "merges and tokens do not fit together"),
    ],
)
def test_tokenizers_of_other_kinds_are_refused(
    header: GgufHeader, metadata: dict[str, object], says: str
) -> None:
    with pytest.raises(GgufError, match=says):
        tokenizer_from_header(changed(header, metadata))


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    short, other, new = tmp_path / "short", tmp_path / "other", tmp_path / "new"
    short.write_bytes(b"GGUF")
    other.write_bytes(b"PK\3\4" * 10)
    new.write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 0, 0))
    for file, says in ((short, "too short"), (other, "no GGUF magic"), (new, "version 9")):
        with pytest.raises(GgufError, match=says):
            read_header(file)
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none")


@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_but_nothing_else(
    path: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut anywhere, and eight bytes overwritten anywhere: no hang, no crash, no huge allocation."""
    content = bytearray(path.read_bytes()[:12000])
    del content[data.draw(st.integers(24, len(content))) :]
    at = data.draw(st.integers(0, len(content) - 8))
    content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    damaged = tmp_path_factory.getbasetemp() / f"damaged-{os.getpid()}.gguf"
    damaged.write_bytes(content)
    try:
        tokenizer_from_gguf(damaged)
    except GgufError as error:
        assert str(damaged) in str(error)
