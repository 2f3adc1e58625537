"""How likely a target is missed, given the time that is predicted.

A prediction is uncertain: the likelihood rises from 0 to 1 while the predicted time goes from a
margin below the target to a margin above.
"""

from collections.abc import Mapping

from numpy import clip, multiply, subtract

from shunter_scheduler.policies.columns import Floats

MARGIN = 0.15  # of the target
TINY_S = 1e-6  # a target of nothing is missed all the same


def likely_missed(predicted_s: float, target_s: float) -> float:
    target_s = max(TINY_S, target_s)
    low = (1 - MARGIN) * target_s
    return min(1.0, max(0.0, (predicted_s - low) / (2 * MARGIN * target_s)))


def likely_missed_each(predicted_s: Floats, target_s: float, out: Floats) -> None:
    """The same for many at once; `out` may be `predicted_s`."""
    target_s = max(TINY_S, target_s)
    subtract(predicted_s, (1 - MARGIN) * target_s, out)
    multiply(out, 1 / (2 * MARGIN * target_s), out)
    clip(out, 0.0, 1.0, out)


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
