"""The catalogue's tokenizers: what is too long is refused before it is tokenised."""

import json
import random
import threading
from datetime import UTC, datetime
from importlib.resources import files

import pytest
import tokenizers

from shunter_gateway.edge.errors import RequestError
from shunter_gateway.edge.intake import Intake, parse_completion
from shunter_gateway.edge.job import Caller, Limits
from shunter_gateway.edge.live_models import LiveModels
from shunter_gateway.edge.ports import ChatPrompt, PromptInvalid
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.llamacpp import llamacpp
from shunter_gateway.engines.vllm import vllm
from shunter_gateway.tokenizers import TokenizerRegistry
from shunter_gateway.topology import Topology, topology_from_proto
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_text.sources import sim_tokenizer
from shunter_text.tokenizer import Tokenizer

TOPOLOGY = topology_from_proto(
    pb.Topology(
        pools=[pb.Topology.Pool(name="chat", model_source="sim://llama-3.1-8b", context_length=64)]
    )
)


async def test_prompts_that_must_be_too_long() -> None:
    registry = TokenizerRegistry({})
    models = LiveModels(
        lambda: TOPOLOGY, registry, {}, random.Random(0), lambda: datetime(2026, 1, 1, tzinfo=UTC)
    )
    model = models.find("chat")
    assert model is not None
    assert await models.encode_text(model, "word") == tuple(sim_tokenizer().encode("word"))
    text = "word " * 10_000
    messages = [{"role": "user", "content": text}]
    with pytest.raises(PromptInvalid, match="The prompt has at least") as plain:
        await models.encode_text(model, text)
    with pytest.raises(PromptInvalid, match="at most 64 fit") as chat:
        await models.encode_chat(model, ChatPrompt(messages, (), True))
    assert plain.value.code == chat.value.code == "context_length_exceeded"
    await registry.close()


async def test_bytes_of_half_a_character() -> None:
    registry = TokenizerRegistry({})
    models = LiveModels(
        lambda: TOPOLOGY, registry, {}, random.Random(0), lambda: datetime(2026, 1, 1, tzinfo=UTC)
    )
    model = models.find("chat")
    assert model is not None
    ids = await models.encode_text(model, "日")
    assert ids is not None and len(ids) > 1
    assert b"".join(models.token_bytes(model, id_) for id_ in ids).decode() == "日"
    await registry.close()


async def test_a_tokenizer_that_takes_too_long_to_load() -> None:
    loading = threading.Event()

    def load(source: str) -> Tokenizer | None:
        assert loading.wait(10)
        return sim_tokenizer()

    registry = TokenizerRegistry({}, load)
    models = LiveModels(
        lambda: TOPOLOGY,
        registry,
        {},
        random.Random(0),
        lambda: datetime(2026, 1, 1, tzinfo=UTC),
        load_wait_s=0.01,
    )
    intake = Intake(models, Limits())
    raw = b'{"model":"chat","prompt":[300,301]}'
    body, caller = parse_completion(raw), Caller("r1")
    with pytest.raises(RequestError) as caught:
        await intake.completion(body, raw, caller, 0)
    assert (caught.value.error.status, caught.value.error.code) == (503, "model_loading")
    assert caught.value.error.retry_after_s > 0
    loading.set()
    await registry.tokenizer("sim://llama-3.1-8b")
    job = await intake.completion(body, raw, caller, 0)
    assert job.specs[0].prompt_token_ids == (300, 301)
    await registry.close()


def family(*sources: str) -> Topology:
    """A pool for each source; rules lead `auto` to all of them, `nowhere` to none."""
    pools = [
        pb.Topology.Pool(
            name=source[-1], model_source=source, revision=source, context_length=64 * (i + 1)
        )
        for i, source in enumerate(sources)
    ]
    target = pb.Topology.RuleTarget(model="auto", pools=[pool.name for pool in pools])
    models = ["auto", "nowhere"]
    return topology_from_proto(pb.Topology(pools=pools, rule_models=models, rule_targets=[target]))


def other_tokenizer() -> Tokenizer:
    alike = json.loads(files("shunter_text").joinpath("data", "sim_tokenizer.json").read_text())
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(alike)), eos_token_ids=[7])


@pytest.mark.parametrize(
    ("name", "sources", "tokenised", "why"),
    [
        ("auto", ("sim://a",), True, "no_tokenizer"),
        ("auto", ("sim://a", "sim://b"), True, "no_tokenizer"),  # one family: tokenised alike
        ("auto", ("sim://a", "sim://other"), False, "several_tokenizers"),
        ("auto", ("sim://a", "pvc://c"), False, "several_tokenizers"),
        ("nowhere", ("sim://a",), False, "no_tokenizer"),
    ],
)
async def test_name_of_a_rule_is_tokenised_where_all_its_pools_are_alike(
    name: str, sources: tuple[str, ...], tokenised: bool, why: str
) -> None:
    def load(source: str) -> Tokenizer | None:
        if source.startswith("pvc:"):
            return None
        return other_tokenizer() if source == "sim://other" else sim_tokenizer()

    registry, topology = TokenizerRegistry({}, load), family(*sources)
    models = LiveModels(
        lambda: topology, registry, {}, random.Random(0), lambda: datetime(2026, 1, 1, tzinfo=UTC)
    )
    raw = b'{"model":"%s","prompt":"word"}' % name.encode()
    job = await Intake(models, Limits()).completion(parse_completion(raw), raw, Caller("r1"), 0)
    spec = job.specs[0]
    assert (spec.prompt_token_ids is not None) == tokenised
    assert spec.unmovable_reason == ("" if tokenised else why)
    if tokenised:
        assert spec.prompt_token_ids == tuple(sim_tokenizer().encode("word"))
        assert spec.tokenizer_source == "sim://a"
        model = models.find(name)
        assert model is not None and model.context_length == 64 * len(sources)
    await registry.close()


@pytest.mark.parametrize(
    ("types", "ignored"),
    [
        (("llamacpp",), {"min_tokens", "stop_token_ids"}),
        (("llamacpp", "llamacpp"), {"min_tokens", "stop_token_ids"}),
        (("llamacpp", "vllm"), set()),
        (("vllm",), set()),
        (("unheard-of",), set()),
    ],
)
async def test_what_all_engines_behind_a_name_ignore(
    types: tuple[str, ...], ignored: set[str]
) -> None:
    """Where only some do, it is seen once the request is placed."""
    registry, client = TokenizerRegistry({}), HttpClient()
    pools = [pb.Topology.Pool(name=f"p{i}", engine_type=kind) for i, kind in enumerate(types)]
    target = pb.Topology.RuleTarget(model="auto", pools=[pool.name for pool in pools])
    topology = topology_from_proto(
        pb.Topology(pools=pools, rule_models=["auto"], rule_targets=[target])
    )
    adapters = {"llamacpp": llamacpp(client), "vllm": vllm(client)}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    models = LiveModels(lambda: topology, registry, adapters, random.Random(0), lambda: now)
    model = models.find("auto")
    assert model is not None and model.ignores == ignored
    await registry.close()
    await client.close()
