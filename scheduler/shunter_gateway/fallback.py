"""Placement without a scheduler: least predicted work over the instances that are known. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shunter_gateway.topology import Instance, Pool, Topology

UNLIMITED_OUTPUT_TOKENS = 256
"""Assumed for requests without a limit: about the mean output of the Azure LLM inference trace
for conversations (211 tokens; Patel et al., Splitwise, ISCA 2024)."""
_UNKNOWN_PREFILL_TOKENS_PER_S = 5000.0
_UNKNOWN_DECODE_TOKENS_PER_S = 30.0


@dataclass(slots=True)
class Load:
    """Work in flight on one instance, as far as this gateway knows."""

    prompt_tokens: int = 0
    output_tokens: int = 0


def predicted_work_s(
    instance: Instance, load: Load | None, prompt_tokens: int, output_tokens: int
) -> float:
    """Seconds of work on the instance once this request is added."""
    prefill = instance.prefill_tokens_per_s or _UNKNOWN_PREFILL_TOKENS_PER_S
    decode = instance.decode_tokens_per_s or _UNKNOWN_DECODE_TOKENS_PER_S
    prompt = prompt_tokens + (load.prompt_tokens if load is not None else 0)
    output = output_tokens + (load.output_tokens if load is not None else 0)
    return prompt / prefill + output / decode


def choose_instance(
    candidates: Iterable[Instance],
    loads: Mapping[str, Load],
    avoid: Collection[str],
    prompt_tokens: int,
    output_tokens: int,
) -> Instance | None:
    """The instance with the least predicted work; those to `avoid` and draining ones only where
    there is no other. None without candidates."""

    def rank(instance: Instance) -> tuple[bool, float, str]:
        unwanted = instance.draining or instance.name in avoid
        work_s = predicted_work_s(instance, loads.get(instance.name), prompt_tokens, output_tokens)
        return unwanted, work_s, instance.name

    return min(candidates, key=rank, default=None)


def choose_pool(topology: Topology, model: str, pinned: str) -> Pool | None:
    """Without rules: the pool of that name, or the only one that rules lead to; None where only a
    rule could tell."""
    if pinned:
        return topology.pools.get(pinned)
    pools = topology.pools_of(model)
    return pools[0] if len(pools) == 1 else None
