"""What gateways are told of the configuration, and how often."""

import asyncio

from shunter_api.testing import make_pool
from shunter_scheduler.core.testing import make_instances
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.service.later import Later
from shunter_scheduler.service.replies import KvMoves
from shunter_scheduler.service.view import ClusterView

COPIES = KvMoves("f32 b16", "10.0.0.1:9100")


def view_of(count: int) -> ClusterView:
    view = ClusterView(64, lambda topology: {})
    view.change(Topology(1, (make_pool("chat"),), (), make_instances(count)))
    return view


def test_how_an_instance_copies_kv_caches_is_news_once() -> None:
    view = view_of(2)
    before = view.message
    assert view.set_kv_moves("chat-h100-1", COPIES)
    assert not view.set_kv_moves("chat-h100-1", COPIES)
    assert not view.set_kv_moves("chat-h100-0", KvMoves()), "nothing is what was known of it"
    assert not view.set_kv_moves("gone", COPIES)
    told = {one.name: (one.kv_transport, one.moves_address) for one in view.message.instances}
    assert told == {"chat-h100-0": ("", ""), "chat-h100-1": ("f32 b16", "10.0.0.1:9100")}
    assert view.message is not before and view.message is view.message, "made once for each change"


def test_an_instance_that_was_replaced_is_asked_anew() -> None:
    view = view_of(1)
    view.set_kv_moves("chat-h100-0", COPIES)
    (moved,) = make_instances(1)
    view.change(Topology(2, (make_pool("chat"),), (), (moved,)))
    assert view.message.instances[0].kv_transport == "f32 b16", "it is the same one"
    view.change(Topology(3, (make_pool("chat"),), (), ()))
    view.change(Topology(4, (make_pool("chat"),), (), make_instances(1)))
    assert view.message.instances[0].kv_transport == ""


async def test_many_wishes_at_once_make_one_call() -> None:
    calls = asyncio.Queue[None]()
    later = Later(lambda: calls.put_nowait(None), 0.01)
    for _ in range(1000):
        later.wish()
    await asyncio.wait_for(calls.get(), 5)
    later.wish()
    await asyncio.wait_for(calls.get(), 5)
    assert calls.empty()
