"""The admission order is a strict total order, the queue follows it, and nobody starves."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.core.account import Account
from shunter_scheduler.core.queue import AdmissionQueue, Ageing, order_key

AGEING = Ageing(step_s=10.0, share=0.25)
WINDOW = 500.0


@dataclass
class Share:
    weight: float = 1.0
    full: bool = False


@dataclass(eq=False)
class Item:
    request_id: str
    rank: int = 0
    queued_at: float = 0.0
    latest_start_at: float = 0.0
    tenant: str = ""
    expected_charge: float = 100.0
    target_work_s: float = 0.0
    started: bool = False
    limits: Share | None = None
    account: Account | None = None


Queue = AdmissionQueue[Item]

instants = st.sampled_from([0.0, 0.5, 3.0, 9.999, 10.0, 10.001, 25.0, 40.0, 61.0])


def items_of(tenants: list[str]) -> st.SearchStrategy[list[Item]]:
    return st.lists(
        st.builds(
            Item,
            request_id=st.uuids().map(str),
            rank=st.integers(0, 3),
            queued_at=instants,
            latest_start_at=st.floats(-1e6, 1e6),
            tenant=st.sampled_from(tenants),
            expected_charge=st.floats(1.0, 1000.0),
        ),
        min_size=1,
        max_size=25,
        unique_by=lambda item: item.request_id,
    )


def queue_of(items: list[Item], **options: object) -> Queue:
    queue = Queue(AGEING, WINDOW)
    for item in items:
        queue.push(item)
    return queue


def take(queue: Queue, now: float) -> Item | None:
    """The next one goes, and is charged what is expected of it."""
    found = queue.next(now)
    if found is None:
        return None
    item, before_higher = found
    queue.remove(item.request_id)
    assert item.account is not None
    item.account.take_turn(item.expected_charge)
    queue.went(item, before_higher, now)
    return item


@given(items_of(["a"]))
def test_order_of_one_tenant_is_a_strict_total_order(waiting: list[Item]) -> None:
    keys = [order_key(item) for item in waiting]
    for a in keys:
        assert not a < a
        for b in keys:
            assert not (a < b and b < a)
            assert a is b or (a < b) != (b < a)  # total: equal slack ends in the id
            for c in keys:
                assert not (a < b and b < c) or a < c


@given(items_of(["a"]))
def test_one_tenant_waits_in_that_order(waiting: list[Item]) -> None:
    queue = queue_of(waiting)
    expected = sorted(waiting, key=order_key)
    assert list(queue) == expected
    assert [queue.position(item) for item in expected] == list(range(len(expected)))
    assert queue.last() == expected[-1]


@given(items_of(["a", "b", "c", "d"]))
def test_the_order_that_is_told_is_the_order_in_which_they_go(waiting: list[Item]) -> None:
    """Of several tenants, where each request takes what was expected and no class has aged."""
    queue, now = queue_of(waiting), 0.0
    told = list(queue)
    assert Counter(map(id, told)) == Counter(map(id, waiting))
    assert [-item.rank for item in told] == sorted(-item.rank for item in told)
    assert [take(queue, now) for _ in waiting] == told
    assert take(queue, now) is None and len(queue) == 0


@given(items_of(["a", "b", "c"]), st.data())
def test_removed_once_and_only_once(waiting: list[Item], data: st.DataObject) -> None:
    queue = queue_of(waiting)
    left = list(waiting)
    for item in data.draw(st.permutations(waiting)):
        assert item.request_id in queue
        assert queue.remove(item.request_id)
        assert not queue.remove(item.request_id)
        left.remove(item)
        assert Counter(map(id, queue)) == Counter(map(id, left))
    assert len(queue) == 0 and queue.last() is None and queue.next(0.0) is None


@given(items_of(["a", "b"]), st.data())
def test_who_fits_nowhere_is_passed_over(waiting: list[Item], data: st.DataObject) -> None:
    queue = queue_of(waiting)
    skip = set(data.draw(st.lists(st.sampled_from([one.request_id for one in waiting]))))
    found = queue.next(0.0, skip)
    others = [one for one in waiting if one.request_id not in skip]
    if found is None:
        assert not others
    else:
        assert found[0] in others and found[0].rank == max(one.rank for one in others)


def test_least_slack_goes_first_inside_a_class() -> None:
    items = [Item(n, 1, 0.0, at) for n, at in (("relaxed", 50.0), ("urgent", 5.0), ("mid", 20.0))]
    assert [item.request_id for item in queue_of(items)] == ["urgent", "mid", "relaxed"]


# ------------------------------------------------------------ who is late


def due(name: str, latest_start_at: float, queued_at: float = 0.0, **more: Any) -> Item:
    return Item(name, 0, queued_at, latest_start_at, target_work_s=1.0, **more)


def order_of(queue: Queue, now: float, count: int) -> list[str]:
    return [item.request_id for _ in range(count) if (item := take(queue, now))]


def test_who_is_late_goes_behind_those_in_time() -> None:
    slack = {"late": 1.0, "later": 0.5, "urgent": 6.0, "relaxed": 9.0}
    waiting = [due(name, at, queued_at=4.0) for name, at in slack.items()]
    queue = queue_of(waiting)
    assert next(iter(queue)).request_id == "later", "at first nobody is"
    assert queue.next(5.0) is not None
    assert [item.request_id for item in queue] == ["urgent", "relaxed", "later", "late"]
    assert [queue.position(item) for item in waiting] == [3, 2, 0, 1]
    assert "in time" in queue.who_goes_first(waiting[0])
    assert order_of(queue, 5.0, 4) == ["urgent", "relaxed", "later", "late"]


def test_who_has_no_target_is_never_late() -> None:
    queue = queue_of([Item("old", 0, 0.0, 1.0), due("urgent", 100.0)])
    assert order_of(queue, 99.0, 2) == ["old", "urgent"]


def test_whose_client_reads_already_goes_first() -> None:
    queue = queue_of([due("urgent", 100.0), due("goes-on", 500.0, started=True)])
    assert order_of(queue, 99.0, 2) == ["goes-on", "urgent"]


def test_who_is_late_is_shed_first() -> None:
    late = due("late", 1.0)
    queue = queue_of([late, due("relaxed", 1e6)])
    assert queue.next(5.0) is not None
    assert queue.last() is late


@given(st.integers(1, 5), st.floats(1.0, 1000.0))
def test_who_is_late_does_not_starve(count: int, charge: float) -> None:
    """Beyond capacity: somebody who is in time waits always, one goes every 0.1 s."""
    lone = [due(f"late-{n}", -1.0, 0.0, expected_charge=charge) for n in range(count)]
    queue, now, number = queue_of(lone), 0.0, 0
    repaid_s = 0.1 * (charge / (AGEING.late_share * 100.0) + 2)
    before = in_time = 0.0
    while any(one.request_id in queue for one in lone):
        now += 0.1
        number += 1
        queue.push(due(f"in-time-{number}", now + 1e6, now))
        item = take(queue, now)
        assert item is not None
        if item in lone:
            before += item.expected_charge
        else:
            in_time += item.expected_charge
        assert before <= AGEING.late_share * in_time + charge + 1e-6, "no more than their share"
        assert now < AGEING.late_s + count * repaid_s + 1.0, "starves"


def test_who_is_late_goes_whatever_others_lose_in_its_turn_only() -> None:
    queue = queue_of([due(name, -1.0, expected_charge=100.0) for name in ("first", "second")])
    for name, by_age in (("first", True), ("second", False)):
        found = queue.next(AGEING.late_s)
        assert found is not None and found[0].request_id == name
        assert queue.by_age(*found) == by_age
        queue.remove(name)
        queue.went(*found, AGEING.late_s)


def test_what_one_tenant_cannot_keep_is_not_taken_from_another() -> None:
    """Both get their share of service though all that one of them has is late."""
    queue, went = Queue(AGEING, WINDOW), Counter[str]()
    for n in range(100):
        queue.push(due(f"a{n}", -1.0, tenant="a"))
        queue.push(due(f"b{n}", 1e6 + n, tenant="b"))
    for _ in range(60):
        item = take(queue, 1.0)
        assert item is not None
        went[item.tenant] += 1
    assert abs(went["a"] - went["b"]) * 100.0 <= WINDOW + 100.0


def test_beyond_the_speed_at_which_they_drain_the_longest_are_put_off() -> None:
    queue, now = Queue(AGEING, WINDOW), 0.0
    for n in range(40):  # one second of work leaves in a second
        queue.push(due(f"known-{n}", 1e6 + n))
    for _ in range(40):
        assert take(queue, now) is not None
        now += 1.0
        queue.next(now)
    for n, work_s in enumerate((4.0, 1.0, 1.0, 1.0, 1.0)):
        queue.push(Item(f"r{n}", 0, now, now + 5.0 - work_s, target_work_s=work_s))
    queue.push(Item("known", 0, now, now + 1e6, target_work_s=1.0))
    assert order_of(queue, now + 0.1, 6) == ["r1", "r2", "r3", "r4", "known", "r0"]


# ------------------------------------------------------------ ageing


def test_a_class_that_has_waited_goes_before_a_higher_one_now_and_then() -> None:
    queue = queue_of([Item(f"batch-{n}", 0, 0.0, 1e6) for n in range(9)])
    went = ""
    for n in range(15):
        queue.push(Item(f"interactive-{n}", 1, 10.0))
        item = take(queue, 10.0)
        assert item is not None
        went += item.request_id[0]
    assert went == "biiiibiiiibiiii", "a quarter of the service of the others"


def test_a_class_that_is_served_does_not_age() -> None:
    """Its backlog is old, but it got more than its share while nobody of the higher class came."""
    queue = queue_of([Item(f"batch-{n}", 0, 0.0, 1e6) for n in range(40)])
    for _ in range(20):
        assert take(queue, 50.0) is not None
    went = ""
    for n in range(80):
        queue.push(Item(f"interactive-{n}", 1, 60.0))
        item = take(queue, 60.0)
        assert item is not None
        went += item.request_id[0]
    assert went.index("b") == AGEING.kept / AGEING.share, "what it got ahead is bounded"
    assert went[32:37] == "biiii", "then it gets its share"


def test_a_class_ages_by_as_many_steps_as_it_lies_below_another() -> None:
    for rank, due_s in ((1, 10.0), (2, 20.0), (3, 30.0)):
        queue = queue_of([Item("low", 0, 0.0), Item("high", rank, 0.0)])
        early, due = queue.next(due_s - 0.001), queue.next(due_s)
        assert early is not None and early[0].request_id == "high" and not early[1]
        assert due is not None and due[0].request_id == "low" and due[1]


def test_inside_a_class_that_aged_the_longest_wait_goes_first() -> None:
    old, urgent = Item("old", 0, 0.0, 1e6), Item("urgent", 0, 5.0, 0.0)
    queue = queue_of([old, urgent, Item("high", 1, 5.0)])
    found = queue.next(11.0)
    assert found is not None and found[0] is old


@given(st.integers(0, 3), st.integers(1, 4), st.floats(1.0, 1000.0), st.integers(1, 5))
def test_nobody_starves_while_higher_classes_flood(
    rank: int, floods: int, charge: float, count: int
) -> None:
    """Every class above has a request waiting at any time; one goes every 0.1 s."""
    lone = [
        Item(f"lone-{n}", rank, 0.0, 1e9, tenant=f"t{n}", expected_charge=charge)
        for n in range(count)
    ]
    queue, now, number = queue_of(lone), 0.0, 0
    repaid_s = 0.1 * (charge / (AGEING.share * 100.0) + 2)  # what they take before others
    while any(one.request_id in queue for one in lone):
        now += 0.1
        for top in range(rank + 1, rank + 1 + floods):
            number += 1
            queue.push(Item(f"flood-{number}", top, now, now))
        item = take(queue, now)
        assert item is not None
        # Each class between may be served before it, each as seldom as that.
        assert now < floods * (AGEING.step_s + 1) + floods * count * repaid_s + 60.0, "starves"


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1.0, 5000.0)), min_size=20, max_size=120))
def test_classes_that_age_take_no_more_than_their_share(work: list[tuple[int, float]]) -> None:
    """Everything has waited long; the highest class always has a request of each size waiting."""
    queue = queue_of([Item(f"r{n}", r, 0.0, 0.0, "", c) for n, (r, c) in enumerate(work)])
    before, in_order, largest, now = 0.0, 0.0, max(c for _, c in work), 1000.0
    for n in range(200):
        queue.push(Item(f"top-{n}", 9, now, 0.0, "", work[n % len(work)][1]))
        item = take(queue, now)
        assert item is not None
        if item.rank < 9:
            before += item.expected_charge
        else:
            in_order += item.expected_charge
        assert before <= AGEING.share * in_order + largest + 1e-6


# ------------------------------------------------------------ tenants


def weigh(item: Item) -> float:
    return item.limits.weight if item.limits else 1.0


@given(
    weights=st.lists(st.sampled_from([1.0, 1.0, 2.0, 5.0]), min_size=2, max_size=5),
    charges=st.lists(st.floats(1.0, 3000.0), min_size=1, max_size=40),
    rounds=st.integers(1, 150),
)
def test_the_service_of_tenants_that_wait_differs_by_a_bound(
    weights: list[float], charges: list[float], rounds: int
) -> None:
    """VTC's bound: however much one sends, those with something waiting get service by weight, but
    for the window and one request of each."""
    queue, served = Queue(AGEING, WINDOW), [0.0] * len(weights)
    shares = [Share(weight) for weight in weights]
    number = 0

    def push(tenant: int) -> None:
        nonlocal number
        number += 1
        charge = charges[number % len(charges)]
        slack = float(number * 7919 % 101)  # who has least slack has nothing to do with whose turn
        name = f"t{tenant}"
        item = Item(f"r{number}", 0, 0.0, slack, name, charge, limits=shares[tenant])
        queue.push(item)

    for tenant in range(len(weights)):
        for _ in range(20 if tenant == 0 else 2):
            push(tenant)
    for _ in range(rounds):
        item = take(queue, 0.0)
        assert item is not None
        tenant = int(item.tenant[1:])
        served[tenant] += item.expected_charge / weigh(item)
        push(tenant)
        if tenant == 0:
            push(0)  # it floods
    most = max(charges) / min(weights)
    assert max(served) - min(served) <= WINDOW + most + 1e-6


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-400.0, 900.0)), max_size=60))
def test_corrections_keep_the_turns_in_order(corrections: list[tuple[int, float]]) -> None:
    names = ("a", "b", "c")
    items = [Item(f"{name}{n}", 0, 0.0, n, name) for name in names for n in range(3)]
    queue = queue_of(items)
    counters = dict.fromkeys(names, 0.0)
    for tenant, amount in corrections:
        account = items[3 * tenant].account
        assert account is not None
        account.charge(amount)
        counters[names[tenant]] = max(0.0, counters[names[tenant]] + amount)
    found = queue.next(0.0)
    assert found is not None
    assert counters[found[0].tenant] <= min(counters.values()) + WINDOW + 1e-6
    assert len(list(queue)) == len(items)


def test_who_was_idle_has_saved_nothing_up() -> None:
    queue = queue_of([Item(f"a{n}", 0, 0.0, n, "a", 1000.0) for n in range(30)])
    for _ in range(10):
        take(queue, 0.0)
    for n in range(10):
        queue.push(Item(f"b{n}", 0, 0.0, n, "b", 1000.0))
    went = [item.tenant for _ in range(10) if (item := take(queue, 0.0))]
    assert 4 <= went.count("a") <= 6, "equal from here on, nothing is made up for"


def test_what_an_idle_tenant_gets_back_for_answers_of_before_is_no_credit() -> None:
    """It was lifted to the others when it came back: what it was charged before is forgotten."""
    early = [Item(f"b{n}", 0, 0.0, n, "b", 1000.0) for n in range(5)]
    queue = queue_of([*early, *(Item(f"a{n}", 0, 0.0, n, "a", 1000.0) for n in range(50))])
    for _ in range(30):
        take(queue, 0.0)
    for n in range(10):
        queue.push(Item(f"later{n}", 0, 0.0, n, "b", 1000.0))
    for one in early:  # they end, and were a tenth as long as predicted
        assert one.account is not None
        one.account.charge(-900.0)
    went = [item.tenant for _ in range(10) if (item := take(queue, 0.0))]
    assert 4 <= went.count("a") <= 6


def test_a_tenant_that_runs_all_it_may_is_passed_over() -> None:
    full = Share(full=True)
    queue = queue_of([Item("a", 1, 0.0, 0.0, "a", limits=full), Item("b", 0, 0.0, 9.0, "b")])
    found = queue.next(0.0)
    assert found is not None and found[0].request_id == "b" and not found[1]
    queue.remove("b")
    assert queue.next(0.0) is None
    full.full = False
    found = queue.next(0.0)
    assert found is not None and found[0].request_id == "a"


def test_shed_is_of_the_lowest_class_the_tenant_with_the_most_then_the_most_slack() -> None:
    flood = [Item(f"f{n}", 0, 0.0, float(n), "flood") for n in range(4)]
    heavy = [Item(f"h{n}", 0, 0.0, 9.0, "heavy", limits=Share(10.0)) for n in range(8)]
    others = [Item("quiet", 0, 0.0, 1e6, "quiet"), Item("high", 1, 0.0, 1e9, "flood")]
    queue = queue_of([*flood, *heavy, *others])
    assert queue.last() is flood[3]
    flood[3].started = True
    assert queue.last() is flood[2], "whose client reads already is shed last"


def test_shed_by_age_is_of_the_same_tenant_who_came_last() -> None:
    flood = [Item(f"f{n}", 0, float(n), 9.0 - n, "flood") for n in range(4)]
    queue = queue_of([*flood, Item("quiet", 0, 99.0, 1e6, "quiet")])
    assert queue.last(by_age=True) is flood[3]
    flood[3].started = True
    assert queue.last(by_age=True) is flood[2], "whose client reads already is shed last"
    flood[0].started = flood[1].started = flood[2].started = True
    assert queue.last(by_age=True) is flood[3], "all of them have begun"


def test_the_position_of_one_among_several_tenants_is_its_turn() -> None:
    flood = [Item(f"f{n}", 0, 0.0, float(n), "flood") for n in range(50)]
    late = Item("late", 0, 0.0, 99.0, "quiet")
    queue = queue_of([*flood, late])
    assert queue.position(late) <= 2
    assert queue.position(flood[49]) == 50


@pytest.mark.parametrize("tenants", [10, 5000])
def test_any_number_of_tenants_is_served(tenants: int) -> None:
    """Beyond the table's bound they share one account."""
    items = [Item(f"r{n}", 0, 0.0, float(n), f"t{n}") for n in range(tenants)]
    queue = queue_of(items)
    (turns,) = queue._classes.values()
    assert len(turns.accounts) <= 4097
    went = {item.request_id for _ in items if (item := take(queue, 0.0))}
    assert len(went) == tenants
    queue.push(Item("again", 0, 0.0, 0.0, "new"))
    assert len(turns.accounts) <= 4097
