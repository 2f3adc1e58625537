"""The token journal of one request: the record from which any engine can go on.

Pure. Ownership, (instance, epoch), changes by compare-and-set only, and tokens are taken from the
present owner only: whatever an older epoch still brings is refused.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    instance: str
    epoch: int


class TokenJournal:
    """Prompt and generated token ids of one request, and who may add to them.

    Some engines keep ids to themselves (see `note_gap`): then `generated` ends before the gap, and
    `unjournaled_text` is what the client has received beyond it.
    """

    __slots__ = ("_epoch", "_output_tokens", "_owner", "_prompt", "generated", "unjournaled_text")

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        """Raises `OverflowError` for an id outside uint32."""
        self._prompt = array("I", prompt_token_ids)
        self.generated = array("I")
        self.unjournaled_text = ""
        self._output_tokens = 0
        self._owner: Owner | None = None
        self._epoch = 1

    @property
    def owner(self) -> Owner | None:
        return self._owner

    @property
    def epoch(self) -> int:
        """Begins at 1 and grows only: with each change of owner, and when an owner loses it."""
        return self._epoch

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far, those in a gap included."""
        return self._output_tokens

    @property
    def has_gap(self) -> bool:
        return self._output_tokens != len(self.generated)

    def take(self, expected_epoch: int, owner: Owner) -> bool:
        """Compare-and-set: `owner` takes over if nobody did since `expected_epoch`."""
        if self._epoch != expected_epoch or owner.epoch < expected_epoch:
            return False
        if self._owner is not None and owner.epoch == expected_epoch:
            return False
        self._owner = owner
        self._epoch = owner.epoch
        return True

    def vacate(self, expected_epoch: int) -> bool:
        """The owner loses the request; the epoch after it begins, owned by nobody."""
        if self._epoch != expected_epoch:
            return False
        self._owner = None
        self._epoch += 1
        return True

    def owned_by(self, epoch: int) -> bool:
        return self._owner is not None and self._owner.epoch == epoch

    def append(self, epoch: int, token_ids: Sequence[int]) -> bool:
        """False, and nothing is kept, if `epoch` is not the owner's or a gap lies before."""
        if not self.owned_by(epoch) or self.has_gap:
            return False
        self.generated.extend(token_ids)
        self._output_tokens += len(token_ids)
        return True

    def note_gap(self, epoch: int, output_tokens: int, text: str) -> bool:
        """`text` was delivered, but some ids up to `output_tokens` are not known."""
        if not self.owned_by(epoch) or output_tokens < len(self.generated):
            return False
        self._output_tokens = output_tokens
        self.unjournaled_text += text
        return True

    def rewind_to_known(self) -> str:
        """For a replay: forgets the count beyond the known ids; returns the text that the next
        owner has to generate again."""
        self._output_tokens = len(self.generated)
        text, self.unjournaled_text = self.unjournaled_text, ""
        return text

    def token_ids(self) -> tuple[int, ...]:
        """What the next engine is given: the prompt and all generated tokens that are known."""
        return (*self._prompt, *self.generated)
