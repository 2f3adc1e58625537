"""A fake scheduler: it assigns round robin, or as a test tells it."""

from collections.abc import Iterable, Mapping

from shunter_gateway.lifecycle_ports import Clock, SchedulerEvent, SessionListener
from shunter_proto.v1 import scheduler_pb2 as pb

MAX_HELD = 3
HOLD_TIMEOUT_S = 60


def topology_message(
    instances: Mapping[str, str],
    context_length: int = 4096,
    engine_type: str = "simulated",
    from_zero: Iterable[str] = (),
    kv_transport: str = "",
) -> pb.Topology:
    """Instances by name, each with its pool; a pool serves the model of its own name. Pools
    `from_zero` hold `MAX_HELD` requests for `HOLD_TIMEOUT_S` while they have no instance."""
    from_zero = tuple(from_zero)
    return pb.Topology(
        version=1,
        block_tokens=64,
        rule_headers=["x-tier"],
        pools=[
            pb.Topology.Pool(
                name=pool,
                model_names=[pool, f"{pool}-alias"],
                model_source=f"sim://{pool}",
                revision=f"sim://{pool}",
                engine_type=engine_type,
                context_length=context_length,
                migration_mode="Auto",
                max_retries=3,
                max_held=MAX_HELD if pool in from_zero else 0,
                hold_timeout_ms=HOLD_TIMEOUT_S * 1000 if pool in from_zero else 0,
            )
            for pool in dict.fromkeys((*instances.values(), *from_zero))
        ],
        instances=[
            pb.Topology.Instance(
                name=name,
                pool=pool,
                profile="l4",
                address=f"{name}:1",
                engine_type=engine_type,
                prefill_tokens_per_s=1000,
                decode_tokens_per_s=50,
                kv_transport=kv_transport,
                moves_address=f"{name}:2" if kv_transport else "",
            )
            for name, pool in instances.items()
        ],
    )


class FakeScheduler:
    """A `SchedulerLink` with a scheduler behind it that assigns round robin, at once.

    `auto` False: tests send the commands. It keeps the ledger that a scheduler would keep.
    """

    def __init__(self, clock: Clock, topology: pb.Topology) -> None:
        self._clock = clock
        self.topology = topology
        self.listener: SessionListener | None = None
        self.auto = True
        self.lost_since: float | None = None
        self.heard_at = 0.0
        self.events: list[SchedulerEvent] = []
        self.ledger: dict[str, tuple[int, str]] = {}  # request -> (epoch, instance)
        self.waiting: dict[str, pb.Submitted] = {}
        self._turn = 0

    def connect(self, listener: SessionListener) -> None:
        self.listener = listener
        self.lost_since = None
        self.command(pb.SchedulerCommand(topology=self.topology))
        listener.on_session()

    def lose(self) -> None:
        """The scheduler dies, and with it what it knew."""
        self.lost_since = self._clock.time()
        self.ledger.clear()
        self.waiting.clear()

    def command(self, *commands: pb.SchedulerCommand) -> None:
        assert self.listener is not None
        self.heard_at = self._clock.time()
        self.listener.on_commands(pb.SchedulerCommands(commands=commands))

    def send(self, event: SchedulerEvent) -> None:
        if self.lost_since is not None:
            return
        self.events.append(event)
        match event:
            case pb.Submitted():
                self.ledger.pop(event.request_id, None)
                self.waiting[event.request_id] = event
                if self.auto:
                    self._clock.call_later(0, lambda: self._answer(event))
            case pb.Running():
                request = event.request
                self.waiting.pop(request.request_id, None)
                self.ledger[request.request_id] = (request.epoch, event.instance)
            case pb.Finished() | pb.Failed():
                self.waiting.pop(event.request_id, None)
                self.ledger.pop(event.request_id, None)
            case pb.MoveDone() if event.moved or event.request_id in self.ledger:
                self.ledger[event.request_id] = (event.epoch, event.instance)
            case _:
                pass

    def _answer(self, event: pb.Submitted) -> None:
        if self.waiting.get(event.request_id) is not event or self.lost_since is not None:
            return
        candidates = [
            instance
            for instance in self.topology.instances
            if instance.pool == event.model.removesuffix("-alias")
            and instance.name not in event.excluded_instances
        ]
        if not candidates:
            reject = pb.Reject(request_id=event.request_id, epoch=event.epoch, reason="no_instance")
            del self.waiting[event.request_id]
            self.command(pb.SchedulerCommand(reject=reject))
            return
        self._turn += 1
        self.assign(event, candidates[self._turn % len(candidates)].name)

    def assign(self, event: pb.Submitted, instance: str) -> None:
        target = next(i for i in self.topology.instances if i.name == instance)
        self.waiting.pop(event.request_id, None)
        self.ledger[event.request_id] = (event.epoch, instance)
        assign = pb.Assign(
            request_id=event.request_id,
            epoch=event.epoch,
            instance=instance,
            pool=target.pool,
            address=target.address,
        )
        self.command(pb.SchedulerCommand(assign=assign))

    def move(
        self, request_id: str, destination: str, rung: str = "replay", reason: str = "test"
    ) -> None:
        epoch, _ = self.ledger[request_id]
        target = next(i for i in self.topology.instances if i.name == destination)
        move = pb.Move(
            request_id=request_id,
            epoch=epoch,
            destination=destination,
            address=target.address,
            rung=rung,
            reason=reason,
        )
        self.command(pb.SchedulerCommand(move=move))

    def suspend(self, request_id: str) -> None:
        epoch, _ = self.ledger[request_id]
        self.command(pb.SchedulerCommand(suspend=pb.Suspend(request_id=request_id, epoch=epoch)))

    def sent(self, kind: type[SchedulerEvent]) -> list[SchedulerEvent]:
        return [event for event in self.events if isinstance(event, kind)]
