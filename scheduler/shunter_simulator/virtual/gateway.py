"""The gateway of a simulated world: epochs, placements, answers, retries, reports.

It does in virtual time what `RequestLifecycle` of the gateway does on a clock, by lengths instead
of tokens.
"""

from collections.abc import Sequence
from functools import singledispatchmethod

from shunter_scheduler.domain import decisions as to_do
from shunter_scheduler.domain.decisions import Decision
from shunter_scheduler.domain.events import (
    Failed,
    Finished,
    FirstToken,
    MoveDone,
    Progress,
)
from shunter_simulator.engine import PromptTooLong
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.cell import Cell
from shunter_simulator.virtual.desk import Desk, GatewayRules
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.life import Ending, Life
from shunter_simulator.virtual.moves import Mover
from shunter_simulator.virtual.values import EngineEvent, VirtualSequence
from shunter_simulator.workloads import Arrival

BACKOFF_S = 0.5  # before the only instance that there is gets a request again, doubled each time


class VirtualGateway:
    def __init__(self, agenda: Agenda, cell: Cell, fleet: Fleet, rules: GatewayRules) -> None:
        self._agenda = agenda
        self._cell = cell
        self._fleet = fleet
        self._rules = rules
        self._desk = Desk(cell, fleet, rules)
        self._streaming: dict[str, Life] = {}
        self.open: dict[str, Life] = {}
        self.mover: Mover
        self.ending: Ending

    # ------------------------------------------------------------ waiting

    def arrive(self, row: int, arrival: Arrival) -> None:
        life = self._desk.take_in(row, arrival)
        self.open[life.request_id] = life
        self._desk.submit(life)

    # ------------------------------------------------------------ commands; stale ones are dropped

    def on_decisions(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            life = self.open.get(decision.request_id)
            if life is not None and life.epoch == decision.epoch:
                self._on(decision, life)

    @singledispatchmethod
    def _on(self, decision: Decision, life: Life) -> None:
        raise TypeError(f"no way to carry out {decision!r}")

    @_on.register
    def _(self, decision: to_do.Assign, life: Life) -> None:
        if life.state != "waiting":
            return
        if life.first_assigned_at is None:
            life.first_assigned_at = self._agenda.now
            life.predicted_cached_tokens = decision.cached_tokens
        life.pool, life.slo_class = decision.pool, decision.slo_class
        life.priority, life.suspended = decision.priority, False
        self.call(life, self._fleet.slots[decision.instance])

    @_on.register
    def _(self, decision: to_do.Hold, life: Life) -> None:
        """The request waits: it is told, and that is all."""

    @_on.register
    def _(self, decision: to_do.Reject, life: Life) -> None:
        if life.state != "waiting":
            return
        if life.began or life.retries >= self._rules.retries:
            self._end(life, decision.reason)
            return
        life.retries += 1
        del self.open[life.request_id]
        self._agenda.after(decision.retry_after_s, self._come_again, life)

    @_on.register
    def _(self, decision: to_do.Move, life: Life) -> None:
        if life.state in ("assigned", "streaming"):
            self.mover.start(life, decision)

    @_on.register
    def _(self, decision: to_do.Suspend, life: Life) -> None:
        if life.state not in ("assigned", "streaming"):
            return
        if life.move is not None or not self.leave_engine(life):
            self.report_move(life, moved=False, rung="", reason="finished")
            return
        life.suspended = True
        life.suspensions += 1
        self._desk.submit(life)

    @_on.register
    def _(self, decision: to_do.Cancel, life: Life) -> None:
        """Its instance goes at a drain's deadline: as after its death, but no engine has failed."""
        self.mover.end(life, "drained")  # which puts back what it holds at the source
        if life.state == "waiting" or not self.leave_engine(life):
            return
        life.left += (life.instance,)
        self._desk.submit(life)

    def _come_again(self, life: Life) -> None:
        """A client that was turned away sends its request anew."""
        life.request_id = f"r{life.row}.{life.retries}"
        life.waits_since = self._agenda.now
        self.open[life.request_id] = life
        self._desk.submit(life)

    # ------------------------------------------------------------ the engine call

    def call(self, life: Life, slot: Slot) -> None:
        """Sends the request to an engine, which owns it from here on."""
        life.slot, life.instance = slot, slot.name
        life.state = "assigned"
        life.entered = False
        life.call_at = self._agenda.now
        self._agenda.after(self._rules.engine_delay_s, self._enter, life, life.calls)

    def _enter(self, life: Life, call: int) -> None:
        slot = life.slot
        if life.calls != call or slot is None:
            return
        if not slot.there:
            self._agenda.after(
                self._rules.engine_delay_s, self.engine_failed, life, call, life.produced
            )
            return
        try:
            slot.engine.add(self.sequence(life), self._agenda.now)
        except PromptTooLong:
            self._agenda.after(self._rules.engine_delay_s, self._refused, life, call)
            return
        life.entered = True
        self._fleet.touch(slot)

    def sequence(self, life: Life, resident_tokens: int = 0) -> VirtualSequence:
        return VirtualSequence(
            life.request_id,
            life.arrival.prompt_tokens,
            life.output_tokens,
            life.produced,
            resident_tokens,
            life.blocks,
            life.priority,
        )

    def stop_engine(self, life: Life) -> bool:
        """Ends the present call and notes how far it came. False: its end is on the way."""
        slot, life.slot = life.slot, None
        if slot is None or not slot.there:
            return True
        now = self._agenda.now
        produced = slot.engine.abort(life.request_id, now)
        if produced is not None:
            life.produced = produced if life.began else 0  # nothing of it was heard
        elif life.entered:
            life.slot = slot
            return False
        self._fleet.touch(slot)
        return True

    def leave_engine(self, life: Life) -> bool:
        """Waits again, under the next epoch. False where its end is on the way."""
        if not self.stop_engine(life):
            return False
        self._streaming.pop(life.request_id, None)
        life.change_owner()
        life.state = "waiting"
        life.waits_since = self._agenda.now
        return True

    # ------------------------------------------------------------ what engines say

    def on_engine_event(self, slot: Slot, event: EngineEvent) -> None:
        """At the engine; the gateway hears it a little later."""
        life = self.open.get(event.request_id)
        if life is None or life.slot is not slot:
            if (warm_up := slot.warming.get(event.request_id)) is not None:
                warm_up.on_engine_event(event)
            return
        if event.kind == "preempted":
            life.preemptions += 1
        elif event.kind == "resumed":
            life.loss_s += event.loss_s
        else:
            heard = self._first_token if event.kind == "first_token" else self._finished
            heard_at = event.at_s + self._rules.engine_delay_s
            self._agenda.at(heard_at, heard, life, life.calls, event)

    def _first_token(self, life: Life, call: int, event: EngineEvent) -> None:
        if life.calls != call or life.state != "assigned":
            return
        now = self._agenda.now
        life.state = "streaming"
        self._streaming[life.request_id] = life
        if life.first_token_at is None:
            life.first_token_at = now
            life.cached_tokens = event.cached_tokens
        if not self.mover.on_token(life):
            ttft_s = now - life.call_at
            self._cell.send(FirstToken(life.request_id, life.epoch, ttft_s, event.cached_tokens))

    def _finished(self, life: Life, call: int, event: EngineEvent) -> None:
        if life.calls != call or life.state == "done":
            return
        life.produced = event.produced
        life.slot = None
        self._close(life, "finished")

    def _refused(self, life: Life, call: int) -> None:
        """It does not fit into the engine's memory: the client's own fault, or a continuation that
        has to go elsewhere."""
        if life.calls != call or life.state == "done":
            return
        life.slot = None
        if life.produced:
            self._recover(life, "protocol")
        else:
            self._close(life, "context_length")

    def report_progress(self) -> None:
        """How far all answers are, as one batch."""
        now = self._agenda.now
        events = []
        for life in self._streaming.values():
            slot = life.slot
            if slot is None or not slot.there:
                continue
            try:
                produced = slot.engine.produced(life.request_id, now)
            except KeyError:  # its end is on the way
                continue
            if produced != life.reported_tokens:
                life.reported_tokens = produced
                events.append(Progress(life.request_id, life.epoch, produced))
        if events:
            self._cell.send(*events)

    # ------------------------------------------------------------ failure

    def engine_failed(self, life: Life, call: int, produced: int) -> None:
        """The connection broke: all that the engine sent until then is in the journal."""
        if life.calls != call or life.state == "done":
            return
        life.produced = produced
        life.slot = None
        self._recover(life, "connection")

    def _recover(self, life: Life, reason: str) -> None:
        life.left += (life.instance,)
        life.failures += 1
        failures = life.failures
        self.mover.end(life, "source_failed")
        self._cell.send(Failed(life.request_id, life.epoch, life.instance, reason, life.produced))
        if failures > self._rules.pools[life.pool].migration.max_retries:
            self._close(life, "error")
            return
        self.leave_engine(life)
        if self._desk.excluded(life):
            self._desk.submit(life)
        else:
            self._agenda.after(
                BACKOFF_S * 2 ** (failures - 1), self._desk.submit_again, life, life.epoch
            )

    # ------------------------------------------------------------ the end

    def report_move(
        self, life: Life, *, moved: bool, rung: str, reason: str = "", stall_s: float = 0.0
    ) -> None:
        done = MoveDone(life.request_id, life.epoch, life.instance, moved, rung, reason, stall_s)
        self._cell.send(done)

    def _close(self, life: Life, outcome: str) -> None:
        """The scheduler hears of it."""
        self.mover.end(life, "finished")
        whole = life.produced == life.arrival.output_tokens
        ended = "stop" if whole else "length"
        said = ended if outcome == "finished" else "error"
        self._cell.send(Finished(life.request_id, life.epoch, life.produced, said))
        self._end(life, outcome)

    def _end(self, life: Life, outcome: str) -> None:
        life.state = "done"
        self._streaming.pop(life.request_id, None)
        del self.open[life.request_id]
        self.ending.ended(life, outcome)
