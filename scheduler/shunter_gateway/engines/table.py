"""All engine types, by the name that a `ModelPool` gives."""

from collections.abc import Callable, Mapping

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.llamacpp import llamacpp
from shunter_gateway.engines.openai import openai
from shunter_gateway.engines.sglang import sglang
from shunter_gateway.engines.simulated import numpy, simulated
from shunter_gateway.engines.vllm import vllm
from shunter_gateway.ports import EngineAdapter

ENGINE_ADAPTERS: Mapping[str, Callable[[HttpClient], EngineAdapter]] = {
    "simulated": simulated,
    "numpy": numpy,
    "vllm": vllm,
    "sglang": sglang,
    "llamacpp": llamacpp,
    "openai": openai,
}


def build_adapters(client: HttpClient) -> dict[str, EngineAdapter]:
    return {name: build(client) for name, build in ENGINE_ADAPTERS.items()}
