"""Fields of the API that some engines know nothing of. Pure.

A request that sets one is refused: at the edge where all engines that its model's name leads to are
such, else once it is placed at one of them. So a field has an effect, or is an error.
"""

from collections.abc import Collection, Mapping

from shunter_gateway.ports import ExtraField
from shunter_gateway.request import ClientError, RequestSpec

_REMEDIES: Mapping[ExtraField, str] = {
    "min_tokens": "leave it out, or ask with `ignore_eos` for an answer of exactly `max_tokens`",
    "stop_token_ids": "leave it out, or name the texts of these tokens in `stop`",
}


def refusal(
    spec: RequestSpec, ignored: Collection[ExtraField], engine_type: str
) -> ClientError | None:
    """None where the engine obeys all that is asked for."""
    for field in ignored:
        if _asks_for(spec, field):
            message = (
                f"`{field}` has no effect on the engine of model `{spec.model}` ({engine_type}): "
                f"{_REMEDIES[field]}."
            )
            return ClientError(400, message, "invalid_request_error", param=field)
    return None


def _asks_for(spec: RequestSpec, field: ExtraField) -> bool:
    if field == "stop_token_ids":
        return bool(spec.sampling.stop_token_ids)
    # Where the end of sequence is ignored, only stop strings could end the answer sooner, and the
    # gateway looks for those itself, from `min_tokens` on.
    return spec.min_tokens > 0 and not spec.sampling.ignore_eos
