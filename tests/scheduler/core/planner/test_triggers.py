"""Each reason to move, in the smallest cluster that has it."""

from dataclasses import replace

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.planner.cycle import plan_gains
from shunter_scheduler.core.planner.testing import MOVES, PlannerHarness
from shunter_scheduler.core.settings import HeadRoom
from shunter_scheduler.core.testing import make_instances, make_request, only
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.decisions import Assign, Move, Suspend
from shunter_scheduler.domain.events import Progress, Submitted

ROOMY = HeadRoom(max_queue_s=1e9)
CLASSES = [
    {"name": "interactive", "priority": 100, "ttft": "2s", "tpot": "45ms"},
    {"name": "batch", "priority": 0, "deadline": "24h"},
]
POLICIES = [make_policy(classes=CLASSES)]
SUSPENDING = [make_policy(classes=[CLASSES[0], {**CLASSES[1], "suspendable": True}])]


def only_reason(moves: list[Move]) -> str:
    assert moves
    (reason,) = {move.reason for move in moves}
    return reason


def test_slo_rescue_moves_who_would_miss_its_time_per_token() -> None:
    harness = PlannerHarness(policies=POLICIES)
    first, _second = harness.names
    ids = [f"r{i}" for i in range(14)]
    harness.load(first, ids, prompt_tokens=300, slo_class="interactive")
    moves = harness.plan()
    assert only_reason(moves) == "slo-rescue"
    explained = harness.core.explain(moves[0].request_id, harness.now)
    assert explained is not None
    assert dict(explained.decisions[-1].candidates[0].terms)["slo"] < 0


def test_slo_rescue_starts_again_who_waits_for_the_prefills_of_others() -> None:
    harness = PlannerHarness(head_room=ROOMY)
    first, second = harness.names
    harness.observe(second, healthy=False)
    for i in range(3):
        harness.assign(f"r{i}", prompt_tokens=4000)
    harness.observe(second)
    moves = harness.plan()
    assert [(m.request_id, m.rung, m.reason) for m in moves] == [("r2", "restart", "slo-rescue")]
    harness.carry_out(moves)
    assert {name: load.prefilling for name, load in harness.loads().items()} == {
        first: 2,
        second: 1,
    }


def test_who_waits_stays_where_it_would_be_in_time_nowhere() -> None:
    """The other has as much to prefill: nothing is gained by a change of queues."""
    harness = PlannerHarness(head_room=ROOMY)
    for name in harness.names:
        harness._only(name)
        for i in range(3):
            harness.assign(f"{name}-{i}", prompt_tokens=4000)
    harness._only(None)
    assert [harness.plan() for _ in range(4)] == [[]] * 4


def test_preemption_is_foreseen_once_memory_lasts_for_seconds_only() -> None:
    """Of 13,040 tokens all but 300 are used, and each step of 10 requests takes 10."""
    harness = PlannerHarness(head_room=ROOMY)
    first, second = harness.names
    harness.load(first, [f"r{i}" for i in range(10)], prompt_tokens=600, output_tokens=40)
    assert harness.plan() == []
    for i in range(10):
        harness.apply(Progress(f"r{i}", 1, 675))
    moves = harness.plan()
    assert only_reason(moves) == "preemption"
    assert {move.destination for move in moves} == {second}
    explained = harness.core.explain(moves[0].request_id, harness.now)
    assert explained is not None
    terms = dict(explained.decisions[-1].candidates[0].terms)
    assert terms["memory"] == min(terms.values()) < 0


def test_defragmentation_makes_room_for_the_head_of_the_queue() -> None:
    """Of 13,040 tokens each instance has too few free, both together have enough."""
    harness = PlannerHarness(head_room=ROOMY)
    first, second = harness.names
    harness.load(first, ["a0", "a1"], prompt_tokens=3500, output_tokens=200)
    harness.load(second, ["b0", "b1"], prompt_tokens=3500, output_tokens=200)
    assert not only(Assign, harness.submit("head", prompt_tokens=6500))
    moves = harness.plan()
    assert only_reason(moves) == "defragmentation" and len(moves) == 1
    harness.carry_out(moves)
    (assigned,) = only(Assign, harness.decide())
    assert (assigned.request_id, assigned.instance) == ("head", moves[0].source)


def test_nothing_is_moved_for_a_head_that_would_not_fit_anyhow() -> None:
    harness = PlannerHarness(head_room=ROOMY)
    for at, name in enumerate(harness.names):
        harness.load(name, [f"r{at}-{i}" for i in range(3)], prompt_tokens=3500)
    assert not only(Assign, harness.submit("head", prompt_tokens=6500))
    assert harness.plan() == []


