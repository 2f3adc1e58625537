"""Prompts that begin alike go to the same instance, unless it has more than its share.

Consistent hashing (rendezvous: Thaler and Ravishankar, 1998) with bounded loads (Mirrokni, Thorup
and Zadimoghaddam, 2018): each pair of key and instance has a hash, the lowest wins, and an instance
that has 1.25 times the mean number of requests is passed over. When an instance comes or goes only
its own keys move. A prompt too short for a key goes where the fewest requests are.

    distance    hash of key and instance, from 0 to 1
    load        1 where the instance has its share; without a key its requests, as part of that
"""

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import Floats, InstanceColumns
from shunter_scheduler.policies.policy import DispatchPolicy

LOAD_FACTOR = 1.25  # the paper's c


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    view = columns.view
    assert view is not None
    distance, load, _ = columns.parts
    fits = ~columns.excluded
    total = float(columns.requests.sum(where=fits)) + 1.0
    most = math.ceil(LOAD_FACTOR * total / max(1, int(np.count_nonzero(fits))))
    if ask.prefix_key:
        _distances(view.keys, ask.prefix_key, distance)
        np.greater_equal(columns.requests, most, out=load)
    else:
        distance.fill(0.0)
        np.divide(columns.requests, most, out=load)
    np.add(distance, load, out=columns.score)


def _distances(keys: NDArray[np.uint64], key: int, out: Floats) -> None:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014) of both, as a number from 0 to 1."""
    mixed = keys ^ np.uint64(key)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    np.multiply(mixed >> np.uint64(11), 2.0**-53, out=out)


PREFIX_AFFINITY = DispatchPolicy(
    "prefix-affinity",
    _score,
    parts=("distance", "load"),
    unit="of the ring",
    uses_prefix=True,
    uses_view=True,
)
