"""Whether a pool's simulated engines could serve: known model, context within it, memory enough for
the weights and for one request as long as the context."""

from collections.abc import Iterator

from shunter_api.modelpool import ModelPool
from shunter_api.positions import Path
from shunter_scheduler.costmodel import UnknownModel, cost_model, model_shape


def infeasible(pool: ModelPool) -> Iterator[tuple[Path, str]]:
    """Field and reason of each thing that would stop an engine. Real engines judge themselves."""
    if pool.engine_type != "simulated":
        return
    try:
        shape = model_shape(pool.spec.model.source)
    except UnknownModel as error:
        yield ("spec", "model", "source"), str(error)
        return
    if pool.context_length > shape.context_length:
        longest = f"{shape.name} takes at most {shape.context_length} tokens"
        yield ("spec", "model", "contextLength"), f"found {pool.context_length}; {longest}"
    for index, profile in enumerate(pool.profiles):
        try:
            held = cost_model(shape, profile.hardware, profile.tensor_parallel).kv_capacity_tokens
        except ValueError as error:
            yield ("spec", "profiles", index), str(error)
            continue
        if held < pool.context_length:
            where = f"{profile.tensor_parallel} x {profile.accelerator}"
            too_long = (
                f"{where} hold {held} tokens of KV cache beside the weights, fewer than one "
                f"request of contextLength {pool.context_length}: lower it, raise tensorParallel "
                f"or take an accelerator with more memory"
            )
            yield ("spec", "profiles", index), too_long
