"""vLLM servers to measure moves on: as they come, and with the connector."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from shunter_proto.v1 import scheduler_pb2 as pb
from tiny_llama import LlamaShape
from vllm_servers import PYTHON, VllmOptions, vllm_servers, vllm_topology

# 3 million weights, 4 KiB of float32 keys and values a token.
SHAPE = LlamaShape(layers=4, width=256, heads=8, kv_heads=4, head_dim=32, feed_forward=768)
INSTALLED = bool(PYTHON)

Servers = tuple[Mapping[str, Any], pb.Topology]


def started(connector: bool) -> Callable[[Path], AbstractContextManager[Servers]]:
    @contextmanager
    def start(folder: Path) -> Iterator[Servers]:
        place = folder / f"vllm-{connector}"
        place.mkdir()
        with vllm_servers(place, ("a", "b"), VllmOptions(SHAPE, connector)) as servers:
            yield servers, vllm_topology(servers, place)

    return start


stock = started(connector=False)
connected = started(connector=True)
