"""What a GGUF file says about itself: metadata, tensors' places, and its tokenizer.

Format: the GGUF specification of the ggml project, versions 2 and 3, little-endian. Weights are
not read here. A file is somebody else's input: every count is checked against the file's size.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_MAX_DIMENSIONS = 4
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type

# Texts of tokens that end a turn in the chat formats of the common model families; files often
# name only one of theirs as eos.
_END_OF_TURN = frozenset(
    {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>"}
)

# Split patterns as the model families publish them in their tokenizer.json.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


class GgufError(Exception):
    """The file is not a GGUF file that can be used; the message says why and where."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    shape: tuple[int, ...]  # outermost first, as NumPy has it
    ggml_type: int
    offset: int  # in the file


@dataclass(frozen=True, slots=True)
class GgufHeader:
    path: Path
    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer out of a GGUF file. It puts BOS before a text (with `add_special_tokens`) where
    the file asks for that; chat templates write their own."""

    tokenizer: Tokenizer
    chat_template: str | None
    eos_token_ids: tuple[int, ...]  # the file's own eos first
    special_tokens: Mapping[str, str]  # bos_token, eos_token: for chat templates


class _Cursor:
    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self.at = 0

    def fail(self, what: str) -> GgufError:
        return GgufError(f"{self._path}: {what} at byte {self.at}: damaged or not a GGUF file")

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self.at:
            raise self.fail(f"the file ends before {count} more bytes")
        start, self.at = self.at, self.at + count
        return self._data[start : self.at]

    def scalar(self, code: str) -> int | float | bool:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return value  # type: ignore[no-any-return]

    def count(self, code: str = "Q") -> int:
        return int(self.scalar(code))

    def string(self) -> str:
        return self.take(self.count()).decode("utf-8", errors="replace")

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(self.count("I"), self.count())
        if kind not in _SCALARS:
            raise self.fail(f"unknown metadata type {kind}")
        return self.scalar(_SCALARS[kind])

    def _array(self, kind: int, length: int) -> list[object]:
        if length > len(self._data) - self.at:
            raise self.fail(f"array of {length} elements")
        if kind == _STRING:
            return [self.string() for _ in range(length)]
        if kind not in _SCALARS:
            raise self.fail(f"array of metadata type {kind}")
        item = struct.calcsize("<" + _SCALARS[kind])
        return list(struct.unpack(f"<{length}{_SCALARS[kind]}", self.take(item * length)))


def read_header(path: Path) -> GgufHeader:
    """Raises `GgufError`; `FileNotFoundError` for a missing file."""
    with path.open("rb") as file:
        if file.seek(0, 2) < 24:
            raise GgufError(f"{path}: too short for a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(data, path), path)


def _parse(cursor: _Cursor, path: Path) -> GgufHeader:
    if cursor.take(4) != _MAGIC:
        raise GgufError(f"{path}: not a GGUF file (no GGUF magic at its start)")
    version = cursor.count("I")
    if version not in (2, 3):
        raise GgufError(f"{path}: GGUF version {version}; versions 2 and 3 can be read")
    tensor_count, key_count = cursor.count(), cursor.count()
    metadata: dict[str, object] = {}
    for _ in range(key_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.count("I"))
    infos = [_tensor(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise GgufError(f"{path}: general.alignment is {alignment!r}")
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: TensorInfo(shape, kind, start + at) for name, shape, kind, at in infos}
    return GgufHeader(path, metadata, tensors)


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    dimensions = cursor.count("I")
    if dimensions > _MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name!r} with {dimensions} dimensions")
    shape = tuple(cursor.count() for _ in range(dimensions))[::-1]
    return name, shape, cursor.count("I"), cursor.count()


def tokenizer_from_gguf(path: Path) -> GgufTokenizer:
    """The tokenizer a GGUF file carries. Raises `GgufError` for kinds that are not supported."""
    return tokenizer_from_header(read_header(path))


def tokenizer_from_header(header: GgufHeader) -> GgufTokenizer:
    metadata = header.metadata
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise GgufError(
            f"{header.path}: tokenizer.ggml.model is {kind!r}; only byte-level BPE ('gpt2') is "
            "supported: serve this model from an engine that tokenizes by itself"
        )
    tokens = _strings(header, "tokenizer.ggml.tokens")
    merges = _strings(header, "tokenizer.ggml.merges")
    pre = str(metadata.get("tokenizer.ggml.pre", "gpt-2"))
    tokenizer = Tokenizer(_model(header.path, tokens, merges, pre in ("llama-bpe", "llama3")))
    tokenizer.pre_tokenizer = _pre_tokenizer(pre, header.path)
    tokenizer.decoder = decoders.ByteLevel()
    _add_special_tokens(tokenizer, header, tokens)
    bos = _token_id(metadata, "bos", len(tokens))
    if bos is not None and metadata.get("tokenizer.ggml.add_bos_token") is True:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]}:0 $A:0", special_tokens=[(tokens[bos], bos)]
        )
    template = metadata.get("tokenizer.chat_template")
    return GgufTokenizer(
        tokenizer=tokenizer,
        chat_template=template if isinstance(template, str) else None,
        eos_token_ids=eos_token_ids(header),
        special_tokens={
            f"{name}_token": tokens[index]
            for name in ("bos", "eos")
            if (index := _token_id(metadata, name, len(tokens))) is not None
        },
    )


def _model(path: Path, tokens: list[str], merges: list[str], whole_words: bool) -> models.BPE:
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        return models.BPE(vocabulary, pairs, ignore_merges=whole_words)
    except Exception as error:  # the library raises bare Exception
        raise GgufError(f"{path}: merges and tokens do not fit together: {error}") from error


def _strings(header: GgufHeader, key: str) -> list[str]:
    value = header.metadata.get(key)
    if not isinstance(value, list):
        raise GgufError(f"{header.path}: no {key}: the file carries no byte-level BPE tokenizer")
    return [str(item) for item in value]


def _pre_tokenizer(pre: str, path: Path) -> pre_tokenizers.PreTokenizer:
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    patterns = {"llama-bpe": _LLAMA3_SPLIT, "llama3": _LLAMA3_SPLIT, "qwen2": _QWEN2_SPLIT}
    if pre in patterns:
        split = pre_tokenizers.Split(Regex(patterns[pre]), behavior="isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, plain])
    known = ", ".join(["gpt-2", "smollm", *patterns])
    raise GgufError(f"{path}: tokenizer.ggml.pre is {pre!r}; supported: {known}")


def _add_special_tokens(tokenizer: Tokenizer, header: GgufHeader, tokens: list[str]) -> None:
    types = header.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, list):
        return
    special = [token for token, kind in zip(tokens, types, strict=False) if kind == _CONTROL]
    plain = [token for token, kind in zip(tokens, types, strict=False) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])


def _token_id(metadata: Mapping[str, object], name: str, vocabulary_size: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return value if isinstance(value, int) and 0 <= value < vocabulary_size else None


def eos_token_ids(header: GgufHeader) -> tuple[int, ...]:
    """Tokens that end an answer, the file's own eos first."""
    metadata, tokens = header.metadata, _strings(header, "tokenizer.ggml.tokens")
    ids = [_token_id(metadata, name, len(tokens)) for name in ("eos", "eot", "eom")]
    types = metadata.get("tokenizer.ggml.token_type")
    if isinstance(types, list):
        ids += [
            index
            for index, (token, kind) in enumerate(zip(tokens, types, strict=False))
            if kind == _CONTROL and token in _END_OF_TURN
        ]
    return tuple(dict.fromkeys(index for index in ids if index is not None))
