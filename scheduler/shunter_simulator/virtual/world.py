"""A simulated world: the real decision core over virtual engines, in virtual time."""

from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import count
from pathlib import Path

import numpy as np

from shunter_api.rules import DEFAULT_CLASS
from shunter_scheduler.core import SchedulerCore
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.events import TopologyChanged
from shunter_simulator.scenarios import Scenario
from shunter_simulator.scenarios.checks import policy_of
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.autoscaler import Autoscaler, ScaledWorld
from shunter_simulator.virtual.build import core_settings, pools_of, profile_costs, slots
from shunter_simulator.virtual.cell import Cell
from shunter_simulator.virtual.columns import RequestColumns
from shunter_simulator.virtual.comings import Comings
from shunter_simulator.virtual.desk import GatewayRules
from shunter_simulator.virtual.faults import Faults
from shunter_simulator.virtual.fleet import Fleet
from shunter_simulator.virtual.gateway import VirtualGateway
from shunter_simulator.virtual.life import Life
from shunter_simulator.virtual.moves import Mover
from shunter_simulator.virtual.results import (
    FINISHED,
    Counters,
    InstanceUse,
    Results,
    Targets,
)
from shunter_simulator.virtual.watching import Sampler, Watcher
from shunter_simulator.workloads import Arrival
from shunter_simulator.workloads.build import Workload, build_workload

OnProgress = Callable[[int, int, int, float], None]
"""Requests ended, requests in all as far as known, requests in flight, virtual seconds."""
STUCK_S = 4 * 3600.0


class SimulationStuck(RuntimeError):
    """Requests are open, and nothing has happened to any for hours of virtual time."""


def simulate(
    scenario: Scenario,
    seed: int | None = None,
    arrivals: Iterable[Arrival] | Workload | None = None,
    on_progress: OnProgress | None = None,
    data_folder: Path | None = None,
) -> Results:
    """Runs a scenario. The same scenario, seed and arrivals give the same results.

    `seed` None: the scenario's. `arrivals` take the place of the scenario's workload, in order of
    time. `on_progress` hears of the run about once in a simulated second. Raises `WorkloadError`
    and `SimulationStuck`.
    """
    seed = scenario.seed if seed is None else seed
    if arrivals is None:
        arrivals = build_workload(scenario.workload, seed, data_folder)
    if isinstance(arrivals, Workload):
        return World(scenario, seed, arrivals.arrivals, arrivals, on_progress).run()
    return World(scenario, seed, arrivals, None, on_progress).run()


