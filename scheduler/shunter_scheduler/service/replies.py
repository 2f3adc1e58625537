"""Domain reports to protobuf replies: topology, explanation, status, advice, drain progress."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from shunter_api.engine import parses_reasoning
from shunter_api.modelpool import ModelPool
from shunter_api.rules import RouteTable
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.domain.explanation import Candidate, DecisionRecord, Explanation
from shunter_scheduler.domain.status import ClusterStatus, DrainStatus, ScalingAdvice


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates of one instance for gateways that must dispatch by themselves; 0: not known."""

    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0  # of one sequence in a half-full batch


UNKNOWN_SPEED = Speed()


@dataclass(frozen=True, slots=True)
class KvMoves:
    """How an instance copies KV caches; both empty: it does not."""

    transport: str = ""  # equal at both ends of a copy
    address: str = ""  # host:port of its `EngineMoves`


NO_KV_MOVES = KvMoves()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of instances beside the configuration, by name."""

    draining: frozenset[str]
    speeds: Mapping[str, Speed]
    kv_moves: Mapping[str, KvMoves]


def to_topology(topology: Topology, seen: Seen, block_tokens: int) -> pb.Topology:
    rules = RouteTable(topology.policies, topology.pools)
    return pb.Topology(
        version=topology.version,
        pools=[_pool(pool) for pool in topology.pools],
        instances=[_instance(instance, seen) for instance in topology.instances],
        rule_headers=sorted(rules.rule_headers),
        rule_models=sorted(rules.rule_models),
        rule_targets=[
            pb.Topology.RuleTarget(model=model, pools=pools)
            for model in sorted(rules.rule_models - _own_names(topology))
            if (pools := rules.targets(model))
        ],
        block_tokens=block_tokens,
    )


def _own_names(topology: Topology) -> set[str]:
    return {name for pool in topology.pools for name in pool.model_names}


def _pool(pool: ModelPool) -> pb.Topology.Pool:
    from_zero = pool.spec.scaling.from_zero
    return pb.Topology.Pool(
        name=pool.name,
        model_names=pool.model_names,
        model_source=pool.tokenizer_source,
        revision=pool.revision,
        engine_type=pool.engine_type,
        context_length=pool.context_length,
        migration_mode=pool.migration.mode,
        max_retries=pool.migration.max_retries,
        max_held=from_zero.max_held if from_zero else 0,
        hold_timeout_ms=round(from_zero.hold_timeout_s * 1000) if from_zero else 0,
        reasoning_parser=pool.spec.model.parsers.reasoning or "",
        tool_call_parser=pool.spec.model.parsers.tool_calls or "",
        engine_parses_reasoning=parses_reasoning(pool.spec.engine),
    )


def _instance(instance: Instance, seen: Seen) -> pb.Topology.Instance:
    speed = seen.speeds.get(instance.name, UNKNOWN_SPEED)
    kv_moves = seen.kv_moves.get(instance.name, NO_KV_MOVES)
    return pb.Topology.Instance(
        name=instance.name,
        pool=instance.pool,
        profile=instance.profile,
        address=instance.address,
        engine_type=instance.engine_type,
        draining=instance.name in seen.draining,
        prefill_tokens_per_s=speed.prefill_tokens_per_s,
        decode_tokens_per_s=speed.decode_tokens_per_s,
        kv_transport=kv_moves.transport,
        moves_address=kv_moves.address,
    )


def to_explanation(explanation: Explanation, now: float) -> pb.ExplainReply:
    return pb.ExplainReply(
        request_id=explanation.request_id,
        model=explanation.model,
        pool=explanation.pool,
        slo_class=explanation.slo_class,
        rule=explanation.rule,
        state=explanation.state,
        prompt_tokens=explanation.prompt_tokens,
        output_tokens=explanation.output_tokens,
        tenant=explanation.tenant,
        level=explanation.level,
        workflow=explanation.workflow,
        stage=explanation.stage,
        revision=explanation.revision,
        expected_output_tokens=explanation.expected_output_tokens,
        cached_tokens=explanation.cached_tokens,
        decisions=[_decision(record, now) for record in explanation.decisions],
    )


def _decision(record: DecisionRecord, now: float) -> pb.ExplainReply.Decision:
    return pb.ExplainReply.Decision(
        kind=record.kind,
        epoch=record.epoch,
        age_ms=round(max(0.0, now - record.at) * 1000),
        policy=record.policy,
        score_unit=record.score_unit,
        winner=record.winner,
        rung=record.moved.rung if record.moved else "",
        stall_s=record.moved.stall_s if record.moved else 0.0,
        copied_bytes=record.moved.copied_bytes if record.moved else 0,
        runner_up=record.runner_up,
        candidates=[_candidate(candidate) for candidate in record.candidates],
        candidates_total=record.candidates_total,
        excluded_total=record.excluded_total,
        reason=record.reason,
        queued_ms=round(max(0.0, record.queued_s) * 1000),
        cached_tokens=record.cached_tokens,
        slack_s=record.slack_s,
        ttft_s=record.ttft_s,
        ttft_at_most_s=record.ttft_at_most_s,
    )


def _candidate(candidate: Candidate) -> pb.ExplainReply.Candidate:
    return pb.ExplainReply.Candidate(
        instance=candidate.instance,
        profile=candidate.profile,
        score_s=candidate.score_s,
        terms=[pb.ExplainReply.Term(name=name, seconds=s) for name, s in candidate.terms],
        excluded_because=candidate.excluded_because,
    )


def to_status(status: ClusterStatus, gateways: int, config_error: str) -> pb.StatusReply:
    """`gateways` counts open sessions; the fields of the domain and of the wire are the same."""
    return pb.StatusReply(
        pools=[pb.StatusReply.Pool(**asdict(pool)) for pool in status.pools],
        costs=[pb.StatusReply.Cost(**asdict(cost)) for cost in status.costs],
        instances=[pb.StatusReply.Instance(**asdict(one)) for one in status.instances],
        gateways=gateways,
        dispatched_total=status.dispatched_total,
        moved_total=status.moved_total,
        resumed_total=status.resumed_total,
        topology_version=status.topology_version,
        config_error=config_error,
    )


def to_advice(advice: Iterable[ScalingAdvice]) -> pb.AdviseScalingReply:
    return pb.AdviseScalingReply(
        advice=[pb.AdviseScalingReply.Advice(**asdict(one)) for one in advice]
    )


def to_progress(status: DrainStatus, message: str) -> pb.DrainProgress:
    return pb.DrainProgress(
        instance=status.instance,
        remaining=status.remaining,
        moved=status.moved,
        finished=status.finished,
        failed=status.failed,
        done=status.done,
        message=message,
    )
