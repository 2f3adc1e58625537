"""Which token comes next, from one row of logits.

Random draws are a function of (seed, position): whoever goes on with a sequence elsewhere draws
what would have been drawn here. The order of the steps is vLLM's: bias and bans, penalties,
temperature, min_p, top_k, top_p. Log probabilities are those of the model's own logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shunter_engine.backend import Sampling
from shunter_engine.numpy_products import F32

F64 = npt.NDArray[np.float64]
_MASK = (1 << 64) - 1
_LIKELY = 1024  # candidates looked at first for top_p


@dataclass(frozen=True, slots=True)
class Context:
    """What was before: prompt and output token ids, and which tokens may not come now."""

    token_ids: Sequence[int]
    outputs: int  # how many of the last `token_ids` are output
    banned: Sequence[int] = ()  # ends of sequence, before min_tokens


@dataclass(frozen=True, slots=True)
class Sampled:
    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), for this seed and position always the same (SplitMix64's finalizer,
    Steele et al. 2014, applied to seed and position one after the other)."""
    state = _mix(_mix(seed & _MASK) + position * 0x9E3779B97F4A7C15)
    return float((state >> 11) * 2.0**-53)


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def sample(logits: F32, sampling: Sampling, context: Context) -> Sampled:
    """The next token after `context`, for one row of logits [vocabulary]."""
    adjusted = _adjusted(logits, sampling, context)
    if sampling.temperature <= 0:
        token_id = int(adjusted.argmax())
    else:
        draw = uniform(sampling.seed, len(context.token_ids))
        token_id = _draw(adjusted.astype(np.float64) / sampling.temperature, sampling, draw)
    if sampling.logprobs is None:
        return Sampled(token_id)
    return _with_logprobs(logits, token_id, sampling.logprobs)


def _adjusted(logits: F32, sampling: Sampling, context: Context) -> F32:
    repeated = sampling.repetition_penalty != 1.0
    counted = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
    if not (repeated or counted or sampling.logit_bias or context.banned):
        return logits
    out = logits.copy()
    for token_id, bias in sampling.logit_bias.items():
        if 0 <= token_id < len(out):
            out[token_id] += np.float32(bias)
    out[list(context.banned)] = -np.inf
    if repeated:
        seen = np.unique(np.asarray(context.token_ids, np.int64))
        penalty = np.float32(sampling.repetition_penalty)
        out[seen] = np.where(out[seen] > 0, out[seen] / penalty, out[seen] * penalty)
    if counted and context.outputs:
        outputs = np.asarray(context.token_ids[-context.outputs :], np.int64)
        tokens, counts = np.unique(outputs, return_counts=True)
        out[tokens] -= (sampling.frequency_penalty * counts + sampling.presence_penalty).astype(
            np.float32
        )
    return out


def _draw(scaled: F64, sampling: Sampling, draw: float) -> int:
    """Inverse of the distribution function over the tokens that are left, in order of their ids."""
    weights: F64 = np.exp(scaled - scaled.max())
    if sampling.min_p > 0:
        weights[weights < sampling.min_p] = 0.0  # the likeliest token's weight is 1
    if 0 < sampling.top_k < len(weights):
        weights = _keep(weights, _likeliest(weights, sampling.top_k))
    if sampling.top_p < 1:
        weights = _keep(weights, _nucleus(weights, sampling.top_p))
    tokens = np.flatnonzero(weights)
    cumulated = np.cumsum(weights[tokens])
    return int(tokens[np.searchsorted(cumulated[:-1], draw * cumulated[-1], side="right")])


def _keep(weights: F64, kept: npt.NDArray[np.int64]) -> F64:
    out = np.zeros_like(weights)
    out[kept] = weights[kept]
    return out


def _likeliest(weights: F64, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest, largest first; of equal ones the lower index first."""
    if count >= len(weights):
        return np.argsort(-weights, kind="stable")
    least = np.partition(weights, -count)[-count]
    candidates = np.flatnonzero(weights >= least)
    return candidates[np.argsort(-weights[candidates], kind="stable")][:count]


def _nucleus(weights: F64, top_p: float) -> npt.NDArray[np.int64]:
    """The fewest likeliest tokens whose probability together reaches `top_p`."""
    goal = top_p * float(weights.sum())
    order = _likeliest(weights, _LIKELY)
    if weights[order].sum() < goal:
        order = _likeliest(weights, len(weights))
    reached = int(np.searchsorted(np.cumsum(weights[order]), goal)) + 1
    return order[:reached]


def _with_logprobs(logits: F32, token_id: int, count: int) -> Sampled:
    row = logits.astype(np.float64)
    row -= row.max()
    row -= np.log(np.exp(row).sum())
    top = _likeliest(row, count) if count > 0 else ()
    return Sampled(token_id, float(row[token_id]), tuple((int(i), float(row[i])) for i in top))