def test_to_look_at_the_head_of_the_queue_changes_nothing_in_it() -> None:
    """How fast a queue drains is told from when it is asked for the next one."""
    harness = PlannerHarness(head_room=ROOMY, policies=POLICIES)
    for at, name in enumerate(harness.names):
        ids = [f"r{at}-{i}" for i in range(3)]
        harness.load(name, ids, prompt_tokens=3500, slo_class="batch")
    assert not only(Assign, harness.submit("a", prompt_tokens=6500, slo_class="interactive"))
    assert not only(Assign, harness.submit("b", prompt_tokens=6500, slo_class="interactive"))
    state = harness.core._state
    (pool,) = state.pools.values()
    (account,) = {id(entry.account): entry.account for entry in pool.queue}.values()
    assert account is not None
    before = account.planned_at
    plan_gains(state, pool, harness.now + 5.0)
    assert account.planned_at == before
    pool.queue.next(harness.now + 5.0)
    assert account.planned_at > before


def test_priority_headroom_moves_the_lower_class_away() -> None:
    harness = PlannerHarness(policies=POLICIES)
    first, _second = harness.names
    batch = [f"b{i}" for i in range(14)]
    harness.load(first, batch, prompt_tokens=300, slo_class="batch")
    harness.load(first, ["i0"], prompt_tokens=300, slo_class="interactive")
    moves = harness.plan()
    assert moves[0].reason == "priority-headroom" and moves[0].request_id in batch


def test_priority_headroom_suspends_where_nobody_can_be_moved() -> None:
    harness = PlannerHarness(policies=SUSPENDING)
    batch = [f"b{i}" for i in range(14)]
    for at, name in enumerate(harness.names):
        ids = [f"{name}-{one}" for one in batch]
        harness.load(name, ids, prompt_tokens=300, slo_class="batch")
        harness.load(
            name, [f"i{at}-{n}" for n in range(3)], prompt_tokens=300, slo_class="interactive"
        )
    harness.now += 0.5
    suspended = only(Suspend, harness.decide())
    assert suspended and all("-b" in one.request_id for one in suspended)


def test_requests_return_to_a_preferred_profile_once_it_has_had_room_long_enough() -> None:
    profiles = [
        {"name": "h100", "accelerator": "h100", "replicas": {"min": 1, "max": 2}},
        {"name": "l4", "accelerator": "l4", "replicas": {"min": 1, "max": 2}},
    ]
    spec = {"profiles": profiles, "scaling": {"returnAfter": "30s"}}
    pool = make_pool("chat", spec=spec)
    (h100,) = make_instances(1)
    l4 = Instance("chat-l4-0", "chat", "l4", "127.0.0.1:9100", "simulated")
    harness = PlannerHarness(instances=[h100, l4], pools=[pool])
    harness.load("chat-l4-0", ["r0", "r1"], prompt_tokens=300, output_tokens=100)
    assert [harness.plan() for _ in range(20)] == [[]] * 20
    moves = harness.plan(after_s=25.0)
    assert only_reason(moves) == "preferred-profile"
    assert {move.destination for move in moves} == {h100.name}


def test_consolidation_empties_the_instance_that_will_go() -> None:
    spec = {
        "profiles": [{"name": "h100", "accelerator": "h100", "replicas": {"min": 1, "max": 4}}],
        "scaling": {"scaleDownAfter": "20s"},
    }
    harness = PlannerHarness(3, pools=[make_pool("chat", spec=spec)])
    for at, name in enumerate(harness.names):
        harness.load(name, [f"r{at}"], prompt_tokens=300, output_tokens=100)

    def advise() -> None:
        (advice,) = harness.core.advise_scaling("chat", harness.now)
        assert advice.desired_replicas < advice.replicas

    assert [harness.plan() for _ in range(30)] == [[]] * 30  # nobody asks for advice
    advise()
    assert harness.plan() == []
    advise()
    moves = harness.plan(after_s=12.0)
    assert only_reason(moves) == "consolidation"
    harness.carry_out(moves)
    emptied = moves[0].source
    assert harness.loads()[emptied].requests == 0
    assert harness.assign("next", prompt_tokens=300).instance != emptied


def test_an_instance_that_is_being_emptied_serves_again_once_requests_wait() -> None:
    spec = {
        "profiles": [{"name": "h100", "accelerator": "h100", "replicas": {"min": 1, "max": 4}}],
        "scaling": {"scaleDownAfter": "2s"},
    }
    harness = PlannerHarness(
        2, pools=[make_pool("chat", spec=spec)], head_room=HeadRoom(max_requests=2)
    )
    harness.load(harness.names[0], ["r0"], prompt_tokens=300, output_tokens=100)
    for _ in range(4):
        harness.core.advise_scaling("chat", harness.now)
        harness.carry_out(harness.plan())
    placed = [
        one.instance
        for i in range(3)
        for one in only(Assign, harness.after(Submitted(make_request(f"n{i}", prompt_tokens=10))))
    ]
    harness.now += 5.0
    placed += [one.instance for one in only(Assign, harness.decide())]
    assert len(placed) == 3 and set(placed) == set(harness.names)


def test_a_cycle_of_the_default_policy_moves_nothing() -> None:
    harness = PlannerHarness(moves=replace(MOVES, policy="drain-only"))
    harness.load(harness.names[0], [f"r{i}" for i in range(16)], prompt_tokens=300)
    assert harness.plan() == []
