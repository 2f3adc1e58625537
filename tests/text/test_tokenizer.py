import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from shunter_text.sources import sim_tokenizer, sim_word_ids
from shunter_text.tokenizer import TextTooLong, Tokenizer, agrees


def byte_fallback_tokenizer() -> Tokenizer:
    """A SentencePiece-like vocabulary: letters, the space mark, and byte tokens for the rest."""
    vocabulary = {"<unk>": 0}
    for token in [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefgh", "cd"]:
        vocabulary[token] = len(vocabulary)
    raw = tokenizers.Tokenizer(
        models.BPE(
            vocabulary,
            [("c", "d")],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(raw, eos_token_ids=[0])


SIM = sim_tokenizer()
FALLBACK = byte_fallback_tokenizer()
# Ids below 300 are mostly single bytes: many unfinished and broken characters.
ANY_IDS = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 5000)), max_size=30)
TEXTS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("abé日本👩‍🚀 ")), max_size=25
)


def stream(tokenizer: Tokenizer, context: list[int], ids: list[int]) -> list[str]:
    decoder = tokenizer.decoder(context)
    deltas = [decoder.step(token_id) for token_id in ids]
    return [*deltas, decoder.flush()]


@given(ANY_IDS)
@settings(max_examples=300)
def test_deltas_add_up_to_the_whole_text(ids: list[int]) -> None:
    assert "".join(stream(SIM, [], ids)) == SIM.decode(ids)


@given(ANY_IDS, st.integers(0, 30))
@settings(max_examples=300)
def test_a_stream_resumed_anywhere_goes_on_with_the_same_deltas(ids: list[int], at: int) -> None:
    assert stream(SIM, ids[:at], ids[at:]) == stream(SIM, [], ids)[min(at, len(ids)) :]


@given(TEXTS, st.integers(0, 60))
@settings(max_examples=200)
def test_text_split_between_characters_continues_exactly(text: str, at: int) -> None:
    ids = SIM.encode(text)
    before = SIM.decode(ids[:at])
    if not before.endswith("\ufffd"):
        assert "".join(stream(SIM, ids[:at], ids[at:])) == SIM.decode(ids)[len(before) :]


@given(TEXTS)
def test_no_delta_shows_an_unfinished_character(text: str) -> None:
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(stream(SIM, [], SIM.encode(text)))


@given(TEXTS)
@settings(max_examples=200)
def test_byte_fallback_deltas_add_up(text: str) -> None:
    ids = FALLBACK.encode(text)
    assert "".join(stream(FALLBACK, [], ids)) == FALLBACK.decode(ids)


@given(TEXTS, st.integers(0, 60))
@settings(max_examples=200)
def test_byte_fallback_resumes_anywhere(text: str, at: int) -> None:
    ids = FALLBACK.encode(text)
    whole = stream(FALLBACK, [], ids)
    at = min(at, len(ids))
    assert "".join(stream(FALLBACK, ids[:at], ids[at:])) == "".join(whole[at:])


def test_a_long_run_of_bytes_is_shown_character_by_character() -> None:
    ids = FALLBACK.encode("👩" * 20)
    deltas = stream(FALLBACK, [], ids)
    assert deltas.count("👩") == 20
    assert "".join(deltas) == FALLBACK.decode(ids)


def test_flush_shows_what_stays_unfinished() -> None:
    euro = SIM.encode("€")
    decoder = SIM.decoder()
    assert [decoder.step(token_id) for token_id in euro[:-1]] == [""] * (len(euro) - 1)
    assert decoder.flush() == "\ufffd"


@given(TEXTS.filter(lambda text: "<|" not in text))
def test_any_text_but_that_of_special_tokens_round_trips(text: str) -> None:
    assert SIM.decode(SIM.encode(text)) == text


def test_special_tokens_have_no_text_but_a_name() -> None:
    eos = SIM.eos_token_ids[0]
    assert SIM.decode([eos]) == "" == "".join(stream(SIM, [], [eos]))
    assert SIM.token_text(eos) == "<|im_end|>"


