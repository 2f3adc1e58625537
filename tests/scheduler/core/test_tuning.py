"""Alpha is tuned beside the decisions, in pieces, from what has ended."""

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.settings import CoreSettings
from shunter_scheduler.core.testing import CoreHarness, make_instances
from shunter_scheduler.core.tuning import ALPHAS, FRESH, WINDOW, AlphaTuner
from shunter_scheduler.domain.events import Finished


def harness_of(policy: str = "workload-balanced", alpha: float | None = None) -> CoreHarness:
    pool = make_pool("chat", profiles=("h100", "l4"))
    instances = (*make_instances(1), *make_instances(3, profile="l4"))
    policies = [make_policy(dispatch={"policy": policy})]
    settings = CoreSettings(alpha=alpha)
    return CoreHarness(instances, pools=[pool], policies=policies, settings=settings)


def serve(harness: CoreHarness, count: int, gap_s: float) -> None:
    """Requests that end before the next one comes, at about the speed that was predicted."""
    for number in range(count):
        name = f"{harness.now}-{number}"
        harness.start(name, arrived_at=harness.now)
        harness.now += gap_s
        harness.apply(Finished(name, 1, 50, "stop"))
        harness.decide()


def tuner_of(harness: CoreHarness) -> AlphaTuner | None:
    return harness.core._state.pools["chat"].tuner


def run_timers(harness: CoreHarness, most: int = 5000) -> None:
    for _ in range(most):
        tuner = tuner_of(harness)
        if tuner is None or not tuner.runs:
            return
        harness.now += 0.1
        harness.decide()
    raise AssertionError("the round does not end")


def test_a_round_compares_all_alphas_and_ends() -> None:
    harness = harness_of()
    serve(harness, FRESH, gap_s=0.5)
    run_timers(harness)
    tuner = tuner_of(harness)
    assert tuner is not None and tuner.rounds == 1
    assert tuner.alpha in ALPHAS
    wake = harness.core.next_wake(harness.now)
    assert wake is None or wake > harness.now + 1.0  # nothing new: no more rounds


def test_single_requests_one_after_the_other_all_go_to_the_fast_instance() -> None:
    harness = harness_of()
    serve(harness, 3 * FRESH, gap_s=0.5)
    run_timers(harness)
    assert harness.assign("after").instance == "chat-h100-0"


def test_an_alpha_that_is_set_stays() -> None:
    harness = harness_of(alpha=0.3)
    serve(harness, 2 * FRESH, gap_s=0.5)
    run_timers(harness)
    tuner = tuner_of(harness)
    assert tuner is not None and (tuner.alpha, tuner.rounds, tuner.runs) == (0.3, 0, False)


def test_other_policies_have_no_tuner() -> None:
    harness = harness_of("predicted-cost")
    serve(harness, FRESH, gap_s=0.5)
    assert tuner_of(harness) is None


def test_the_window_is_bounded() -> None:
    harness = harness_of()
    serve(harness, WINDOW + 50, gap_s=0.5)
    tuner = tuner_of(harness)
    assert tuner is not None and len(tuner._window) == WINDOW
