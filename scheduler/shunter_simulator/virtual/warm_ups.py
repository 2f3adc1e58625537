"""The rung `replay`: the destination computes prompt and answer so far into its prefix cache while
the source goes on, again for what came meanwhile, then the request switches."""

from shunter_simulator.engine import PromptTooLong
from shunter_simulator.virtual.blocks import all_blocks
from shunter_simulator.virtual.moving import Move, Rung
from shunter_simulator.virtual.values import EngineEvent, VirtualSequence

WARM_TIMEOUT_S = 30.0


class ReplayMove(Move):
    rung: Rung = "replay"
    _rounds: int = 0
    _warmed_tokens: int = 0
    _warm_id: str = ""  # of the warm-up at the destination, if one is there

    def start(self) -> None:
        if self.target.shape.cache_block_tokens:
            self._warm()
            self.later(WARM_TIMEOUT_S, self._expire)
        else:
            self.switch()

    def _warm(self) -> None:
        tokens = self.source_tokens()
        if tokens is None:
            self.fail("finished")
            return
        self._rounds += 1
        self._warmed_tokens = tokens
        self.later(self.world.engine_delay_s, self._enter)

    def _enter(self) -> None:
        """A call for one token that is thrown away, under an id of its own."""
        target, life = self.target, self.life
        if not target.there:
            self.later(self.world.engine_delay_s, self._refused)
            return
        warm_id = f"{life.request_id}-warm{life.epoch}.{self._rounds}"
        blocks = all_blocks(life.blocks, life.row, self._warmed_tokens)
        warm = VirtualSequence(warm_id, self._warmed_tokens, 1, blocks=blocks)
        try:
            target.engine.add(warm, self.world.agenda.now)
        except PromptTooLong:
            self.later(self.world.engine_delay_s, self._refused)
            return
        self._warm_id = warm_id
        target.warming[warm_id] = self
        self.world.fleet.touch(target)

    def _refused(self) -> None:
        self.fail("warm-up failed")

    def on_engine_event(self, event: EngineEvent) -> None:
        if event.kind == "finished":
            self.target.warming.pop(self._warm_id, None)
            self._warm_id = ""
            heard_at = event.at_s + self.world.engine_delay_s
            self.later(heard_at - self.world.agenda.now, self._warmed)

    def _warmed(self) -> None:
        settings, tokens = self.world.settings, self.source_tokens()
        if tokens is None:
            self.fail("finished")
            return
        missing = tokens - self._warmed_tokens
        if missing > settings.last_stage_tokens and self._rounds < settings.max_stages:
            self._warm()
        else:
            self.switch()

    def switch(self) -> None:
        life, tokens = self.life, self.source_tokens()
        if tokens is not None:
            life.blocks = all_blocks(life.blocks, life.row, tokens)
        super().switch()

    def _expire(self) -> None:
        if not self.switched:
            self.fail("warm-up timed out")

    def clean_up(self) -> None:
        super().clean_up()
        if self._warm_id and self.target_lives:
            self.target.engine.abort(self._warm_id, self.world.agenda.now)
            self.target.warming.pop(self._warm_id, None)
            self.world.fleet.touch(self.target)
