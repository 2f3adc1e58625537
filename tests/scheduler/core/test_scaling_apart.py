"""Scaling advice for pools with roles: each by its own demand."""

from typing import Any

from shunter_api.testing import make_pool
from shunter_scheduler.core.testing import CoreHarness, make_request
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.events import Finished, Running, Submitted

ROLES = {"prefill": "Prefill", "decode": "Decode", "any": "Any"}


def harness(
    bounds: dict[str, tuple[int, int]], transport: str = "rdma", **spec: Any
) -> CoreHarness:
    """Profiles with their least and most instances; there are as many as the least."""
    profiles = [
        {
            "name": name,
            "accelerator": "h100",
            "role": ROLES[name],
            "replicas": {"min": least, "max": most},
        }
        for name, (least, most) in bounds.items()
    ]
    values = [
        Instance(f"{name}-{n}", "chat", name, "a:1", "simulated", kv_transport=transport)
        for name, (least, _) in bounds.items()
        for n in range(least)
    ]
    return CoreHarness(values, pools=[make_pool("chat", spec={"profiles": profiles, **spec})])


def advised(core: CoreHarness) -> dict[str, int]:
    return {a.profile: a.desired_replicas for a in core.core.advise_scaling("chat", core.now)}


def load_prompts(core: CoreHarness, count: int, tokens: int) -> None:
    """So many in ten seconds, whose answers are short."""
    for n in range(count):
        core.now += 10 / count
        core.apply(Submitted(make_request(f"p{n}", prompt_tokens=tokens, max_output_tokens=8)))
        core.decide()
        core.apply(Finished(f"p{n}", 1, 8, "stop"))
    core.submit("last", prompt_tokens=tokens, max_output_tokens=8)


def load_answers(core: CoreHarness, count: int, instance: str, slots: int = 1) -> None:
    for n in range(count):
        request = make_request(f"a{n}", prompt_tokens=100, output_tokens=10, max_output_tokens=1000)
        core.apply(Running(request, f"{instance}-{n % slots}"))
    core.decide()


def test_prompts_ask_for_prefill_instances() -> None:
    core = harness({"prefill": (2, 8), "decode": (1, 8)})
    load_prompts(core, 200, 6000)
    found = advised(core)
    assert found["prefill"] > 2 and found["decode"] == 1
    reason = core.core.advise_scaling("chat", core.now)[0].reason
    assert "prompt tokens a second; one prefill computes" in reason


def test_answers_ask_for_decode_instances() -> None:
    core = harness({"prefill": (1, 8), "decode": (1, 8)}, slo={"tpot": "12ms"})
    load_answers(core, 250, "decode")
    found = advised(core)
    assert found["prefill"] == 1 and found["decode"] > 1


def test_without_copies_decode_instances_prefill_as_well() -> None:
    needed = []
    for transport in ("rdma", ""):
        core = harness({"prefill": (1, 8), "decode": (1, 30)}, transport)
        for n in range(200):
            request = make_request(
                f"a{n}", prompt_tokens=8000, output_tokens=10, max_output_tokens=100
            )
            core.apply(Running(request, "decode-0"))
        needed.append(advised(core)["decode"])
    assert needed[1] > needed[0]


def test_the_last_of_a_role_stays_without_load() -> None:
    """Minimums allow none of them, and the floor of one instance is met by the other."""
    core = harness({"prefill": (0, 2), "decode": (1, 2)})
    assert advised(core) == {"prefill": 1, "decode": 1}
    mixed = harness({"any": (1, 4), "prefill": (0, 2), "decode": (0, 2)})
    assert advised(mixed) == {"any": 1, "prefill": 1, "decode": 1}
    none = harness({"any": (1, 4), "prefill": (0, 0)})
    assert advised(none) == {"any": 1, "prefill": 0}


def test_an_idle_pool_goes_to_zero_all_the_same() -> None:
    core = harness({"prefill": (0, 2), "decode": (0, 2)}, scaling={"scaleToZero": {"after": "1m"}})
    assert advised(core) == {"prefill": 0, "decode": 0}
    core.submit("r1")
    assert advised(core) == {"prefill": 1, "decode": 1}
    core.apply(Finished("r1", 1, 0, "cancelled"))
    core.now += 61.0
    core.decide()
    assert advised(core) == {"prefill": 0, "decode": 0}


def test_those_who_do_both_take_what_is_left() -> None:
    core = harness({"prefill": (0, 1), "decode": (0, 1), "any": (1, 9)}, slo={"tpot": "12ms"})
    load_answers(core, 700, "any")
    found = advised(core)
    assert found["decode"] == 1 and found["any"] > 1
    assert found["prefill"] == 1
