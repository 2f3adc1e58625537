"""Trains the tokenizer of `sim://` models: `python -m shunter_text.train_sim_tokenizer`.

The text is the standard library's documentation strings, so that no download is needed; the result
is committed, and is not to be trained again lightly: other ids are another model revision.
"""

import ast
import json
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

DATA = Path(__file__).parent / "data"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = 4096
MIN_WORD_COUNT = 20


def main() -> None:
    texts = list(documentation_strings(Path(sysconfig.get_paths()["stdlib"])))
    tokenizer = train(texts)
    tokenizer.save(str(DATA / "sim_tokenizer.json"), pretty=False)
    words = json.dumps(word_ids(tokenizer, texts), separators=(",", ":"))
    (DATA / "sim_words.json").write_text(words + "\n", encoding="utf-8")


def documentation_strings(library: Path) -> Iterator[str]:
    for path in sorted(library.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield text


def train(texts: list[str]) -> Tokenizer:
    """Byte-level BPE: any text is representable, and text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def word_ids(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    """Ids of tokens that are one whole lower-case word with its space: what a simulated engine
    answers with."""
    counts = Counter(word for text in texts for word in re.findall(r"\b[a-z]{2,}\b", text))
    ids = (
        tokenizer.token_to_id("Ġ" + word)
        for word, count in counts.items()
        if count >= MIN_WORD_COUNT
    )
    return sorted(id_ for id_ in ids if id_ is not None)


if __name__ == "__main__":
    main()
