"""Token ids to text, one token at a time, never splitting a character.

Two decoders with one face. Byte-level vocabularies (GPT-2's scheme: Llama 3, Qwen, SmolLM, ...) are
decoded by a table of bytes and an incremental UTF-8 decoder, exactly. All others (SentencePiece
style, with spaces stripped and byte fallback) decode a sliding window and emit what it gained.
"""

import codecs
import json
from collections.abc import Sequence
from typing import Protocol

import msgspec
import tokenizers

json_encode = msgspec.json.Encoder().encode
_REPLACEMENT = "\ufffd"
# A character has at most four bytes, so text that still ends in U+FFFD after this many tokens
# holds bytes that no later token can complete.
_LONGEST_CHARACTER_TOKENS = 4
_WINDOW_TOKENS = 12
_MAX_ID_DIGITS = 10  # of uint32
_LONGEST_BYTE_RUN = 512  # how far back a run of byte tokens is followed


class StreamDecoder(Protocol):
    """Text of a growing sequence. Not thread safe; one per stream."""

    def step(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character. Ends the stream."""


class TokenBytes(dict[int, bytes]):
    """The bytes of each token of a byte-level vocabulary, looked up once per id."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        super().__init__()
        self.json_texts = JsonTexts(self)
        self._tokenizer = tokenizer
        self._bytes_of_char = _bytes_of_char()
        self._special = {
            id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }

    def __missing__(self, token_id: int) -> bytes:
        """Special tokens and unknown ids have no text; the latter are not remembered either."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        spelled = b"" if token_id in self._special else self._spelled(token)
        self[token_id] = spelled
        return spelled

    def _spelled(self, token: str) -> bytes:
        try:
            return bytes(map(self._bytes_of_char.__getitem__, token))
        except KeyError:  # an added token is spelled as it is
            return token.encode()


class JsonTexts(dict[bytes, tuple[int, bytes] | None]):
    """By an id's decimal digits: the id and its text as a JSON string. None for tokens that have no
    text or only part of a character, and for what is no id in its shortest form."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        super().__init__()
        self._token_bytes = token_bytes

    def __missing__(self, digits: bytes) -> tuple[int, bytes] | None:
        """What no token has is not remembered."""
        if not digits.isdigit() or len(digits) > _MAX_ID_DIGITS or b"%d" % int(digits) != digits:
            return None
        token_id = int(digits)
        data = self._token_bytes[token_id] if token_id < 1 << 32 else b""
        if not data:
            return None
        try:
            self[digits] = token_id, json_encode(data.decode())
        except UnicodeDecodeError:
            self[digits] = None
        return self[digits]


class ByteLevelDecoder:
    """`StreamDecoder` for byte-level vocabularies: about a microsecond per token."""

    def __init__(self, token_bytes: TokenBytes, context_ids: Sequence[int] = ()) -> None:
        self._token_bytes = token_bytes
        self.json_texts = token_bytes.json_texts  # these need no `step` while none is unfinished
        self.unfinished = b""  # of a character whose other bytes come with the next tokens
        # Enough context to know the bytes of an unfinished character at its end.
        tail = b""
        for token_id in reversed(context_ids):
            tail = token_bytes[token_id] + tail
            if len(tail) >= _LONGEST_CHARACTER_TOKENS:
                break
        self._decode(tail)

    def step(self, token_id: int) -> str:
        data = self._token_bytes[token_id]
        if not self.unfinished and data.isascii():
            return data.decode("ascii")
        return self._decode(data)

    def flush(self) -> str:
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, final: bool = False) -> str:
        data = self.unfinished + data
        text, used = codecs.utf_8_decode(data, "replace", final)
        self.unfinished = data[used:]
        return text


class WindowDecoder:
    """`StreamDecoder` for any tokenizer: decodes the newest tokens with those before and emits the
    gain. The window begins at a place where the text was complete, because byte-fallback decoders
    judge a run of bytes as a whole."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, context_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._emitted_ids: list[int] = []  # what the last emitted text came from
        self._emitted_text = ""
        self._pending: list[int] = []
        self._unfinished = 0  # tokens of the unfinished character at the end
        for token_id in context_ids[self._window_start(context_ids) :]:
            self.step(token_id)

    def step(self, token_id: int) -> str:
        self._pending.append(token_id)
        window = self._emitted_ids + self._pending
        text = self._tokenizer.decode(window)
        self._unfinished = self._unfinished + 1 if text.endswith(_REPLACEMENT) else 0
        if 0 < self._unfinished < _LONGEST_CHARACTER_TOKENS:
            return ""
        gained = text[len(self._emitted_text) :]
        if not gained and len(self._pending) < _WINDOW_TOKENS:
            return ""
        self._emitted_ids, self._pending, self._unfinished = self._pending, [], 0
        self._emitted_text = self._tokenizer.decode(self._emitted_ids)
        return gained

    def flush(self) -> str:
        text = self._tokenizer.decode(self._emitted_ids + self._pending)
        rest = text[len(self._emitted_text) :]
        self._emitted_ids, self._emitted_text, self._pending = [], "", []
        return rest

    def _window_start(self, context_ids: Sequence[int]) -> int:
        start = max(0, len(context_ids) - _WINDOW_TOKENS)
        furthest = max(0, start - _LONGEST_BYTE_RUN)
        while start > furthest and _REPLACEMENT in self._tokenizer.decode([context_ids[start]]):
            start -= 1
        return start


def stream_decoder(
    tokenizer: tokenizers.Tokenizer, token_bytes: TokenBytes | None, context_ids: Sequence[int]
) -> StreamDecoder:
    """A decoder that goes on after `context_ids`, whose text counts as emitted except for an
    unfinished character at its end."""
    if token_bytes is not None:
        return ByteLevelDecoder(token_bytes, context_ids)
    return WindowDecoder(tokenizer, context_ids)


def token_bytes_of(tokenizer: tokenizers.Tokenizer) -> TokenBytes | None:
    """The byte table, or None where the tokenizer's decoder is not purely byte-level."""
    decoder = json.loads(tokenizer.to_str()).get("decoder") if tokenizer.decoder else None
    return TokenBytes(tokenizer) if decoder and decoder["type"] == "ByteLevel" else None


def longest_token_bytes(
    tokenizer: tokenizers.Tokenizer, token_bytes: TokenBytes | None
) -> int | None:
    """No token stands for more bytes of UTF-8 text. None where that is not known: text may shrink
    before it is split."""
    added = tokenizer.get_added_tokens_decoder()
    shrinks = any(token.lstrip or token.rstrip for token in added.values())
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    complete = _bytes_of_char().keys() <= vocabulary.keys()  # else unknown bytes are left out
    if token_bytes is None or tokenizer.normalizer is not None or shrinks or not complete:
        return None
    # Byte-level tokens have a character a byte; added ones are spelled as they are.
    spelled = [len(token.content.encode()) for token in added.values()]
    return max([1, *spelled, *map(len, vocabulary)])


def _bytes_of_char() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and on
    (https://github.com/openai/gpt-2, encoder.py `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet
