"""The real gateway and the simulated one, led through a story by the same calls, for
`test_like_the_gateway.py`."""

from typing import Any, Literal, Protocol

from shunter_gateway.testing_engines import ScriptedCall
from shunter_gateway.testing_world import LOST
from shunter_gateway.testing_world import World as GatewayWorld
from shunter_proto.v1 import moves_pb2
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.domain.decisions import Assign, Cancel, Decision, Move, Suspend
from shunter_simulator.virtual.testing import make_world, small_scenario
from shunter_simulator.workloads import Arrival

Report = tuple[Any, ...]
Rung = Literal["replay", "kv"]
NAMES = ("chat-0", "chat-1", "chat-2")


class Gateway(Protocol):
    """One request on its way through a gateway with three instances."""

    def assign(self, instance: str) -> None: ...
    def begin(self) -> None:
        """The engine answers a few tokens."""

    def fail(self) -> None:
        """The connection to the owner breaks."""

    def move(self, destination: str, epoch: int = 1) -> None: ...
    def warm(self) -> None:
        """The warm-up at the destination ends, or the first stage of the copy."""

    def fail_warm_up(self) -> None: ...
    def break_copy(self) -> None:
        """Before the source stops; what is computed anew at the destination gets there."""

    def lose_copy(self) -> None:
        """The source has stopped, and the destination does not take over."""

    def suspend(self) -> None: ...
    def cancel(self) -> None: ...
    def finish(self) -> None: ...
    def reports(self) -> list[Report]: ...


class RealGateway:
    def __init__(self, rung: Rung = "replay") -> None:
        self.rung = rung
        self.world = GatewayWorld(kv_transport="layout" if rung == "kv" else "")
        self.world.scheduler.auto = False
        self.world.submit()

    def assign(self, instance: str) -> None:
        self.world.scheduler.assign(self.world.scheduler.waiting["r1"], instance)

    def begin(self) -> None:
        self.world.call_of().step(3)
        self.world.settle()

    def fail(self) -> None:
        self.world.call_of().fail(LOST)
        self.world.settle()

    def move(self, destination: str, epoch: int = 1) -> None:
        self.world.scheduler.ledger["r1"] = (epoch, "")
        self.world.scheduler.move("r1", destination, self.rung)
        self.world.settle()

    def _warm_up(self) -> ScriptedCall:
        return next(c for c in self.world.engine.live if "-warm" in c.request.request_id)

    def warm(self) -> None:
        if self.rung == "kv":
            stage = moves_pb2.PullReport(stage=1, tokens=4, source_tokens=5)
            self.world.engine_moves.pulls[-1].report(stage)
        else:
            self._warm_up().step()
        self.world.settle()

    def fail_warm_up(self) -> None:
        if self.rung == "kv":  # and then by replay, which fails as well
            self.world.engine_moves.pulls[-1].report(None)
            self.world.settle()
        self._warm_up().fail(LOST)
        self.world.settle()

    def break_copy(self) -> None:
        self.world.engine_moves.pulls[-1].report(None)
        self.world.settle()
        self._warm_up().step()
        self.world.settle()

    def lose_copy(self) -> None:
        self.world.engine_moves.refusals["Commit"] = moves_pb2.REFUSAL_TRANSFER
        self.warm()

    def suspend(self) -> None:
        self.world.scheduler.suspend("r1")
        self.world.settle()

    def cancel(self) -> None:
        command = pb.Cancel(request_id="r1", epoch=1, reason="drain")
        self.world.scheduler.command(pb.SchedulerCommand(cancel=command))

    def finish(self) -> None:
        self.world.run_out(12)

    def reports(self) -> list[Report]:
        return [r for event in self.world.scheduler.events if (r := self._report(event))]

    @staticmethod
    def _report(event: Any) -> Report | None:
        return report(
            type(event).__name__,
            event,
            tuple(event.excluded_instances) if isinstance(event, pb.Submitted) else (),
        )


