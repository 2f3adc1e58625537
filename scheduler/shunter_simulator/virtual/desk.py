"""How the gateway of a simulated world asks the scheduler for a placement."""

from dataclasses import dataclass

from shunter_api.modelpool import ModelPool
from shunter_scheduler.domain.events import Submitted
from shunter_scheduler.domain.request import Request
from shunter_simulator.virtual.blocks import hashes, shared_blocks
from shunter_simulator.virtual.cell import Cell
from shunter_simulator.virtual.fleet import Fleet
from shunter_simulator.virtual.life import Life
from shunter_simulator.workloads import Arrival

GATEWAY = "gateway-0"


@dataclass(frozen=True, slots=True)
class GatewayRules:
    """`pools` by name and by the names of their models; `retries` of clients turned away."""

    pools: dict[str, ModelPool]
    default_model: str
    engine_delay_s: float
    retries: int


class Desk:
    """Takes requests in, and submits them as often as it takes."""

    def __init__(self, cell: Cell, fleet: Fleet, rules: GatewayRules) -> None:
        self._cell = cell
        self._fleet = fleet
        self._rules = rules
        self._models = {name: pool for pool in rules.pools.values() for name in pool.model_names}

    def take_in(self, row: int, arrival: Arrival) -> Life:
        life = Life(row, arrival, self._answer_tokens(arrival))
        life.blocks = shared_blocks(arrival)
        if life.blocks:
            life.hashes = hashes(life.blocks)
        return life

    def _answer_tokens(self, arrival: Arrival) -> int:
        """Cut to what the model's context leaves."""
        pool = self._models.get(arrival.model or self._rules.default_model)
        if pool is None:
            return arrival.output_tokens
        return max(1, min(arrival.output_tokens, pool.context_length - arrival.prompt_tokens))

    def submit(self, life: Life) -> None:
        arrival = life.arrival
        due = arrival.workflow_deadline_s
        request = Request(
            request_id=life.request_id,
            gateway_id=GATEWAY,
            epoch=life.epoch,
            model=arrival.model or self._rules.default_model,
            tenant=arrival.tenant,
            prompt_tokens=arrival.prompt_tokens,
            max_output_tokens=0,
            arrived_at=arrival.at_s if not life.retries else life.waits_since,
            output_tokens=life.produced,
            block_hashes=life.hashes,
            slo_class=arrival.slo_class,
            excluded_instances=self.excluded(life),
            pool=life.pool if life.began else "",
            queued_at=life.waits_since,
            workflow=arrival.workflow,
            stage=arrival.stage,
            stages_left=arrival.stages_left,
            workflow_deadline_at=None if due is None else arrival.workflow_at_s + due,
            suspended=life.suspended,
        )
        self._cell.send(Submitted(request))

    def submit_again(self, life: Life, epoch: int) -> None:
        """After a wait, unless something else came of it."""
        if life.epoch == epoch and life.state == "waiting":
            self.submit(life)

    def excluded(self, life: Life) -> tuple[str, ...]:
        """Those that failed it, or were drained; nobody where that would leave none."""
        if not life.left:
            return ()
        others = (s for s in self._fleet.slots.values() if s.listed and s.value.pool == life.pool)
        return life.left if any(s.name not in life.left for s in others) else ()
