"""The sequences that decode: every step gives each of them a token.

So the steps are counted once (`tick`), and what a sequence's length is after any number of them is
an addition; how many blocks they take on the way is a count by residue class.
"""

from heapq import heapify, heappop, heappush

from shunter_simulator.virtual.sequences import LiveSequence

_STALE_ENTRIES = 64


class DecodeSet:
    """`ahead` is 1 while a step is in progress whose blocks are taken already."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self.tick = 0
        self.ahead = 0
        self.count = 0
        self._offsets = 0  # sum over the sequences
        # How many take a block in the steps whose tick has this residue.
        self._growing = [0] * block_tokens
        self._ends: list[tuple[int, tuple[int, int], LiveSequence]] = []

    @property
    def context_tokens(self) -> int:
        """Tokens whose keys and values the next step reads, each sequence's new one included."""
        return self._offsets + self.count * (self.tick + 1)

    def join(self, sequence: LiveSequence) -> None:
        """`sequence` lacks one token and holds blocks for the others."""
        sequence.stage = "decode"
        sequence.offset = sequence.computed - self.tick
        sequence.finish_tick = self.tick + sequence.limit_tokens - sequence.tokens
        self.count += 1
        self._offsets += sequence.offset
        self._growing[-sequence.offset % self._block_tokens] += 1
        if len(self._ends) > 2 * self.count + _STALE_ENTRIES:
            self._ends = [entry for entry in self._ends if _valid(entry)]
            heapify(self._ends)
        heappush(self._ends, (sequence.finish_tick, sequence.order, sequence))

    def leave(self, sequence: LiveSequence) -> None:
        """Brings its lengths and blocks up to date; the caller gives it a new stage."""
        self.count -= 1
        self._offsets -= sequence.offset
        self._growing[-sequence.offset % self._block_tokens] -= 1
        self.refresh(sequence)

    def refresh(self, sequence: LiveSequence) -> None:
        sequence.computed = sequence.offset + self.tick
        sequence.tokens = sequence.computed + 1
        sequence.blocks = -(-(sequence.computed + self.ahead) // self._block_tokens)

    def tokens(self, sequence: LiveSequence) -> int:
        return sequence.offset + self.tick + 1

    def grows(self, sequence: LiveSequence) -> bool:
        """Whether its next token needs a new block."""
        return (sequence.offset + self.tick) % self._block_tokens == 0

    def growth(self, first: int, steps: int) -> int:
        """Blocks that `steps` steps take, the first of them `first` steps from now."""
        cycles, rest = divmod(steps, self._block_tokens)
        blocks = cycles * self.count
        if rest:
            start = (self.tick + first) % self._block_tokens
            end = start + rest
            blocks += sum(self._growing[start:end])
            if end > self._block_tokens:
                blocks += sum(self._growing[: end - self._block_tokens])
        return blocks

    def steps_within(self, blocks: int, first: int, limit: int) -> int:
        """How many steps, up to `limit`, take `blocks` at most."""
        if not self.count or (limit // self._block_tokens + 1) * self.count <= blocks:
            return limit
        cycles, left = divmod(blocks, self.count)
        steps = cycles * self._block_tokens
        while steps < limit:
            left -= self._growing[(self.tick + first + steps) % self._block_tokens]
            if left < 0:
                break
            steps += 1
        return min(steps, limit)

    def steps_to_end(self) -> int:
        """Until the first of them has all its tokens. There must be one."""
        ends = self._ends
        while not _valid(ends[0]):
            heappop(ends)
        return ends[0][0] - self.tick

    def pop_ended(self) -> list[LiveSequence]:
        """Those that have all their tokens, in order; they leave."""
        ended: list[LiveSequence] = []
        ends = self._ends
        while ends and ends[0][0] <= self.tick:
            entry = heappop(ends)
            if _valid(entry):
                self.leave(entry[2])
                entry[2].stage = "ended"
                ended.append(entry[2])
        return ended


def _valid(entry: tuple[int, tuple[int, int], LiveSequence]) -> bool:
    return entry[2].stage == "decode" and entry[2].finish_tick == entry[0]
