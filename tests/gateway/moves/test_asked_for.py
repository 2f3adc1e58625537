"""What a client asked for holds for the whole answer, by whatever way it goes on at another engine:
its KV cache is copied, it is computed again, or its connection broke."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from forked_engines import ForkedEngine, forked_engines
from moving_gateway import (
    MovingGateway,
    MovingSink,
    gateway_of,
    numpy_options,
    simulated_options,
    topology_of,
)
from shunter_engine.options import EngineOptions
from shunter_gateway.ports import SamplingParams, TokenLogprob
from shunter_text.answer_parts import AnswerParser, Tags, Words
from tcp_proxy import TcpProxy, tcp_proxy

Way = Literal["kv", "replay", "lost"]
TOKENS = 300
MOVED_AT = 20
TRIES = 4
NEARLY_ALL = "nearly all"  # may end before it has moved
SEEDED = SamplingParams(temperature=1.0, seed=11, ignore_eos=True)
ASKED: dict[str, dict[str, Any]] = {
    "penalties": {
        "sampling": replace(
            SEEDED, presence_penalty=0.4, frequency_penalty=0.7, repetition_penalty=1.3
        )
    },
    "bias and log probabilities": {
        "sampling": replace(
            SEEDED, logit_bias={"70": 4.0, "80": -100.0}, top_k=40, min_p=0.01, logprobs=2
        )
    },
    "at least": {
        "sampling": replace(SEEDED, ignore_eos=False, stop_token_ids=(75,)),
        "min_tokens": 260,
    },
    NEARLY_ALL: {"sampling": SEEDED, "tokens": MOVED_AT + 20},
}


@dataclass(slots=True)
class Engines:
    options: EngineOptions
    by_name: dict[str, ForkedEngine]
    undisturbed: dict[str, MovingSink] = field(default_factory=dict)
    warmed: set[str] = field(default_factory=set)


@pytest.fixture(scope="module", params=["numpy", "simulated"])
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("engines")
    options = numpy_options(folder) if request.param == "numpy" else simulated_options()
    with forked_engines(folder, {"a": options, "b": options}) as by_name:
        yield Engines(options, by_name)


@dataclass(slots=True)
class Ways:
    """A gateway that reaches each engine over a proxy."""

    engines: Engines
    gateway: MovingGateway
    proxies: dict[str, TcpProxy]

    async def undisturbed(self, name: str, **asked: Any) -> MovingSink:
        """Asked once for all ways."""
        known = self.engines.undisturbed
        if name not in known:
            _, sink = self.gateway.submit(f"u-{name}", **{"tokens": TOKENS, **asked})
            await sink.finished()
            known[name] = sink
        return known[name]

    async def warm(self) -> None:
        """Both engines have the prompt's prefix cached: as much of it is found anywhere."""
        warmed = self.engines.warmed
        while warmed != self.engines.by_name.keys():
            _, sink = self.gateway.submit(f"w{len(warmed)}", tokens=1)
            await sink.finished()
            warmed.update(sink.assigned)

    async def disturbed(self, way: Way, **asked: Any) -> MovingSink:
        """Again where the answer ended before it had moved, as on a busy machine it may."""
        for attempt in range(TRIES):
            sink = await self._disturbed(f"r{attempt}", way, **asked)
            if len(sink.assigned) == 2:
                break
        return sink

    async def _disturbed(self, name: str, way: Way, **asked: Any) -> MovingSink:
        _, sink = self.gateway.submit(name, **{"tokens": TOKENS, **asked})
        await sink.has(MOVED_AT)
        if way == "lost":
            self.proxies[sink.assigned[0]].cut_after_bytes = 0
        else:
            self.gateway.move(name, self.gateway.other(sink), way)
        await sink.finished()
        return sink

    def check_went(self, way: Way, sink: MovingSink) -> None:
        assert len(sink.assigned) == 2
        if way == "lost":
            assert self.gateway.reports() == []
            return
        last = self.gateway.reports()[-1]
        assert (last.moved, last.rung, last.reason) == (True, way, "")
        counted = self.gateway.observer.copied_bytes
        assert counted.keys() == ({"kv"} if way == "kv" else set())
        assert 0 < last.copied_bytes <= counted["kv"] if way == "kv" else not last.copied_bytes


@pytest.fixture
async def ways(engines: Engines) -> AsyncIterator[Ways]:
    message = topology_of(engines.by_name, engines.options)
    async with contextlib.AsyncExitStack() as stack:
        proxies = {}
        for instance in message.instances:
            proxy = await stack.enter_async_context(tcp_proxy(instance.address))
            proxies[instance.name], instance.address = proxy, proxy.address
        gateway = await stack.enter_async_context(gateway_of(engines.by_name, message))
        yield Ways(engines, gateway, proxies)
        await gateway.settled()


def logprobs(sink: MovingSink) -> list[TokenLogprob]:
    return [one for delta in sink.deltas for one in delta.logprobs]


@pytest.mark.parametrize("way", ["kv", "replay", "lost"])
@pytest.mark.parametrize("name", ASKED)
async def test_the_answer_is_the_undisturbed_one(ways: Ways, way: Way, name: str) -> None:
    await ways.warm()
    undisturbed = await ways.undisturbed(name, **ASKED[name])
    sink = await ways.disturbed(way, **ASKED[name])
    if name != NEARLY_ALL:
        ways.check_went(way, sink)
    assert (sink.token_ids, sink.text) == (undisturbed.token_ids, undisturbed.text)
    assert logprobs(sink) == logprobs(undisturbed)
    assert bool(logprobs(sink)) == ("probabilities" in name)
    expected, outcome = undisturbed.outcome, sink.outcome
    assert expected is not None and outcome is not None
    assert outcome == expected and outcome.cached_tokens
    assert outcome.output_tokens == len(sink.token_ids)


@pytest.mark.parametrize("way", ["kv", "replay", "lost"])
async def test_a_stop_string_that_begins_before_ends_after(ways: Ways, way: Way) -> None:
    plain = await ways.undisturbed("plain")
    stop = plain.text[-40:-28]
    sink = await ways.disturbed(way, stop=(stop,))
    ways.check_went(way, sink)
    assert sink.text == plain.text[: plain.text.index(stop)]
    assert sink.outcome is not None
    assert (sink.outcome.finish_reason, sink.outcome.stop_reason) == ("stop", stop)


@pytest.mark.parametrize("way", ["kv", "replay", "lost"])
async def test_reasoning_that_begins_before_ends_after(ways: Ways, way: Way) -> None:
    """The model speaks no tags: pieces of its own answer serve as such."""
    plain = await ways.undisturbed("plain")
    begin, end = plain.text.lstrip()[:5], plain.text[-40:-28]
    sink = await ways.disturbed(way)
    ways.check_went(way, sink)
    moved, expected = (parts_of(s, Tags(begin, end)) for s in (sink, plain))
    assert moved == expected
    assert moved["reasoning"] and moved["content"], "the tags were found"


def parts_of(sink: MovingSink, tags: Tags) -> dict[str, str]:
    """As the gateway's edge finds them in the deltas as they came."""
    parser = AnswerParser(tags, None)
    parts = [part for delta in sink.deltas for part in parser.push(delta.text)] + parser.flush()
    found = {"reasoning": "", "content": ""}
    for part in parts:
        assert isinstance(part, Words)
        found[part.kind] += part.text
    return found