def test_simulated_words_are_words() -> None:
    words = [SIM.decode([token_id]) for token_id in sim_word_ids()]
    assert len(words) > 500
    assert all(word[0] == " " and word[1:].isascii() and word[1:].islower() for word in words)
    assert not set(sim_word_ids()) & set(SIM.eos_token_ids)


def test_truncation_and_padding_of_the_file_are_switched_off() -> None:
    raw = tokenizers.Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.enable_truncation(2)
    raw.enable_padding(length=6)
    assert Tokenizer(raw, eos_token_ids=[]).encode("a a a a") == [0, 0, 0, 0]


def test_added_tokens_count_into_the_vocabulary() -> None:
    raw = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    raw.add_special_tokens([AddedToken("<end>", special=True)])
    assert Tokenizer(raw, eos_token_ids=[1]).vocab_size == 2


@pytest.mark.parametrize(("ids", "same"), [(SIM.encode("hello"), True), ([1, 2, 3], False)])
def test_agreement_with_an_engine(ids: list[int], same: bool) -> None:
    assert agrees(SIM, ids, "hello") is same


def test_a_text_that_must_be_too_long_is_refused_before_work() -> None:
    text = "the thing " * 1000
    fits = len(SIM.encode(text))
    assert SIM.encode(text, max_tokens=fits) == SIM.encode(text)
    with pytest.raises(TextTooLong, match="at most 10 fit"):
        SIM.encode(text, max_tokens=10)
    with pytest.raises(TextTooLong):
        SIM.encode_chat([{"role": "user", "content": text}], max_tokens=10)
    assert FALLBACK.encode("ab" * 100, max_tokens=1) == FALLBACK.encode("ab" * 100)


@given(TEXTS)
def test_no_text_has_fewer_tokens_than_its_length_tells(text: str) -> None:
    ids = SIM.encode(text, add_special_tokens=False)
    assert SIM.encode(text, add_special_tokens=False, max_tokens=len(ids)) == ids


def test_bytes_of_tokens() -> None:
    ids = SIM.encode("é日 the")
    assert b"".join(map(SIM.token_bytes, ids)).decode() == "é日 the"
    assert SIM.token_bytes(SIM.eos_token_ids[0]) == b"<|im_end|>"
    assert FALLBACK.token_bytes(FALLBACK.encode("cd")[-1]) == b"cd"


@given(TEXTS, st.integers(0, 60), st.integers(1, 6))
@settings(max_examples=200)
def test_ids_of_a_piece_stand_for_just_that_piece(text: str, at: int, length: int) -> None:
    piece = text[at : at + length]
    for tokenizer in (SIM, FALLBACK):
        ids, line = tokenizer.encode_within(piece), tokenizer.encode("\n", add_special_tokens=False)
        assert not ids or "".join(stream(tokenizer, line, ids)) == piece


@pytest.mark.parametrize("tokenizer", [SIM, FALLBACK])
@pytest.mark.parametrize("character", ["é", "日", "👩"])
def test_a_character_in_mid_answer_has_the_ids_that_were_generated(
    tokenizer: Tokenizer, character: str
) -> None:
    before, after = (tokenizer.encode(text) for text in ("a b", f"a b{character}"))
    assert after[: len(before)] == before
    assert tokenizer.encode_within(character) == after[len(before) :]


@pytest.mark.parametrize("text", ["\ufffd", "a\ufffd", "é" * 300])
def test_broken_and_long_pieces_have_no_ids(text: str) -> None:
    assert SIM.encode_within(text) == []


def test_a_piece_that_spells_a_special_token_has_no_ids() -> None:
    raw = tokenizers.Tokenizer.from_str(sim_tokenizer()._tokenizer.to_str())
    raw.add_special_tokens([AddedToken("<|end|>", special=True)])
    assert Tokenizer(raw, eos_token_ids=[0]).encode_within("é<|end|>") == []
