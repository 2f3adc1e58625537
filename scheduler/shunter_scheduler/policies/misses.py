"""How likely a target is missed, given the time that is predicted.

A prediction is uncertain: the likelihood rises from 0 to 1 while the predicted time goes from a
margin below the target to a margin above.
"""

from collections.abc import Mapping

from numpy import maximum, minimum, multiply, subtract

from shunter_scheduler.policies.columns import Floats

# Shares of a target, about what predictions err by: of a time per token, which is a mean over many
# steps, and of a time to first token, which is a single wait.
MARGIN = 0.15
TTFT_MARGIN = 0.3
TINY_S = 1e-6  # a target of nothing is missed all the same


def likely_missed(predicted_s: float, target_s: float, margin: float = MARGIN) -> float:
    target_s = max(TINY_S, target_s)
    low = (1 - margin) * target_s
    return min(1.0, max(0.0, (predicted_s - low) / (2 * margin * target_s)))


def likely_missed_each(
    predicted_s: Floats, target_s: float, out: Floats, margin: float = MARGIN
) -> None:
    """The same for many at once; `out` may be `predicted_s`."""
    target_s = max(TINY_S, target_s)
    subtract(predicted_s, (1 - margin) * target_s, out)
    multiply(out, 1 / (2 * margin * target_s), out)
    maximum(out, 0.0, out=out)  # both take half the time of clip()
    minimum(out, 1.0, out=out)


def misses_per_s(targets: Mapping[tuple[int, float], int], tpot_s: float, alone_s: float) -> float:
    """More targets missed among those who run (their number by rank and TPOT target) for each
    second that a token takes longer than `tpot_s`. It stays as high where all of them are missed
    already, so that such an instance gets less and comes back; but a target that even a request
    `alone_s` would miss there is none to keep."""
    found = 0.0
    for (_, target_s), count in targets.items():
        if tpot_s > (1 - MARGIN) * target_s > alone_s:
            found += count / (2 * MARGIN * target_s)
    return found
