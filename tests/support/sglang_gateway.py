"""The gateway's core over stubs of SGLang servers."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from moving_gateway import Changes, MovingGateway, gateway_of
from shunter_gateway.testing_sglang import SglangStub, sglang_stub
from shunter_proto.v1 import scheduler_pb2 as pb

SOURCE = "sim://llama-3.1-8b"
CONTEXT_LENGTH = 4096


@contextlib.asynccontextmanager
async def sglang_gateway(
    changes: Changes | None = None, **options: Any
) -> AsyncIterator[MovingGateway]:
    """Two stubs, `a` and `b`; `options` are the stubs'."""
    options.setdefault("context_length", CONTEXT_LENGTH)
    async with sglang_stub(SOURCE, **options) as a, sglang_stub(SOURCE, **options) as b:
        message = _topology({"a": a, "b": b})
        async with gateway_of({"a": a, "b": b}, message, changes) as gateway:
            yield gateway


def stub_of(gateway: MovingGateway, name: str) -> SglangStub:
    stub: Any = gateway.engines[name]
    assert isinstance(stub, SglangStub)
    return stub


def _topology(stubs: dict[str, SglangStub]) -> pb.Topology:
    pool = pb.Topology.Pool(
        name="chat",
        model_names=["chat"],
        model_source=SOURCE,
        revision=SOURCE,
        engine_type="sglang",
        context_length=CONTEXT_LENGTH,
        max_retries=5,
    )
    instances = [
        pb.Topology.Instance(name=name, pool="chat", address=s.address, engine_type="sglang")
        for name, s in stubs.items()
    ]
    return pb.Topology(version=1, pools=[pool], instances=instances)
