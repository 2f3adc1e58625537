"""Digests that tell models, settings and tokenizers apart without reading all of their weights."""

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_SAMPLE_BYTES = 64 << 10
_SAMPLES = 8  # of a file: two fine-tunings of one model differ nearly everywhere


def weights_digest(model: str, revision: str) -> str:
    """Of `config.json`, and of names, sizes and samples of the files with weights. Of a model that
    is no folder here, of its name and revision. Raises `OSError`."""
    digest = blake2b(digest_size=16)
    folder = Path(model)
    if not folder.is_dir():
        digest.update(f"{model}\0{revision}".encode())
        return digest.hexdigest()
    for file in [folder / "config.json", *_weight_files(folder)]:
        if file.is_file():
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            for sample in _samples(file):
                digest.update(sample)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: str) -> str:
    """Of `tokenizer.json`, else of the name. Raises `OSError`."""
    file = Path(tokenizer) / "tokenizer.json"
    data = file.read_bytes() if file.is_file() else tokenizer.encode()
    return blake2b(data, digest_size=16).hexdigest()


def settings_digest(settings: object) -> str:
    """Of nested lists and dicts, whatever their order; of other values as they are printed."""
    data = json.dumps(settings, sort_keys=True, default=str).encode()
    return blake2b(data, digest_size=16).hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))


def _samples(path: Path) -> Iterator[bytes]:
    """Evenly over the file, its head and its end among them."""
    last = max(0, path.stat().st_size - _SAMPLE_BYTES)
    with path.open("rb") as file:
        for offset in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
            file.seek(offset)
            yield file.read(_SAMPLE_BYTES)
