"""What the scheduler last said exists: pools by model name, instances, the headers rules read."""

from collections.abc import Mapping
from dataclasses import dataclass

from shunter_proto.v1 import scheduler_pb2 as pb


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    model_names: tuple[str, ...]  # the name that engines serve first, then aliases
    model_source: str
    revision: str  # equal means that tokens of one can go on in the other
    engine_type: str
    context_length: int  # tokens; 0: not known
    migration_mode: str
    max_retries: int
    max_held: int  # requests held while there is no instance; 0: none are
    hold_timeout_s: float
    reasoning_parser: str = ""  # formats of shunter_text.answer_parts; empty: none
    tool_call_parser: str = ""
    engine_parses_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    name: str
    pool: str
    profile: str
    address: str  # host:port
    engine_type: str
    draining: bool
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    kv_transport: str = ""  # KV caches are copied between equal ones; empty: not at all
    moves_address: str = ""  # host:port of its `EngineMoves`, or of its slots

    @property
    def copies_slots(self) -> bool:
        """Its KV cache is saved to a file, and read from one, while the request stands still."""
        return self.engine_type == "llamacpp" and bool(self.kv_transport)


@dataclass(frozen=True, slots=True)
class Topology:
    """Immutable; a new one replaces it as a whole."""

    version: int
    pools: Mapping[str, Pool]
    instances: Mapping[str, Instance]
    pools_by_model: Mapping[str, Pool]
    instances_by_pool: Mapping[str, tuple[Instance, ...]]
    rule_headers: frozenset[str]
    rule_models: frozenset[str]
    rule_targets: Mapping[str, tuple[Pool, ...]]  # by model names that no pool has as its own
    block_tokens: int

    def serves(self, model: str) -> bool:
        """Whether clients may ask for this name."""
        return model in self.pools_by_model or model in self.rule_models

    def pools_of(self, model: str) -> tuple[Pool, ...]:
        """Where a request for this name may go: its own pool, or all that rules lead it to."""
        own = self.pools_by_model.get(model)
        return (own,) if own is not None else self.rule_targets.get(model, ())


def topology_from_proto(message: pb.Topology) -> Topology:
    pools = {pool.name: _pool(pool) for pool in message.pools}
    instances = {instance.name: _instance(instance) for instance in message.instances}
    by_pool: dict[str, list[Instance]] = {name: [] for name in pools}
    for instance in instances.values():
        by_pool.setdefault(instance.pool, []).append(instance)
    return Topology(
        version=message.version,
        pools=pools,
        instances=instances,
        pools_by_model={name: pool for pool in pools.values() for name in pool.model_names},
        instances_by_pool={name: tuple(members) for name, members in by_pool.items()},
        rule_headers=frozenset(message.rule_headers),
        rule_models=frozenset(message.rule_models),
        rule_targets={
            target.model: tuple(pools[name] for name in target.pools if name in pools)
            for target in message.rule_targets
        },
        block_tokens=message.block_tokens,
    )


def _pool(message: pb.Topology.Pool) -> Pool:
    return Pool(
        name=message.name,
        model_names=tuple(message.model_names) or (message.name,),
        model_source=message.model_source,
        revision=message.revision,
        engine_type=message.engine_type,
        context_length=message.context_length,
        migration_mode=message.migration_mode,
        max_retries=message.max_retries,
        max_held=message.max_held,
        hold_timeout_s=message.hold_timeout_ms / 1000,
        reasoning_parser=message.reasoning_parser,
        tool_call_parser=message.tool_call_parser,
        engine_parses_reasoning=message.engine_parses_reasoning,
    )


def _instance(message: pb.Topology.Instance) -> Instance:
    return Instance(
        name=message.name,
        pool=message.pool,
        profile=message.profile,
        address=message.address,
        engine_type=message.engine_type,
        draining=message.draining,
        prefill_tokens_per_s=message.prefill_tokens_per_s,
        decode_tokens_per_s=message.decode_tokens_per_s,
        kv_transport=message.kv_transport,
        moves_address=message.moves_address,
    )
