"""A model's tokenizer with its chat template: what gateway and engine know of text."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import tokenizers

from shunter_text.chat import CHATML, ChatTemplate, Message
from shunter_text.detokenizer import (
    StreamDecoder,
    longest_token_bytes,
    stream_decoder,
    token_bytes_of,
)

_LINE_END = "\n"  # no vocabulary merges it with what follows
_LONGEST_PIECE = 256  # characters
_REPLACEMENT = "\ufffd"  # stands for any broken character


class TextTooLong(ValueError):
    """The text has more tokens than allowed, which its length alone tells."""


class Tokenizer:
    """Wraps a Hugging Face `tokenizers.Tokenizer`.

    `encode` and `encode_chat` release the interpreter lock while they tokenise, so that long
    prompts go well in a thread. Safe to share between threads.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        eos_token_ids: Sequence[int],
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """`special_tokens`: what the template calls `bos_token`, `eos_token` and so on."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._token_bytes = token_bytes_of(tokenizer)
        self._longest_token_bytes = longest_token_bytes(tokenizer, self._token_bytes)
        self._template = ChatTemplate(chat_template or CHATML, special_tokens)
        self._prompt_form = (chat_template or CHATML, dict(special_tokens or {}))
        self.eos_token_ids = tuple(eos_token_ids)
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(
        self, text: str, add_special_tokens: bool = True, max_tokens: int | None = None
    ) -> list[int]:
        """Raises `TextTooLong` where `text` is so long that it must exceed `max_tokens`: a cheap
        look before dear work, and no promise about the length of what is returned."""
        if max_tokens is not None and self._fewest_tokens(text) > max_tokens:
            raise TextTooLong(
                f"has at least {self._fewest_tokens(text)} tokens, and at most {max_tokens} fit"
            )
        # The single-text call holds the interpreter lock, the batch call does not.
        encodings = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encodings[0].ids
        return ids

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        now: datetime | None = None,
        max_tokens: int | None = None,
    ) -> list[int]:
        """Raises `ChatTemplateError`, and `TextTooLong` as `encode` does. The template itself
        writes what begins a sequence."""
        text = self._template.render(messages, tools, add_generation_prompt, now)
        return self.encode(text, add_special_tokens=False, max_tokens=max_tokens)

    def _fewest_tokens(self, text: str) -> int:
        longest = self._longest_token_bytes
        return -(-len(text.encode()) // longest) if longest else 0

    def encode_within(self, text: str) -> list[int]:
        """Ids of a piece of text in mid-answer, without what begins a sequence: as they follow the
        end of a line. Empty where they would not be read as just this text."""
        if _REPLACEMENT in text or len(text) > _LONGEST_PIECE:
            return []
        line_end = self.encode(_LINE_END, add_special_tokens=False)
        ids = self.encode(_LINE_END + text, add_special_tokens=False)
        if ids[: len(line_end)] != line_end:
            return []
        ids, decoder = ids[len(line_end) :], self.decoder(line_end)
        return ids if "".join(map(decoder.step, ids)) == text else []

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens; U+FFFD stands for broken characters."""
        text: str = self._tokenizer.decode(list(token_ids))
        return text

    def decoder(self, context_ids: Sequence[int] = ()) -> StreamDecoder:
        """Text of what follows `context_ids`, which may end inside a character."""
        return stream_decoder(self._tokenizer, self._token_bytes, context_ids)

    def token_text(self, token_id: int) -> str:
        """One token alone, special tokens too, as log probabilities name them."""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """One token's part of the text, which may be part of a character; the spelling of a
        special token. Exact for byte-level vocabularies, else of `token_text`."""
        exact = self._token_bytes[token_id] if self._token_bytes is not None else b""
        return exact or self.token_text(token_id).encode()

    def digest(self) -> str:
        """Of what makes ids of text and text of ids. Some milliseconds."""
        ends = ",".join(map(str, self.eos_token_ids))
        return sha256(f"{self._tokenizer.to_str()}\0{ends}".encode()).hexdigest()[:32]

    def interchangeable(self, other: "Tokenizer", probe: str) -> bool:
        """Whether prompts by one are prompts by the other, and answers read alike: same template
        and ends of sequence, same size, same ids for `probe`. Models of one family often are."""
        return self is other or (
            self.vocab_size == other.vocab_size
            and set(self.eos_token_ids) == set(other.eos_token_ids)
            and self._prompt_form == other._prompt_form
            and self.encode(probe) == other.encode(probe)
        )


def agrees(tokenizer: Tokenizer, engine_token_ids: Sequence[int], text: str) -> bool:
    """Whether an engine tokenises `text` just as we do: the condition of token-level moves."""
    return tokenizer.encode(text) == list(engine_token_ids)
