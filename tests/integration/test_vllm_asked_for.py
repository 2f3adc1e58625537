"""What a client asked for holds across a move between two real vLLM servers: by replay on stock
ones, and by the connector. `make test-vllm`."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moving_gateway import GREEDY, MovingGateway, MovingSink, gateway_of
from shunter_gateway.continued_seed import continued_seed
from shunter_gateway.ports import EngineRequest, SamplingParams, TokenLogprob
from shunter_gateway.testing_http import CollectingSink
from vllm_servers import MISSING, PYTHON, VllmOptions, VllmServer, vllm_servers, vllm_topology

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PYTHON, reason=MISSING),
]
PROMPT = tuple(int(i) for i in np.random.default_rng(17).integers(3, 259, 300))
TOKENS = 1500  # long enough for a move on a crowded machine
MOVED_AT = 20
TRIES = 8
ASKED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "bias and log probabilities": {
        "sampling": replace(GREEDY, logit_bias={"70": 2.0, "80": -100.0}, logprobs=2),
        "tokens": 700,  # vLLM takes several times as long for each
    },
    "repetition penalty": {"sampling": replace(GREEDY, repetition_penalty=1.3)},
}


@dataclass(slots=True)
class Running:
    servers: dict[str, VllmServer]
    folder: Path
    rung: str
    undisturbed: dict[str, MovingSink] = field(default_factory=dict)


@pytest.fixture(scope="module", params=["replay", "kv"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder, options = tmp_path_factory.mktemp("vllm"), VllmOptions(connector=request.param == "kv")
    with vllm_servers(folder, ("a", "b"), options) as servers:
        yield Running(servers, folder, request.param)


@dataclass(slots=True)
class Pair:
    """Two servers of a gateway, which remembers what it asked them for."""

    running: Running
    gateway: MovingGateway
    calls: list[EngineRequest]

    async def undisturbed(self, name: str, **asked: Any) -> MovingSink:
        known = self.running.undisturbed
        if name not in known:
            known[name] = self._submit(f"u-{name}", **asked)
            await known[name].finished()
        return known[name]

    async def moved(self, **asked: Any) -> MovingSink:
        """Again where the answer ended before it had moved, as on a busy machine it may."""
        for attempt in range(TRIES):
            sink = self._submit(f"m{attempt}", **asked)
            await sink.has(MOVED_AT)
            self.gateway.move(f"m{attempt}", self.gateway.other(sink), self.running.rung)
            await sink.finished()
            if len(sink.assigned) == 2:
                break
        last = self.gateway.reports()[-1]
        assert (last.moved, last.rung, last.reason) == (True, self.running.rung, "")
        return sink

    def _submit(self, name: str, **asked: Any) -> MovingSink:
        _, sink = self.gateway.submit(name, prompt=PROMPT, **{"tokens": TOKENS, **asked})
        sink.UNTIL_S = sink.END_S = 600.0  # on a crowded machine
        return sink

    @property
    def last_call(self) -> EngineRequest:
        """The one at the destination; warm-ups ask for one token."""
        return next(call for call in reversed(self.calls) if call.max_tokens > 1)


@pytest.fixture
async def pair(running: Running, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    message = await asyncio.to_thread(vllm_topology, running.servers, running.folder)
    assert all(bool(i.moves_address) == (running.rung == "kv") for i in message.instances)
    async with gateway_of(running.servers, message) as gateway:
        adapter, calls = gateway.adapters["vllm"], list[EngineRequest]()
        start = adapter.start

        def remembered(request: EngineRequest, sink: Any) -> Any:
            calls.append(request)
            return start(request, sink)

        monkeypatch.setattr(adapter, "start", remembered)
        yield Pair(running, gateway, calls)
        await gateway.settled()


def logprobs(sink: MovingSink) -> list[TokenLogprob]:
    return [one for delta in sink.deltas for one in delta.logprobs]


def check_counts(sink: MovingSink, undisturbed: MovingSink) -> None:
    """What the client is told of its usage, and why it ended."""
    outcome, expected = sink.outcome, undisturbed.outcome
    assert outcome is not None and expected is not None
    assert replace(outcome, cached_tokens=0) == replace(expected, cached_tokens=0)
    assert (outcome.prompt_tokens, outcome.output_tokens) == (len(PROMPT), len(sink.token_ids))


@pytest.mark.parametrize("name", ASKED)
async def test_the_answer_is_the_undisturbed_one(pair: Pair, name: str) -> None:
    undisturbed = await pair.undisturbed(name, **ASKED[name])
    sink = await pair.moved(**ASKED[name])
    assert (sink.token_ids, sink.text) == (undisturbed.token_ids, undisturbed.text)
    check_counts(sink, undisturbed)
    found, expected = logprobs(sink), logprobs(undisturbed)
    assert [one.token_id for one in found] == [one.token_id for one in expected]
    # A prefill's numbers differ in the last bits from those of token after token.
    assert [one.logprob for one in found] == pytest.approx(
        [one.logprob for one in expected], abs=1e-3
    )
    if "probabilities" in name:
        assert [one.token_id for one in found] == sink.token_ids
        assert all(len(one.top) >= 2 for one in found)


async def test_an_answer_ends_no_sooner_than_it_may(pair: Pair) -> None:
    """`min_tokens` counts the whole answer: its stop token is held off as long as without a move,
    and no longer."""
    plain = await pair.undisturbed("nothing")
    often = Counter(plain.token_ids[TOKENS // 2 :]).most_common(1)[0][0]
    asked = {
        "sampling": replace(GREEDY, ignore_eos=False, stop_token_ids=(often,)),
        "min_tokens": TOKENS - 300,
    }
    undisturbed = await pair.undisturbed("at least", **asked)
    assert undisturbed.outcome is not None and undisturbed.outcome.finish_reason == "stop"
    sink = await pair.moved(**asked)
    assert sink.token_ids == undisturbed.token_ids
    check_counts(sink, undisturbed)
    assert TOKENS - 300 <= len(sink.token_ids) < TOKENS
    call = pair.last_call
    assert call.min_tokens == TOKENS - 300 - call.output_offset
    assert call.max_tokens == TOKENS - call.output_offset


async def test_a_stop_string_that_begins_before_ends_after(pair: Pair) -> None:
    """It is nearly the whole answer, so that the move comes within it: a warm-up takes longer than
    two tokens."""
    plain = await pair.undisturbed("nothing")
    begin, end = MOVED_AT + 2, TOKENS - 100
    stop = plain.text[text_before(plain, begin) : text_before(plain, end)]
    undisturbed = await pair.undisturbed("stop", stop=(stop,))
    sink = await pair.moved(stop=(stop,))
    assert begin <= pair.last_call.output_offset < end, "it moved within the stop string"
    assert sink.text == plain.text[: plain.text.index(stop)] == undisturbed.text
    check_counts(sink, undisturbed)
    assert sink.outcome is not None
    assert (sink.outcome.finish_reason, sink.outcome.stop_reason) == ("stop", stop)


def text_before(sink: MovingSink, tokens: int) -> int:
    """Characters that came with the first deltas that have so many tokens."""
    seen = characters = 0
    for delta in sink.deltas:
        if seen >= tokens:
            break
        seen += len(delta.token_ids)
        characters += len(delta.text)
    return characters


async def test_a_seed_goes_on_from_its_position(pair: Pair) -> None:
    """vLLM's random state cannot be set: what comes after the move is drawn anew, but always so."""
    sampling = SamplingParams(temperature=1.0, seed=11, ignore_eos=True)
    undisturbed = await pair.undisturbed("seed", sampling=sampling)
    sink = await pair.moved(sampling=sampling)
    call = pair.last_call
    moved_at = call.output_offset
    assert sink.token_ids[:moved_at] == undisturbed.token_ids[:moved_at]
    assert call.sampling.seed == continued_seed(11, moved_at)
    check_counts(sink, undisturbed)
    again = CollectingSink()
    source = pair.running.servers[sink.assigned[0]].address
    pair.gateway.adapters["vllm"].start(replace(call, request_id="again", address=source), again)
    async with asyncio.timeout(600.0):
        await again.ended.wait()
    assert again.failure is None
    assert sink.token_ids[moved_at:] == again.token_ids
    assert sink.token_ids[moved_at:] != undisturbed.token_ids[: TOKENS - moved_at]
