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
    `unjournaled_text` is what the client has received beyond it. `adopt` closes the gap.
    """

    __slots__ = (
        "_epoch",
        "_owner",
        "_prompt",
        "_tail",
        "generated",
        "output_tokens",
        "owned_epoch",
        "unjournaled_text",
    )

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        """Raises `OverflowError` for an id outside uint32."""
        self._prompt = array("I", prompt_token_ids)
        self.generated = array("I")
        self.unjournaled_text = ""
        self._tail: list[int] = []  # known ids between the gap and the end
        self.output_tokens = 0  # generated so far, those in a gap included
        self.owned_epoch = 0  # the owner's; 0: nobody owns the request
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
    def has_gap(self) -> bool:
        return self.output_tokens != len(self.generated)

    def take(self, expected_epoch: int, owner: Owner) -> bool:
        """Compare-and-set: `owner` takes over if nobody did since `expected_epoch`."""
        if self._epoch != expected_epoch or owner.epoch < expected_epoch:
            return False
        if self._owner is not None and owner.epoch == expected_epoch:
            return False
        self._owner = owner
        self._epoch = self.owned_epoch = owner.epoch
        return True

    def vacate(self, expected_epoch: int) -> bool:
        """The owner loses the request; the epoch after it begins, owned by nobody."""
        if self._epoch != expected_epoch:
            return False
        self._owner = None
        self.owned_epoch = 0
        self._epoch += 1
        return True

    def owned_by(self, epoch: int) -> bool:
        return self.owned_epoch == epoch != 0

    def append(self, epoch: int, token_ids: Sequence[int]) -> bool:
        """False, and nothing is kept, if `epoch` is not the owner's or a gap lies before."""
        generated = self.generated
        if self.owned_epoch != epoch or self.output_tokens != len(generated):
            return False
        generated.extend(token_ids)
        self.output_tokens = len(generated)
        return True

    def note_gap(
        self, epoch: int, output_tokens: int, text: str, token_ids: Sequence[int] = ()
    ) -> bool:
        """`text` was delivered, but some ids up to `output_tokens` are not known; the last are."""
        if not self.owned_by(epoch) or output_tokens < len(self.generated):
            return False
        if output_tokens != self.output_tokens + len(token_ids):
            self._tail.clear()
        self._tail.extend(token_ids)
        self.output_tokens = output_tokens
        self.unjournaled_text += text
        return True

    def adopt(self, held: Sequence[int]) -> bool:
        """`held`: prompt and answer as the engine has them, perhaps without the last ids, perhaps
        with some that nobody has received. False where they are another request's, or leave a gap
        open; nothing is changed then."""
        known = self.token_ids()
        common = min(len(held), len(known))
        if common < len(self._prompt) or tuple(held[:common]) != known[:common]:
            return False
        if not self.has_gap:
            return True
        end = len(self._prompt) + self.output_tokens
        ids, tail = list(held[len(known) : end]), self._tail
        missing = end - len(known) - len(ids)
        if missing > len(tail):
            return False
        ids += tail[len(tail) - missing :]
        if tail and ids[-len(tail) :] != tail:
            return False
        self.generated.extend(ids)
        self._forget_gap()
        return True

    def rewind_to_known(self) -> str:
        """For a replay: forgets the count beyond the known ids; returns the text that the next
        owner has to generate again."""
        self.output_tokens = len(self.generated)
        return self._forget_gap()

    def _forget_gap(self) -> str:
        text, self.unjournaled_text = self.unjournaled_text, ""
        self._tail.clear()
        return text

    def token_ids(self) -> tuple[int, ...]:
        """What the next engine is given: the prompt and all generated tokens that are known."""
        return (*self._prompt, *self.generated)