class World:
    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        arrivals: Iterable[Arrival],
        workload: Workload | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._expected = len(arrivals) if isinstance(arrivals, Sized) else 0
        self._arrivals: Iterator[Arrival] = iter(arrivals)
        self._plan = workload.plan if workload is not None else None
        self._notes = (workload.note,) if workload is not None and workload.note else ()
        self._abandoned: set[str] = set()
        self._on_progress = on_progress
        core_rng, self._fault_rng = (
            np.random.default_rng([seed, stream]) for stream in (0xC0DE, 0xFA17)
        )
        network = scenario.network
        self.agenda = Agenda()
        self.columns = RequestColumns()
        self.counters = Counters()
        core = SchedulerCore(core_settings(scenario), core_rng, profile_costs(scenario))
        self.cell = Cell(self.agenda, core, network.scheduler_s)
        self._pools = pools_of(scenario)
        self.fleet = Fleet(self.agenda, slots(scenario), lambda s, e: gateway.on_engine_event(s, e))
        gateway = self.gateway = VirtualGateway(self.agenda, self.cell, self.fleet, self._rules())
        gateway.ending = self
        gateway.mover = self.mover = Mover(
            self.agenda, self.fleet, gateway, scenario.moves, network.engine_s
        )
        self.cell.listener = gateway.on_decisions
        self.watcher = Watcher(self.agenda, self.fleet)
        self.sampler = Sampler(self.agenda, self.fleet, scenario.sample_every_s)
        comings = self.comings = Comings(
            self.agenda, self.cell, self.fleet, gateway, self.watcher, network
        )
        comings.topology = self._topology
        self._faults = Faults(self.agenda, self.cell, self.fleet, comings, network, self.counters)
        if scenario.autoscaling is not None:
            scaled = ScaledWorld(self.agenda, self.fleet, gateway, comings, self.cell.core)
            Autoscaler(scaled, scenario.autoscaling).begin()
        self._versions = count(1)
        self._known = 0  # requests that have come or are about to
        self._ended = 0
        self._exhausted = False
        self._ended_at = 0.0
        self._busy_since = 0.0

    def _rules(self) -> GatewayRules:
        return GatewayRules(
            {pool.name: pool for pool in self._pools},
            self._pools[0].model_names[0],
            self._scenario.network.engine_s,
            self._scenario.rejected.retries,
        )

    def _topology(self) -> Topology:
        listed = tuple(slot.value for slot in self.fleet.slots.values() if slot.listed)
        policies = (policy_of(self._scenario),)
        return Topology(next(self._versions), self._pools, policies, listed)

    # ------------------------------------------------------------ the run

    def run(self) -> Results:
        scenario = self._scenario
        self.cell.tell(TopologyChanged(self._topology()))
        self.cell.tell(*self.watcher.look())
        if scenario.observe_every == "step":
            self.cell.look = self.watcher.look
        else:
            self._observe()
        self._progress()
        self._sample()
        self._faults.plan(scenario.faults, self._fault_rng)
        self._next_arrival()
        self.agenda.run(self._over)
        return self._results()

    def _over(self) -> bool:
        """Once all have ended, and the scheduler has heard of it."""
        if self._ended < self._known or not self._exhausted:
            return False
        network = self._scenario.network
        settled_s = 2 * (network.scheduler_s + network.engine_s)
        return self.agenda.now > self._ended_at + settled_s

    def _next_arrival(self) -> None:
        """One at a time, so that a long trace is never here as a whole."""
        arrival = next(self._arrivals, None)
        if arrival is None:
            self._exhausted = True
            return
        self._known += 1
        self.agenda.at(arrival.at_s, self._arrive, arrival, True)

    def _arrive(self, arrival: Arrival, from_trace: bool) -> None:
        if not self.gateway.open:
            self._busy_since = self.agenda.now
        self.gateway.arrive(self.columns.new_row(), arrival)
        if from_trace:
            self._next_arrival()

    def _observe(self) -> None:
        events = tuple(self.watcher.look())
        if events:
            self.cell.tell(*events)
        self.agenda.after(float(self._scenario.observe_every), self._observe)

    def _progress(self) -> None:
        self.gateway.report_progress()
        self.agenda.after(self._scenario.progress_every_s, self._progress)

    def _sample(self) -> None:
        now = self.agenda.now
        if self.gateway.open and now > max(self._ended_at, self._busy_since) + STUCK_S:
            raise SimulationStuck(
                f"no request has ended for {STUCK_S / 3600:g} virtual hours; "
                f"{len(self.gateway.open)} are open, first {next(iter(self.gateway.open))}"
            )
        self.sampler.sample(len(self.gateway.open))
        if self._on_progress is not None:
            total = max(self._expected, self._known)
            self._on_progress(self._ended, total, len(self.gateway.open), now)
        self.agenda.after(self.sampler.every_s, self._sample)

    # ------------------------------------------------------------ ends

    def ended(self, life: Life, outcome: str) -> None:
        self._ended += 1
        self._ended_at = self.agenda.now
        self._write(life, outcome)
        workflow = life.arrival.workflow
        if self._plan is None or not workflow or workflow in self._abandoned:
            return
        if outcome != FINISHED:
            self._abandoned.add(workflow)
            self._plan.abandoned(workflow)
            return
        for arrival in self._plan.ready(workflow, life.arrival.stage, self.agenda.now):
            self._known += 1
            self.agenda.at(arrival.at_s, self._arrive, arrival, False)

    def _write(self, life: Life, outcome: str) -> None:
        """The request's row; nothing else of it is kept."""
        arrival, names, at_s = life.arrival, self.columns.names, life.arrival.at_s
        first_at, placed_at = life.first_token_at, life.first_assigned_at
        deadline_s = arrival.workflow_deadline_s
        model = arrival.model or self._pools[0].model_names[0]
        pool = life.pool or next((p.name for p in self._pools if model in p.model_names), "")
        self.columns.put(
            life.row,
            (
                ("arrival_s", at_s),
                ("ttft_s", np.nan if first_at is None else first_at - at_s),
                ("e2e_s", self.agenda.now - at_s),
                ("queued_s", np.nan if placed_at is None else placed_at - at_s),
                ("prompt_tokens", arrival.prompt_tokens),
                ("output_tokens", life.produced),
                ("asked_tokens", arrival.output_tokens),
                ("slo_class", names["slo_class"].code(self._class_of(life))),
                ("tenant", names["tenant"].code(arrival.tenant)),
                ("model", names["model"].code(model)),
                ("pool", names["pool"].code(pool)),
                ("instance", names["instance"].code(life.instance)),
                ("outcome", names["outcome"].code(outcome)),
                ("workflow", names["workflow"].code(arrival.workflow)),
                ("stage", names["stage"].code(arrival.stage)),
                ("due_s", np.nan if deadline_s is None else arrival.workflow_at_s + deadline_s),
                ("preemptions", life.preemptions),
                ("preemption_loss_s", life.loss_s),
                ("moves", life.moves),
                ("stall_s", life.stall_s),
                ("suspensions", life.suspensions),
                ("failures", life.failures),
                ("retries", life.retries),
                ("cached_tokens", life.cached_tokens),
                ("predicted_cached_tokens", life.predicted_cached_tokens),
            ),
        )

    @staticmethod
    def _class_of(life: Life) -> str:
        return life.slo_class or life.arrival.slo_class or DEFAULT_CLASS

    # ------------------------------------------------------------ what came of it

    def _results(self) -> Results:
        end_s = self._ended_at
        uses = tuple(
            InstanceUse(
                slot.name,
                slot.value.pool,
                slot.value.profile,
                seconds := min(slot.seconds(end_s), end_s),
                seconds * slot.dollars_per_s,
            )
            for slot in self.fleet.slots.values()
        )
        names = {field: known.texts for field, known in self.columns.names.items()}
        return Results(
            scenario=self._scenario.name,
            seed=self._seed,
            policy=self._scenario.policy.dispatch.policy,
            warmup_s=self._scenario.warmup_s,
            duration_s=end_s,
            columns=self.columns.done(),
            names=names,
            targets=self._targets(names["slo_class"]),
            moves=tuple(self.mover.log),
            load=self.sampler.series(),
            instances=uses,
            counters=dict(sorted(self.counters.values.items())),
            notes=self._notes,
        )

    def _targets(self, classes: Iterable[str]) -> dict[tuple[str, str], Targets]:
        """As routing has them: a class's own, the pool's where requests have no class."""
        told = {one.name: one for one in self._scenario.policy.classes}
        targets: dict[tuple[str, str], Targets] = {}
        for pool in self._pools:
            for name in classes:
                own = told.get(name)
                found = Targets(own.ttft_s, own.tpot_s, own.deadline_s) if own else Targets()
                if own is None or name == DEFAULT_CLASS:
                    slo = pool.slo
                    ttft_s, tpot_s = slo.ttft_s or found.ttft_s, slo.tpot_s or found.tpot_s
                    found = Targets(ttft_s, tpot_s, found.e2e_s)
                targets[pool.name, name] = found
        return targets
