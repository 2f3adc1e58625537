"""Prefill and decode apart: who gets prompts, who gets what has begun, and what if nobody is up."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_api.modelpool import ModelPool
from shunter_api.testing import make_pool
from shunter_scheduler.core.roles import NO_DECODING, NO_PROMPTS, PromptRate
from shunter_scheduler.core.testing import CoreHarness, make_request, only
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.decisions import Assign, Move
from shunter_scheduler.domain.events import (
    DrainRequested,
    Failed,
    FirstToken,
    Running,
    Submitted,
)
from shunter_scheduler.domain.explanation import DecisionRecord


def pool_of(*roles: str, **spec: Any) -> ModelPool:
    """A profile per role, called like it."""
    profiles = [{"name": r.lower(), "accelerator": "h100", "role": r} for r in roles]
    return make_pool("chat", spec={"profiles": profiles, **spec})


def instances_of(**counts: int) -> list[Instance]:
    return [
        Instance(f"{profile}-{n}", "chat", profile, f"127.0.0.1:{9000 + n}", "simulated")
        for profile, count in counts.items()
        for n in range(count)
    ]


def harness(counts: Mapping[str, int], **more: Any) -> CoreHarness:
    pool = pool_of(*(profile.capitalize() for profile in counts))
    return CoreHarness(instances_of(**counts), pools=[pool], **more)


def last(core: CoreHarness, request_id: str) -> DecisionRecord:
    found = core.core.explain(request_id, core.now)
    assert found is not None
    return found.decisions[-1]


def excluded(record: DecisionRecord) -> dict[str, str]:
    return {c.instance: c.excluded_because for c in record.candidates if c.excluded_because}


def test_prompts_go_to_those_who_prefill() -> None:
    core = harness({"prefill": 2, "decode": 2})
    went = [core.assign(f"r{n}").instance for n in range(6)]
    assert set(went) == {"prefill-0", "prefill-1"}
    assert excluded(last(core, "r5")) == {"decode-0": NO_PROMPTS, "decode-1": NO_PROMPTS}
    assert last(core, "r5").reason == "lowest score"


def test_status_tells_roles() -> None:
    core = harness({"prefill": 1, "decode": 1, "any": 1})
    told = {one.name: one.role for one in core.core.status(0.0).instances}
    assert told == {"prefill-0": "Prefill", "decode-0": "Decode", "any-0": "Any"}
    assert {one.role for one in CoreHarness().core.status(0.0).instances} == {"Any"}


def test_availability_goes_before_roles() -> None:
    core = harness({"prefill": 1, "decode": 1})
    core.observe("prefill-0", healthy=False)
    assert core.assign("r1").instance == "decode-0"
    assert last(core, "r1").reason == (
        "lowest score; no other instance of role Prefill or Any is in service"
    )
    core.observe("prefill-0")
    assert core.assign("r2").instance == "prefill-0"


def test_what_has_begun_goes_on_where_it_is_decoded() -> None:
    """After a failure it is prefilled again where it stays."""
    core = harness({"prefill": 2, "decode": 1})
    core.start("r1")
    core.apply(Failed("r1", 1, "prefill-0", "connection", 5))
    again = make_request("r1", epoch=2, output_tokens=5, excluded_instances=("prefill-0",))
    (assigned,) = only(Assign, core.after(Submitted(again)))
    assert assigned.instance == "decode-0"
    assert excluded(last(core, "r1")) == {"prefill-0": "tried before", "prefill-1": NO_DECODING}
    core.check_books()


def test_an_engine_that_failed_is_tried_again_only_where_no_other_is_left() -> None:
    core = harness({"prefill": 1, "decode": 1})
    tried = make_request("r1", epoch=2, excluded_instances=("prefill-0",))
    (assigned,) = only(Assign, core.after(Submitted(tried)))
    assert assigned.instance == "decode-0"


def test_a_drain_moves_prompts_and_answers_to_their_roles() -> None:
    core = harness({"prefill": 2, "decode": 2})
    core.observe("prefill-1", healthy=False)
    core.observe("decode-0", healthy=False)
    core.observe("decode-1", healthy=False)
    core.start("begun")
    core.assign("waits")
    core.decide()
    for name in ("prefill-1", "decode-0", "decode-1"):
        core.observe(name)
    moves = {m.request_id: m for m in only(Move, core.after(DrainRequested("prefill-0", 60.0)))}
    assert moves["waits"].destination == "prefill-1"
    assert moves["begun"].destination.startswith("decode")
    core.check_books()


def test_a_prompt_takes_the_way_that_costs_less() -> None:
    """Copies are cheap: what is apart disturbs nobody. Without them it is prefilled twice."""
    for transport, role in (("rdma", "prefill"), ("", "any")):
        pool = pool_of("Prefill", "Decode", "Any")
        values = [
            Instance(f"{p}-0", "chat", p, "127.0.0.1:1", "simulated", kv_transport=transport)
            for p in ("prefill", "decode", "any")
        ]
        core = CoreHarness(values, pools=[pool])
        core.observe("prefill-0", healthy=False)
        core.observe("decode-0", healthy=False)
        for n in range(16):  # whom a long prompt would hold up
            core.start(f"r{n}", prompt_tokens=500, max_output_tokens=400)
        core.observe("prefill-0")
        core.observe("decode-0")
        assert core.assign("long", prompt_tokens=8000, max_output_tokens=400).instance == (
            f"{role}-0"
        )
        told = excluded(last(core, "long"))
        loser = "any-0" if role == "prefill" else "prefill-0"
        assert "s on two instances" in told[loser] and "s on one" in told[loser]


def test_what_cannot_move_is_left_to_the_policy() -> None:
    core = harness({"prefill": 1, "decode": 1, "any": 1})
    core.assign("r1", unmovable_reason="n_above_one")
    assert set(excluded(last(core, "r1"))) == {"decode-0"}


def test_roles_may_change_while_requests_run() -> None:
    core = harness({"prefill": 1, "decode": 1})
    core.start("r1")
    core.decide()
    assert core.core._state.pools["chat"].roles is not None
    names = {"profiles": [{"name": n, "accelerator": "h100"} for n in ("prefill", "decode")]}
    core.configure(pools=[make_pool("chat", spec=names)])
    assert core.core._state.pools["chat"].roles is None
    assert {core.assign(f"n{n}").instance for n in range(4)} == {"prefill-0", "decode-0"}
    core.check_books()


ROLES = ("Prefill", "Decode", "Any")


@settings(max_examples=150, deadline=None)
@given(
    roles=st.lists(st.sampled_from(ROLES), min_size=1, max_size=4).filter(
        lambda roles: set(roles) not in ({"Prefill"}, {"Decode"})
    ),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("toggle"), st.integers(0, 3)),
            st.tuples(st.just("prompt"), st.just(0)),
            st.tuples(st.just("replay"), st.just(0)),
        ),
        max_size=25,
    ),
)
def test_a_request_is_placed_as_soon_as_somebody_is_up(
    roles: Sequence[str], steps: Sequence[tuple[str, int]]
) -> None:
    """Where somebody of a right role is up it goes there, else to whoever is up."""
    names = [f"{role.lower()}-{n}" for n, role in enumerate(roles)]
    profiles = [
        {"name": name, "accelerator": "h100", "role": role}
        for name, role in zip(names, roles, strict=True)
    ]
    values = [Instance(name, "chat", name, "127.0.0.1:1", "simulated") for name in names]
    core = CoreHarness(values, pools=[make_pool("chat", spec={"profiles": profiles})])
    up, waiting = set(names), dict[str, bool]()
    for number, (kind, which) in enumerate(steps):
        if kind == "toggle":
            name = names[which % len(names)]
            up ^= {name}
            core.observe(name, healthy=name in up)
        else:
            waiting[f"r{number}"] = kind == "replay"
            tokens = 5 if kind == "replay" else 0
            core.apply(
                Submitted(make_request(f"r{number}", prompt_tokens=50, output_tokens=tokens))
            )
        for placed in only(Assign, core.decide()):
            started = waiting.pop(placed.request_id)
            wrong = "prefill" if started else "decode"
            right = {name for name in up if not name.startswith(wrong)}
            assert placed.instance in (right or up)
            core.apply(FirstToken(placed.request_id, 1, placed.predicted_ttft_s))
        assert not waiting or not up
        core.check_books()


def test_the_rate_of_prompt_tokens_forgets() -> None:
    rate = PromptRate()
    assert rate.per_s(5.0) == 0.0
    for second in range(300):
        rate.add(float(second), 100.0)
    assert 99 < rate.per_s(299.0) < 102
    assert rate.per_s(359.0) < 40
    fresh = PromptRate()
    fresh.add(1000.0, 500.0)
    assert 490 < fresh.per_s(1000.0) < 510


def test_targets_of_those_who_leave_hold_no_prompt_back() -> None:
    """On an instance that does everything they would: its steps take too long for one more."""
    placed = []
    for role in ("Prefill", "Any"):
        profiles = [
            {"name": "first", "accelerator": "h100", "role": role},
            {"name": "rest", "accelerator": "h100", "role": "Any"},
        ]
        slo = {"ttft": "1s", "tpot": "9ms"}
        pool = make_pool("chat", spec={"profiles": profiles, "slo": slo})
        values = [Instance(n, "chat", n, "127.0.0.1:1", "simulated") for n in ("first", "rest")]
        core = CoreHarness(values, pools=[pool])
        core.observe("rest", healthy=False)
        for n in range(40):
            request = make_request(
                f"r{n}", prompt_tokens=2000, output_tokens=9, max_output_tokens=400
            )
            core.apply(Running(request, "first"))
        core.decide()
        decided = core.submit("next", prompt_tokens=8000, max_output_tokens=400)
        placed.append([one.instance for one in only(Assign, decided)])
        core.check_books()
    assert placed == [["first"], []]
