"""What is ahead of a request in an engine that computes higher classes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.engine import Engine
from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.engine_arguments import computes_higher_first
from shunter_scheduler.core.ledger import NO_RANK, NS, Load, Reservation, reserve
from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.domain.decisions import Assign, Decision
from shunter_scheduler.domain.events import FirstToken

CLASSES = [
    {"name": "interactive", "priority": 100, "ttft": "2s"},
    {"name": "standard", "priority": 50},
    {"name": "batch", "priority": 0},
]
MODELS = {"simulated": "sim://llama-3.1-8b", "openai": "hf://meta-llama/Llama-3.1-8B-Instruct"}


def two_ahead(engine: str, slo_class: str = "batch") -> CoreHarness:
    """One instance with two long prompts of a class ahead: too much for any more of it."""
    pool = make_pool("chat", spec={"model": {"source": MODELS[engine]}, "engine": {"type": engine}})
    harness = CoreHarness(
        make_instances(1),
        pools=[pool],
        policies=[make_policy(classes=CLASSES, admission={"queueTimeout": "300s"})],
        settings=CoreSettings(head_room=HeadRoom(max_queue_s=0.05)),
    )
    for number in range(2):
        harness.assign(f"first{number}", slo_class=slo_class, prompt_tokens=7000)
    return harness


def assigned(decisions: list[Decision]) -> list[str]:
    return [one.request_id for one in only(Assign, decisions)]


def test_a_higher_class_passes_lower_prompts_in_an_engine_that_orders_them() -> None:
    harness = two_ahead("simulated")
    assert assigned(harness.submit("batch", slo_class="batch")) == []
    standard = harness.assign("standard", slo_class="standard")
    interactive = harness.assign("interactive", slo_class="interactive")
    assert interactive.priority == 0 < standard.priority
    ahead = harness.core.explain("first1", 0.0)
    passing = harness.core.explain("interactive", 0.0)
    assert ahead is not None and passing is not None
    waits = [dict(one.decisions[0].candidates[0].terms)["queue"] for one in (ahead, passing)]
    assert waits[1] < waits[0] / 2, "lower prompts do not make it wait"
    harness.check_books()


def test_elsewhere_all_that_is_ahead_counts() -> None:
    harness = two_ahead("openai")
    assert assigned(harness.submit("urgent", slo_class="interactive")) == []
    harness.check_books()


def test_a_class_that_has_too_much_ahead_of_its_own_waits_and_says_why() -> None:
    harness = two_ahead("simulated", "standard")
    assert assigned(harness.submit("batch", slo_class="batch")) == []
    assert assigned(harness.submit("standard", slo_class="standard")) == []
    waits = harness.core.explain("standard", 0.0)
    assert waits is not None
    assert "prefills ahead" in waits.decisions[-1].candidates[0].excluded_because
    assert assigned(harness.submit("urgent", slo_class="interactive")) == ["urgent"]
    ended = harness.after(FirstToken("first0", 1, 0.5), FirstToken("urgent", 1, 0.5))
    assert assigned(ended) == ["standard"], "one is ahead of it, and that is not too much"
    harness.check_books()


def test_who_goes_before_a_higher_class_by_age_is_one_of_it_to_engines() -> None:
    harness = two_ahead("simulated", "interactive")
    assert assigned(harness.submit("old", slo_class="batch")) == []
    harness.now = 100.0
    for number in range(2):
        assert assigned(harness.submit(f"new{number}", slo_class="interactive")) == []
    (aged,) = only(Assign, harness.after(FirstToken("first0", 1, 0.5)))
    assert (aged.request_id, aged.priority) == ("old", 0)
    harness.check_books()


def test_an_engine_that_refused_a_priority_is_counted_on_no_more() -> None:
    """It was started without what its type could do; its gateway finds out."""
    harness = two_ahead("simulated")
    (pool,) = harness.core._state.pools.values()
    harness.apply(FirstToken("first0", 1, 0.5, unordered=True))
    harness.assign("third", slo_class="batch", prompt_tokens=7000)
    harness.assign("interactive", slo_class="interactive", prompt_tokens=7000)
    assert not pool.orders
    assert assigned(harness.submit("urgent", slo_class="interactive")) == []
    harness.configure()
    assert pool.orders, "until the pool is configured anew"
    harness.check_books()


@pytest.mark.parametrize(
    ("kind", "args", "orders"),
    [
        ("vllm", (), True),
        ("vllm", ("--scheduling-policy", "priority"), True),
        ("vllm", ("--scheduling-policy=fcfs",), False),
        ("sglang", (), True),
        ("simulated", (), True),
        ("numpy", (), True),
        ("llamacpp", (), False),
        ("openai", (), False),
    ],
)
def test_engines_that_order_prompts(kind: str, args: tuple[str, ...], orders: bool) -> None:
    assert computes_higher_first(Engine.model_validate({"type": kind, "args": args})) is orders


@given(
    st.lists(
        st.tuples(
            st.integers(NO_RANK, 3),
            st.floats(0.0, 5.0),
            st.sampled_from(["waits", "started", "released", "started and released"]),
        )
    )
)
def test_prefills_by_rank_are_those_that_are_ahead(made: list[tuple[int, float, str]]) -> None:
    load = Load()
    ahead: list[Reservation] = []
    for rank, seconds, fate in made:
        one = reserve(load, 10, seconds, 5, rank=rank)
        if "started" in fate:
            one.started()
        if "released" in fate:
            one.release()
        if fate == "waits":
            ahead.append(one)
    ranks = {one.rank for one in ahead} - {NO_RANK}
    assert load.by_rank == {
        rank: [
            sum(one.rank == rank for one in ahead),
            sum(one.prefill_ns for one in ahead if one.rank == rank),
        ]
        for rank in ranks
    }
    assert load.prefill_ns <= sum(seconds * NS for _, seconds, _ in made) + len(made)
