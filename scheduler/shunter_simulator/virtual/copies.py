"""The rung `kv`: blocks are copied in stages while the source goes on; it stops for the last one
only (Sun et al., OSDI 2024, section 4.2).

As in the gateway (docs/adr/0013) what is refused before the source stops goes by replay, unless the
destination has no room; after that the source goes on, under an epoch beyond the destination's."""

from collections.abc import Callable

from shunter_simulator.virtual.links import Transfer
from shunter_simulator.virtual.moving import Move, Rung


class KvMove(Move):
    rung: Rung = "kv"
    _copied_tokens: int = 0
    _stages: int = 0
    _copying: bool = False
    _held: bool = False  # out of the source's batch, its blocks still there
    _transfer: Transfer | None = None

    def start(self) -> None:
        if not self.life.entered:
            self._refuse("not_decoding")
            return
        self._stage()

    @property
    def _replayable(self) -> bool:
        """Without a cache to replay into a copy goes on, in case the source decodes again."""
        return bool(self.target.shape.cache_block_tokens)

    def _refuse(self, reason: str) -> None:
        """The source has not been asked to stop."""
        if not self.over:
            self.clean_up()
            self.world.refused(self, reason)

    def _undo(self, reason: str) -> None:
        """The source has, or may have: what was ordered under older epochs is void."""
        self.life.epoch += 2
        self.fail(reason)

    def _stage(self) -> None:
        """Copies what there is, or stops the source where little is missing."""
        settings = self.world.settings
        self._stages += 1
        tokens = self.source_tokens()
        if tokens is None:
            self.fail("finished")
            return
        if not self.target_lives:
            self._refuse("connection")
            return
        if self._replayable and not self.source.engine.decodes(self.life.request_id):
            self._refuse("not_decoding")  # it was preempted: nothing to copy
            return
        if not self._reserve(tokens):
            self.fail("no_room")
            return
        if not self._copying:
            self._begin_copying()
        missing = tokens - self._copied_tokens
        few = self._stages > 1 and missing <= settings.last_stage_tokens
        if few or self._stages >= settings.max_stages:
            self._last_stage()
            return
        self._copied_tokens = tokens
        self.later(settings.stage_overhead_s, lambda: self._copy(missing, self._stage))

    def _last_stage(self) -> None:
        now = self.world.agenda.now
        export = self.source.engine.export(self.life.request_id, now)
        self.world.fleet.touch(self.source)
        if export is None:
            decodes = self.source.engine.decodes(self.life.request_id)
            self.fail("finished") if decodes else self._undo("not_decoding")
            return
        self._held = True
        self.stopped_at = export.at_s + self.world.engine_delay_s
        missing = export.context_tokens - self._copied_tokens
        began_s = export.at_s - now + self.world.settings.downtime_s
        self.later(began_s, lambda: self._copy(missing, self._commit))

    def _commit(self) -> None:
        """The destination owns it from here on."""
        now, life, target = self.world.agenda.now, self.life, self.target
        if not self.source_lives:
            return  # the gateway will hear of it
        if not self.target_lives:
            self._undo("connection")
            return
        produced = self.source.engine.abort(life.request_id, now)
        assert produced is not None, "a held sequence stays until it is released"
        self._held = False
        self._end_copying()
        life.produced = produced
        life.change_owner()
        self.switched = True
        life.slot, life.instance = target, target.name
        life.state = "assigned"
        sequence = self.world.gateway.sequence(life, life.context_tokens - 1)
        target.engine.add(sequence, now)
        self.world.fleet.touch(self.source)
        self.world.fleet.touch(target)

    def _copy(self, tokens: int, then: Callable[[], None]) -> None:
        size_bytes = max(0, tokens) * self.source.kv_bytes_per_token
        links, names = self.world.links, (self.source.name, self.target.name)
        self._transfer = links.send(*names, size_bytes, then)

    def _reserve(self, tokens: int) -> bool:
        """The destination refuses rather than preempt for it. A step more may come meanwhile."""
        target, now = self.target, self.world.agenda.now
        slack = self.source.shape.block_tokens + self.world.settings.last_stage_tokens
        kept = target.engine.reserve(self.life.request_id, tokens + slack, now)
        self.world.fleet.touch(target)
        return kept

    def _begin_copying(self) -> None:
        self._copying = True
        for slot in (self.source, self.target):
            slot.engine.copy_begins(self.world.agenda.now)
            self.world.fleet.touch(slot)

    def _end_copying(self) -> None:
        if not self._copying:
            return
        self._copying = False
        for slot, lives in ((self.source, self.source_lives), (self.target, self.target_lives)):
            if lives:
                slot.engine.copy_ends(self.world.agenda.now)
                self.world.fleet.touch(slot)

    def clean_up(self) -> None:
        super().clean_up()
        if self._transfer is not None:
            self.world.links.stop(self._transfer)
        now, request_id = self.world.agenda.now, self.life.request_id
        self._end_copying()
        if self.target_lives:
            self.target.engine.unreserve(request_id, now)
            self.world.fleet.touch(self.target)
        if self._held and self.source_lives:
            self._held = False
            self.stopped_at = None
            self.source.engine.resume(request_id, now)
            self.world.fleet.touch(self.source)
