"""How well cached prefixes are predicted: tokens at the dispatch against what engines report."""

from dataclasses import dataclass


@dataclass(slots=True)
class PrefixHits:
    """Totals in tokens, over prefills of which engines said what they had cached."""

    prompt_tokens: int = 0
    predicted_tokens: int = 0
    hit_tokens: int = 0
    error_tokens: int = 0  # absolute differences, summed

    def observe(self, prompt_tokens: int, predicted_tokens: int, hit_tokens: int) -> None:
        self.prompt_tokens += prompt_tokens
        self.predicted_tokens += predicted_tokens
        self.hit_tokens += hit_tokens
        self.error_tokens += abs(predicted_tokens - hit_tokens)
