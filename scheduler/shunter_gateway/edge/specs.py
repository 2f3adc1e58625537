"""One `RequestSpec` for each choice of a client's request."""

import zlib
from typing import Any

import msgspec

from shunter_gateway.edge.errors import invalid
from shunter_gateway.edge.job import Caller
from shunter_gateway.edge.ports import ServedModel
from shunter_gateway.edge.schema import Generation
from shunter_gateway.ports import SamplingParams
from shunter_gateway.request import RequestSpec

Ids = tuple[int, ...]


class Draft(msgspec.Struct, frozen=True):
    """What the choices of one request share."""

    path: str
    body: Generation
    raw: bytes
    max_tokens: int
    logprobs: int | None
    reason: str
    prompt: Any  # what counts as the prompt where it is not tokenised
    tokenizer_source: str  # model source whose tokenizer makes the ids


def token_spec(
    draft: Draft, model: ServedModel, caller: Caller, ids: Ids, hashes: bytes, index: int
) -> RequestSpec:
    room = model.context_length - len(ids)
    if model.context_length and draft.max_tokens > room:
        raise invalid(
            f"The prompt has {len(ids)} tokens and {draft.max_tokens} more were asked for; the "
            f"context of `{model.name}` holds {model.context_length}.",
            "max_tokens",
            code="context_length_exceeded",
        )
    return choice_spec(draft, caller, ids, len(ids), hashes, index, "")


def choice_spec(
    draft: Draft,
    caller: Caller,
    ids: Ids | None,
    prompt_tokens: int,
    hashes: bytes,
    index: int,
    reason: str,
) -> RequestSpec:
    body = draft.body
    stop = body.stop or ()
    return RequestSpec(
        request_id=caller.request_id if index == 0 else f"{caller.request_id}-{index}",
        model=body.model,
        tenant=caller.tenant,
        path=draft.path,
        body=draft.raw,
        prompt_token_ids=ids,
        prompt_tokens=prompt_tokens,
        block_hashes=hashes,
        max_tokens=draft.max_tokens,
        min_tokens=body.min_tokens or 0,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        sampling=_sampling(body, draft.logprobs, index, caller.request_id),
        slo_class=caller.slo_class,
        allowed_classes=caller.allowed_classes,
        headers=caller.headers,
        deadline_s=caller.deadline_s,
        workflow=caller.workflow,
        unmovable_reason=reason,
        include_stop=bool(body.include_stop_str_in_output),
        trace_parent=caller.trace_parent,
        tokenizer_source=draft.tokenizer_source,
    )


def _sampling(
    body: Generation, logprobs: int | None, index: int, request_id: str
) -> SamplingParams:
    seed = body.seed
    if seed is None and (body.n or 1) > 1:
        seed = zlib.crc32(request_id.encode())  # the choices of one request must differ
    return SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=None if seed is None else seed + index,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=dict(body.logit_bias) if body.logit_bias else None,
        logprobs=logprobs,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=tuple(body.stop_token_ids or ()),
    )
