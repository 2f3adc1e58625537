"""Sequences on their way from one engine to another: frozen here, reserved there, taken over.

Keys and values are append-only, so what is computed may be read while decoding goes on (Sun et al.,
"Llumnix", OSDI 2024, section 4.2); a sequence leaves its batch for the last part only. Nothing here
takes memory that somebody else was promised: a reservation leaves the watermark free and room for
all that wait, and preempts nobody.
"""

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shunter_simulator.engine.batching import ORDER, BatchScheduler
from shunter_simulator.engine.sequences import Sequence as Running
from shunter_simulator.engine.sequences import block_hashes
from shunter_simulator.engine.values import EngineConfig, SequenceSpec


class NoRoom(Exception):
    """Not enough blocks above the watermark, or no place in the batch."""


class NotDecoding(Exception):
    """The sequence waits, computes its prompt, or was preempted."""


@dataclass(frozen=True, slots=True)
class SequenceView:
    """`token_ids` and `block_table` are live: copy what is kept beyond the next step."""

    token_ids: Sequence[int]
    computed: int  # tokens whose keys and values are in the blocks
    output_tokens: int  # of the whole answer, earlier engines' part included
    block_table: Sequence[int]
    decoding: bool  # or frozen while it was


@dataclass(slots=True)
class Reservation:
    """Blocks for a sequence to come; the first `cached_tokens` are computed already."""

    block_table: list[int]
    cached_tokens: int


class MovableBatch(BatchScheduler):
    """A `BatchScheduler` whose sequences can leave, and that can take others' over.

    Call `freeze` and `reserve` between `commit` and `plan` only: a step in flight may still write
    into blocks that became free during it. The other calls may come at any time.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._frozen: dict[str, Running] = {}
        self._reserved: dict[str, Reservation] = {}

    def view(self, request_id: str) -> SequenceView | None:
        """None: not there (any more)."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        return SequenceView(
            token_ids=sequence.token_ids,
            computed=sequence.computed,
            output_tokens=sequence.output_offset + sequence.produced,
            block_table=sequence.block_table,
            decoding=bool(sequence.block_table) and sequence.pending == 1,
        )

    # ------------------------------------------------------------ at the source

    def freeze(self, request_id: str) -> None:
        """Takes a decoding sequence out of the batch; its blocks and its place stay its own.

        Raises `KeyError` and `NotDecoding`.
        """
        sequence = self._sequences[request_id]
        if request_id in self._frozen:
            return
        if not sequence.block_table or sequence.pending != 1:
            raise NotDecoding(request_id)
        self._running.remove(sequence)
        self._frozen[request_id] = sequence

    def thaw(self, request_id: str) -> bool:
        """It goes on where it stopped. False: not frozen. To free it instead, `abort` it."""
        sequence = self._frozen.pop(request_id, None)
        if sequence is None:
            return False
        insort(self._running, sequence, key=ORDER)
        return True

    # ------------------------------------------------------------ at the destination

    def reserve(self, name: str, token_ids: Sequence[int], headroom_tokens: int) -> Reservation:
        """A place in the batch, and blocks for `token_ids` and as many more tokens.

        Full blocks that the prefix cache holds are shared. Raises `NoRoom`, and `ValueError` for a
        name that is in use.
        """
        if name in self._reserved:
            raise ValueError(f"reservation {name!r} exists")
        places = len(self._running) + len(self._waiting) + self._held_places()
        if places >= self.config.max_num_seqs:
            raise NoRoom(f"all {self.config.max_num_seqs} places of the batch are taken")
        block_tokens = self.config.block_tokens
        shared: list[int] = []
        if self.config.enable_prefix_caching:
            full = (len(token_ids) - 1) // block_tokens
            shared = self._pool.find(block_hashes(token_ids, full, block_tokens))
        fresh = self._blocks_for(len(token_ids) + headroom_tokens) - len(shared)
        self._require(fresh + self._pool.free_among(shared))
        self._pool.share(shared)
        table = shared + [self._pool.allocate() for _ in range(fresh)]
        reservation = Reservation(table, len(shared) * block_tokens)
        self._reserved[name] = reservation
        return reservation

    def extend(self, name: str, tokens: int) -> Reservation:
        """Makes room for `tokens` in all. Between steps only. Raises `KeyError` and `NoRoom`."""
        reservation = self._reserved[name]
        missing = self._blocks_for(tokens) - len(reservation.block_table)
        if missing > 0:
            self._require(missing)
            reservation.block_table += [self._pool.allocate() for _ in range(missing)]
        return reservation

    def reservation(self, name: str) -> Reservation | None:
        return self._reserved.get(name)

    def unreserve(self, name: str) -> bool:
        """False: not there."""
        reservation = self._reserved.pop(name, None)
        if reservation is None:
            return False
        self._pool.release(reservation.block_table)
        return True

    def adopt(self, name: str, spec: SequenceSpec) -> None:
        """The reservation becomes a running sequence that has all but its last token computed.

        Raises `KeyError`, `ValueError` where its blocks do not hold so many tokens, and as `add`.
        """
        reservation = self._reserved[name]
        computed = len(spec.token_ids) - 1
        needed = self._blocks_for(computed)
        if not reservation.cached_tokens <= computed or needed > len(reservation.block_table):
            raise ValueError(f"reservation {name!r} is not for {computed} tokens")
        self._check(spec)
        sequence = self._enter(spec)
        del self._reserved[name]
        sequence.block_table = reservation.block_table[:needed]
        self._pool.release(reservation.block_table[needed:])
        sequence.computed = sequence.cached_tokens = computed
        self._prompt_tokens += len(spec.token_ids)
        insort(self._running, sequence, key=ORDER)
        if self.config.enable_prefix_caching:
            block_tokens = self.config.block_tokens
            sequence.publish_computed(self._pool, reservation.cached_tokens, block_tokens)

    # ------------------------------------------------------------ details

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.config.block_tokens)

    def _require(self, blocks: int) -> None:
        """Raises `NoRoom` unless so many can be taken from nobody."""
        awaited = sum(self._blocks_for(len(s.token_ids)) for s in self._waiting)
        if blocks + awaited + self.config.watermark_blocks > self._pool.available:
            raise NoRoom(
                f"{blocks} blocks wanted of {self._pool.available} available, {awaited} of them "
                f"awaited and {self.config.watermark_blocks} below the watermark"
            )

    def _held_places(self) -> int:
        return len(self._frozen) + len(self._reserved)

    def _tables(self) -> Iterator[Sequence[int]]:
        yield from super()._tables()
        yield from (r.block_table for r in self._reserved.values())

    def _parked(self) -> int:
        return len(self._frozen)

    def _remove(self, sequence: Running) -> None:
        if self._frozen.pop(sequence.request_id, None) is not None:
            insort(self._running, sequence, key=ORDER)
        super()._remove(sequence)