class SimulatedGateway:
    """Its scheduler is the test; engines take a millisecond a step, a prompt is of three tokens."""

    def __init__(self, rung: Rung = "replay") -> None:
        self.rung: Rung = rung
        scenario = small_scenario(3, moves={"transport": rung}, engine={"blockTokens": 1})
        self.world = make_world(scenario, ())
        self.sent: list[Any] = []
        setattr(self.world.cell, "send", lambda *events: self.sent.extend(events))  # noqa: B010
        self.world.gateway.arrive(self.world.columns.new_row(), Arrival(0.0, 3, 40))
        self.names = dict(zip(NAMES, self.world.fleet.slots, strict=True))

    def _epoch(self) -> int:
        return next(iter(self.world.gateway.open.values())).epoch

    def _pass(self, seconds: float) -> None:
        end_s = self.world.agenda.now + seconds
        self.world.agenda.at(end_s, lambda: None)
        self.world.agenda.run(lambda: self.world.agenda.now >= end_s)

    def _decided(self, decision: Decision) -> None:
        self.world.gateway.on_decisions([decision])

    def assign(self, instance: str) -> None:
        name = self.names[instance]
        self._decided(Assign("r0", "gateway-0", self._epoch(), name, "chat", "standard", 0, 0.0))

    def begin(self) -> None:
        self._pass(0.060)

    def fail(self) -> None:
        life = self.world.gateway.open["r0"]
        assert life.slot is not None
        self.world.comings.kill(life.slot)
        self._pass(0.2)

    def move(self, destination: str, epoch: int = 1) -> None:
        target = self.names[destination]
        self._decided(Move("r0", "gateway-0", epoch, "", target, self.rung, "test"))

    def warm(self) -> None:
        self._pass(0.013)

    def fail_warm_up(self) -> None:
        self._pass(0.001)
        self.world.comings.kill(self.world.fleet.slots[self.names["chat-1"]])
        self._pass(0.2)

    def break_copy(self) -> None:
        self._pass(0.001)
        destination = self.world.fleet.slots[self.names["chat-1"]]
        self.world.comings.kill(destination)
        self.world.comings.come(destination)
        self._pass(0.050)

    def lose_copy(self) -> None:
        self.warm()
        life = self.world.gateway.open["r0"]
        assert life.slot is not None and not life.slot.engine.decodes("r0")
        self.world.comings.kill(self.world.fleet.slots[self.names["chat-1"]])
        self._pass(0.2)

    def suspend(self) -> None:
        self._decided(Suspend("r0", "gateway-0", self._epoch(), "room"))

    def cancel(self) -> None:
        self._decided(Cancel("r0", "gateway-0", 1, "drain"))

    def finish(self) -> None:
        self._pass(2.0)

    def reports(self) -> list[Report]:
        short = {name: given for given, name in self.names.items()}
        return [r for event in self.sent if (r := self._report(event, short))]

    @staticmethod
    def _report(event: Any, short: dict[str, str]) -> Report | None:
        name = type(event).__name__
        excluded: tuple[str, ...] = ()
        if name == "Submitted":
            event = event.request
            excluded = tuple(short[one] for one in event.excluded_instances)
        return report(name, event, excluded, short)


def report(
    kind: str, event: Any, excluded: tuple[str, ...], short: dict[str, str] | None = None
) -> Report | None:
    """What of an event has to agree: not the times, nor how many tokens there were."""

    def named(instance: str) -> str:
        return short[instance] if short is not None else instance

    match kind:
        case "Submitted":
            began = event.output_tokens > 0
            return kind, event.epoch, began, event.pool, event.suspended, excluded
        case "FirstToken":
            return kind, event.epoch
        case "Finished":
            reason = event.finish_reason
            return kind, event.epoch, "answered" if reason in ("stop", "length") else reason
        case "Failed":
            return kind, event.epoch, named(event.instance), event.reason
        case "MoveDone":
            rung = event.rung if event.moved else ""
            return kind, event.epoch, named(event.instance), event.moved, rung
    return None
