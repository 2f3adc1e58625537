"""The catalogue's tokenizers: what is too long is refused before it is tokenised."""

import random
from datetime import UTC, datetime

import pytest

from shunter_gateway.edge.live_models import LiveModels
from shunter_gateway.edge.ports import ChatPrompt, PromptInvalid
from shunter_gateway.tokenizers import TokenizerRegistry
from shunter_gateway.topology import topology_from_proto
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_text.sources import sim_tokenizer

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
