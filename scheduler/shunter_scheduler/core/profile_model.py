"""What a profile's times are: the prior, corrected by what was observed."""

from shunter_scheduler.core.costs import ProfileCost
from shunter_scheduler.costmodel.correction import Correction
from shunter_scheduler.policies.rows import Rates

# A prompt of 512 tokens; a step of 16 sequences of 1,024 tokens.
MIDDLING_PREFILL = (1.0, 512.0, 512.0**2 / 2)
MIDDLING_STEP = (1.0, 16.0, 16.0 * 1024)


class ProfileModel:
    """Shared by the instances of one profile: the prior, what observations made of it, and the
    rates (seconds) that follow from both."""

    __slots__ = (
        "_money_s_per_dollar",
        "cost",
        "decode",
        "prefill",
        "rates",
        "step_base_s",
    )

    def __init__(self, cost: ProfileCost, money_s_per_dollar: float = 0.0) -> None:
        self.cost = cost
        self._money_s_per_dollar = money_s_per_dollar
        rates = cost.rates
        self.prefill = Correction(rates.prefill, MIDDLING_PREFILL)
        self.decode = Correction(rates.decode, MIDDLING_STEP)
        self.update()

    def update(self) -> None:
        """After a correction was published."""
        prefill_base_s, prefill_s_per_token, prefill_s_per_pair = self.prefill.published
        self.step_base_s, step_s_per_sequence, step_s_per_context_token = self.decode.published
        self.rates = Rates(
            prefill_base_s,
            prefill_s_per_token,
            step_s_per_sequence,
            step_s_per_context_token,
            self.cost.dollars_per_s * self._money_s_per_dollar,
            prefill_s_per_pair,
            self.prefill.error,
            self.step_base_s + step_s_per_sequence,
        )

    @property
    def alone_s(self) -> float:
        """A decode step of one sequence."""
        return self.rates.alone_s

    @property
    def middling_step_s(self) -> float:
        """A decode step of a middling batch."""
        return self.decode_step_s(*MIDDLING_STEP[1:])

    def prefill_s(self, tokens: int, past_tokens: int = 0) -> float:
        """Computing `tokens` of a prompt after `past_tokens` that are cached."""
        return self.rates.prefill_s(tokens, past_tokens)

    def decode_step_s(self, sequences: float, context_tokens: float) -> float:
        rates = self.rates
        return (
            self.step_base_s
            + sequences * rates.step_s_per_sequence
            + context_tokens * rates.step_s_per_context_token
        )
