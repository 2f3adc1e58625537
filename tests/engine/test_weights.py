import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from shunter_engine.numpy_products import F32
from shunter_engine.numpy_testing import TinyShape, write_tiny_gguf
from shunter_engine.weights import load_weights
from shunter_text.gguf import GgufError
from shunter_text.model_files import FetchOptions, ModelFileError


def mapped_file(array: F32) -> str:
    base = array.base
    while not isinstance(base, np.memmap):
        assert isinstance(base, np.ndarray)
        base = base.base
    return str(base.filename)


def test_a_second_load_maps_the_same_file(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    told: list[tuple[int, int | None]] = []
    options = FetchOptions(
        cache=tmp_path / "cache", progress=lambda what, done, total: told.append((done, total))
    )
    first = load_weights(path, options)
    assert told[-1] == (len(told), len(told))
    told.clear()
    second = load_weights(path, options)
    assert not told
    first_file, second_file = mapped_file(first.head.blocks), mapped_file(second.head.blocks)
    assert first_file == second_file
    assert np.array_equal(first.layers[1].down.blocks, second.layers[1].down.blocks)
    assert not first.head.blocks.flags.writeable
    assert [entry.suffix for entry in sorted((tmp_path / "cache/weights").iterdir())] == [
        ".bin",
        ".lock",
    ]


def test_another_file_of_the_same_name_is_not_mistaken(tmp_path: Path) -> None:
    options = FetchOptions(cache=tmp_path / "cache")
    first = load_weights(write_tiny_gguf(tmp_path / "tiny.gguf", seed=1), options)
    second = load_weights(write_tiny_gguf(tmp_path / "tiny.gguf", seed=2), options)
    assert not np.array_equal(first.embedding.blocks, second.embedding.blocks)


def test_two_that_start_at_once_convert_once(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    begun: list[int] = []
    both_here = threading.Barrier(2)

    def progress(what: str, done: int, total: int | None) -> None:
        if what.startswith("dequantising") and done == 1:
            begun.append(threading.get_ident())

    def load() -> None:
        both_here.wait(10)
        load_weights(path, FetchOptions(cache=tmp_path / "cache", progress=progress))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(begun) == 1


def test_an_interrupted_conversion_leaves_nothing_that_counts(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    options = FetchOptions(cache=tmp_path / "cache")

    def interrupt(what: str, done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_weights(path, replace(options, progress=interrupt))
    whole = load_weights(path, options)
    clean = load_weights(path, FetchOptions(cache=tmp_path / "other"))
    assert np.array_equal(whole.layers[1].down.blocks, clean.layers[1].down.blocks)


def test_a_cut_cache_file_is_written_again(tmp_path: Path) -> None:
    path, options = write_tiny_gguf(tmp_path / "tiny.gguf"), FetchOptions(cache=tmp_path)
    expected = load_weights(path, options).layers[1].down.blocks.copy()
    (cached,) = (tmp_path / "weights").glob("*.bin")
    os.truncate(cached, 1000)
    assert np.array_equal(load_weights(path, options).layers[1].down.blocks, expected)


def test_a_full_disk_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(ModelFileError, match=r"No space left.*set SHUNTER_CACHE"):
        load_weights(path, FetchOptions(cache=tmp_path))
    assert not list((tmp_path / "weights").glob("*.[bp]*"))


def test_quantised_weights_are_dequantised(tmp_path: Path) -> None:
    """The same model with its matrices in Q8_0 is the same up to that format's error."""
    plain = write_tiny_gguf(tmp_path / "plain.gguf", shape=TinyShape(tied=False))
    packed = tmp_path / "packed.gguf"
    _requantise(plain, packed)
    assert packed.stat().st_size < plain.stat().st_size / 2
    options = FetchOptions(cache=tmp_path / "cache")
    exact, rounded = load_weights(plain, options), load_weights(packed, options)
    assert not np.array_equal(exact.head.blocks, rounded.head.blocks)
    np.testing.assert_allclose(
        rounded.head.blocks, exact.head.blocks, atol=np.abs(exact.head.blocks).max() / 127
    )


def _requantise(source: Path, target: Path) -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(str(target), "llama")
    for name, item in reader.fields.items():
        if name.startswith("llama."):
            writer.add_key_value(name, item.contents(), item.types[0])
    kind = gguf.GGMLQuantizationType.Q8_0
    for tensor in reader.tensors:
        values = tensor.data.reshape(tensor.shape[::-1])
        if values.ndim == 2:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(GgufError, match=r"tiny\.gguf: cannot read tensor"):
        load_weights(path, FetchOptions(cache=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("general.architecture", "qwen2", "runs 'llama' models only"),
        ("llama.rope.scaling.type", "yarn", "rope scaling 'yarn'"),
        ("llama.expert_count", 8, "not a plain Llama"),
        ("llama.block_count", 0, "llama.block_count is 0"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(
    tmp_path: Path, key: str, value: object, says: str
) -> None:
    from shunter_engine.weights import shape_of
    from shunter_text.gguf import read_header

    header = read_header(write_tiny_gguf(tmp_path / "tiny.gguf"))
    with pytest.raises(GgufError, match=says):
        shape_of(replace(header, metadata={**header.metadata, key: value}))
