"""A scheduler that believes wrong times learns the engines' own from what it is reported."""

import numpy as np
import pytest

from shunter_scheduler.core.profile_model import ProfileModel
from shunter_simulator.virtual.testing import make_world, small_scenario
from shunter_simulator.workloads import Arrival


def after_two_minutes(prior: float, rate: float) -> ProfileModel:
    """What is believed of engines under random load, having begun at `prior` times the truth."""
    rng = np.random.default_rng(1)
    at_s = np.cumsum(rng.exponential(1 / rate, int(120 * rate)))
    arrivals = [
        Arrival(float(at), int(rng.integers(20, 1500)), int(rng.integers(20, 300))) for at in at_s
    ]
    engine = {"prior": prior, "kvTokens": 65_536, "maxBatchTokens": 2048, "maxNumSeqs": 256}
    world = make_world(small_scenario(2, engine=engine), arrivals)
    world.run()
    return world.cell.core._state.pools["chat"].models["h100"]


@pytest.mark.parametrize("prior", [1 / 3, 3.0])
def test_a_prior_three_times_off_is_overcome_under_load(prior: float) -> None:
    model, right = after_two_minutes(prior, 6.0), after_two_minutes(1.0, 6.0)
    assert min(model.prefill.count, model.decode.count) > 200
    for sequences, context in ((4, 4000), (8, 8000), (16, 16_000)):
        step_s = 0.010 + sequences * 1e-3 + context * 1e-6
        assert model.decode_step_s(sequences, context) == pytest.approx(step_s, rel=0.15)
    # Most of the time to a first token is waits here, so that little is told about prefills.
    for tokens in (200, 700, 1400):
        assert model.prefill_s(tokens) == pytest.approx(right.prefill_s(tokens), rel=0.25)
        assert model.prefill_s(tokens) > 0.9 * (0.010 + tokens * 1e-4)
    assert model.prefill.mean_error < 0.6  # of whole times to first token, most of them waits
    assert model.decode.mean_error < 0.15
