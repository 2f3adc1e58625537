"""The connector itself, over stand-ins of the few names that it takes from vLLM and torch."""

import enum
import importlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import grpc
import pytest

from numpy_torch import numpy_torch
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1.moves_pb2_grpc import EngineMovesStub
from shunter_vllm.testing import FakeCache, FakeRequest
from tiny_llama import write_tiny_llama

BASE = "vllm.distributed.kv_transfer.kv_connector.v1"
BLOCK_TOKENS = 4


class Role(enum.Enum):
    SCHEDULER = 0
    WORKER = 1


class Base:
    def __init__(self, vllm_config: Any, role: Role, kv_cache_config: Any) -> None:
        self.metadata: Any = None

    def _get_connector_metadata(self) -> Any:
        return self.metadata


ENVS = {"VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT": False}


class Platform:
    device_type = device_name = "cpu"

    def get_device_name(self) -> str:
        return "cpu"


class Layer:
    def __init__(self, backend: str, isa: str) -> None:
        self._backend, self.isa = backend, isa

    def get_attn_backend(self) -> Any:
        if not self._backend:
            raise NotImplementedError("a layer of another kind")
        return SimpleNamespace(get_name=lambda: self._backend)


class Gauge:
    def __init__(self, name: str, documentation: str, labelnames: list[str]) -> None:
        self.name, self.labelnames = name, labelnames
        self.samples: dict[tuple[object, ...], float] = {}

    def labels(self, *values: object) -> Any:
        return SimpleNamespace(set=lambda value: self.samples.__setitem__(values, value))


class PromMetrics:
    made: list[Gauge]

    def __init__(self, config: Any, types: Any, labels: Any, values: Any) -> None:
        self.made = []

    def _gauge_cls(self, **given: Any) -> Gauge:
        self.made.append(Gauge(**given))
        return self.made[-1]


def module(name: str, **names: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    return made


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    parts = BASE.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), module(".".join(parts[:i])))
    stand_ins = (
        module(
            f"{BASE}.base",
            KVConnectorBase_V1=Base,
            KVConnectorHandshakeMetadata=object,
            KVConnectorMetadata=object,
            KVConnectorRole=Role,
        ),
        module(f"{BASE}.metrics", KVConnectorPromMetrics=PromMetrics),
        module("vllm", envs=SimpleNamespace(**ENVS)),
        module("vllm.platforms", current_platform=Platform()),
        numpy_torch(),
    )
    for made in stand_ins:
        monkeypatch.setitem(sys.modules, made.__name__, made)
    yield importlib.import_module("shunter_vllm.connector")
    for name in ("connector", "attention", "tensors"):
        sys.modules.pop(f"shunter_vllm.{name}", None)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def config(folder: Path, port: int, **changes: Any) -> Any:
    """A `VllmConfig`, as far as it is read."""
    write_tiny_llama(folder / "model")
    transfer = {"kv_load_failure_policy": "recompute", "kv_role": "kv_both"}
    extra = {"port": port, "host": "127.0.0.1", "folder": str(folder / "kv")}
    return SimpleNamespace(
        kv_transfer_config=SimpleNamespace(
            kv_connector_extra_config=extra,
            **transfer | {k: v for k, v in changes.items() if k in transfer},
        ),
        model_config=SimpleNamespace(
            model=str(folder / "model"),
            revision=None,
            tokenizer=None,
            dtype="float32",
            seed=0,
            quantization=None,
            hf_config=SimpleNamespace(to_dict=lambda: {"model_type": "llama"}),
            get_num_layers=lambda parallel: 3,
            get_num_kv_heads=lambda parallel: 2,
            get_head_size=lambda: 8,
            get_sliding_window=lambda: None,
        ),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1, pipeline_parallel_size=changes.get("stages", 1), rank=0
        ),
        cache_config=SimpleNamespace(
            block_size=BLOCK_TOKENS, cache_dtype="auto", enable_prefix_caching=True
        ),
        load_config=SimpleNamespace(load_format="auto"),
        speculative_config=changes.get("speculative"),
        compilation_config=SimpleNamespace(
            static_forward_context={
                "model.layers.0.attn": Layer(
                    changes.get("backend", "CPU_ATTN"), changes.get("isa", "vec")
                ),
                "model.layers.0.moe": object(),
            }
        ),
    )


def kv_cache_config(
    groups: int = 1, spec: str = "FullAttentionSpec", block_tokens: int = BLOCK_TOKENS
) -> Any:
    kind = type(spec, (), {"block_size": block_tokens})()
    return SimpleNamespace(
        kv_cache_groups=[SimpleNamespace(kv_cache_spec=kind)] * groups,
        kv_cache_tensors=[SimpleNamespace(size=192 * 10)],
        num_blocks=10,
    )


def caches(layers: int = 3, rows: int = 10) -> dict[str, Any]:
    """What vLLM registers at a worker: blocks of 64 bytes a layer."""
    torch = numpy_torch()
    size = rows * 64 // 4
    return {
        f"model.layers.{i}": torch.frombuffer(bytearray(size * 4), dtype=torch.int32).view(
            rows, 2, BLOCK_TOKENS, 2
        )
        for i in range(layers)
    }


def started(connector: Any, made: Any, cache: Any, found: dict[str, Any]) -> tuple[Any, Any]:
    """Scheduler and worker, in vLLM's order."""
    worker = connector.ShunterConnector(made, Role.WORKER, cache)
    worker.register_kv_caches(found)
    scheduler = connector.ShunterConnector(made, Role.SCHEDULER, cache)
    stages = range(made.parallel_config.pipeline_parallel_size)
    scheduler.set_xfer_handshake_metadata_pp_aware(
        {(stage, 0): worker.get_handshake_metadata() for stage in stages}
    )
    return scheduler, worker


def advertised(connector: Any, made: Any) -> list[Gauge]:
    info = connector.ShunterConnector.build_prom_metrics(
        made, {}, ["model_name", "engine"], {0: ["chat", "0"]}
    )
    gauges: list[Gauge] = info.made
    return gauges


class Engine:
    """vLLM, as far as it calls its two connectors in a step."""

    def __init__(self, connector: Any, folder: Path) -> None:
        self.port = free_port()
        self.config = config(folder, self.port)
        self.scheduler, self.worker = started(connector, self.config, kv_cache_config(), caches())
        self.cache = FakeCache(layers=3, block_bytes=192)
        self.worker._worker.use(self.cache)
        self.tables: dict[str, tuple[list[int], ...]] = {}

    def step(self) -> set[int]:
        state = SimpleNamespace(get_block_ids=self.tables.get)
        output = SimpleNamespace(kv_connector_block_state=state)
        self.worker.metadata = self.scheduler.build_connector_meta(output)
        self.worker.start_load_kv(None)
        self.worker.wait_for_save()
        failed: set[int] = self.worker.get_block_ids_with_load_errors()
        return failed


@pytest.mark.parametrize("damage", [False, True])
def test_blocks_go_from_one_vllm_to_another(connector: Any, tmp_path: Path, damage: bool) -> None:
    source, destination = (Engine(connector, tmp_path / name) for name in "ab")
    request = FakeRequest("cmpl-r1-0-0123abcd", list(range(10)), num_computed_tokens=9)
    source.tables[request.request_id] = ([7, 8, 9],)
    source.cache.blocks = {7: b"a" * 192, 8: b"b" * 192, 9: b"c" * 192}
    source.scheduler.on_new_request(request)
    with (
        grpc.insecure_channel(f"127.0.0.1:{source.port}") as out,
        grpc.insecure_channel(f"127.0.0.1:{destination.port}") as into,
    ):
        calls: Any = EngineMovesStub(into)
        offer = EngineMovesStub(out).Offer(pb.OfferRequest(move_id="m", call_id="r1"), timeout=10)
        source.step()
        prepared = calls.Prepare(
            pb.PrepareRequest(move_id="m", manifest=offer.manifest, token_ids=range(10))
        )
        pull = calls.Pull(
            pb.PullRequest(
                move_id="m",
                kv_lease=prepared.kv_lease,
                source_address=f"127.0.0.1:{source.port}",
                transfer_token=offer.transfer_token,
            ),
            timeout=20,
        )
        assert next(pull).tokens == 8
        pull.cancel()
    there = FakeRequest("cmpl-r1-1-0-89abcdef", list(range(10)))
    destination.scheduler.on_new_request(there)
    assert destination.scheduler.get_num_new_matched_tokens(there, 0) == (8, False)
    destination.tables[there.request_id] = ([3, 4, 5],)
    destination.scheduler.update_state_after_alloc(there, None, 8)
    if damage:
        for file in (tmp_path / "b" / "kv").rglob("*.0"):
            file.write_bytes(file.read_bytes()[:-1])
    failed = destination.step()
    if damage:
        assert failed == {3, 4} and destination.cache.blocks == {}
    else:
        assert failed == set()
        assert destination.cache.blocks == {3: b"a" * 192, 4: b"b" * 192}
    assert destination.step() == set()
    for engine, ended in ((source, request), (destination, there)):
        assert engine.scheduler.request_finished(ended, []) == (False, None)
        engine.scheduler.shutdown()
    assert not list(tmp_path.rglob("*.0"))


@pytest.mark.parametrize(
    "changes", [{"kv_load_failure_policy": "fail"}, {"kv_role": "kv_consumer"}]
)
def test_a_configuration_that_would_lose_requests_does_not_start(
    connector: Any, tmp_path: Path, changes: dict[str, str]
) -> None:
    made = config(tmp_path, free_port(), **changes)
    with pytest.raises(ValueError, match=next(iter(changes))):
        connector.ShunterConnector(made, Role.SCHEDULER, kv_cache_config())


@pytest.mark.parametrize(
    ("changes", "cache", "found"),
    [
        ({"speculative": object()}, kv_cache_config(), {}),
        ({}, kv_cache_config(groups=2), {}),
        ({}, kv_cache_config(spec="SlidingWindowSpec"), {}),
        ({}, kv_cache_config(block_tokens=2 * BLOCK_TOKENS), {}),
        ({"stages": 2}, kv_cache_config(), {}),
        ({"backend": ""}, kv_cache_config(), {}),
        ({}, kv_cache_config(), {"layers": 2}),  # as where layers share KV
        ({}, kv_cache_config(), {"rows": 15}),
    ],
)
def test_what_cannot_move_serves_as_ever_and_says_so(
    connector: Any,
    tmp_path: Path,
    changes: dict[str, Any],
    cache: Any,
    found: dict[str, int],
) -> None:
    made = config(tmp_path, free_port(), **changes)
    scheduler, _ = started(connector, made, cache, caches(**found))
    assert advertised(connector, made) == []
    request = FakeRequest("cmpl-r1-0", list(range(10)))
    scheduler.on_new_request(request)
    assert scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
    scheduler.update_state_after_alloc(request, None, 0)
    assert scheduler.build_connector_meta(None).copies.saves == []
    assert scheduler.request_finished(request, []) == (False, None)
    scheduler.shutdown()


def test_schedulers_find_layout_and_port_on_the_metrics_page(
    connector: Any, tmp_path: Path
) -> None:
    engine = Engine(connector, tmp_path)
    (gauge,) = advertised(connector, engine.config)
    assert gauge.name == "shunter:kv_moves_info"
    assert gauge.labelnames == ["model_name", "engine", "layout", "port"]
    ((labels, value),) = gauge.samples.items()
    assert value == 1 and labels[:2] == ("chat", "0") and labels[3] == str(engine.port)
    with grpc.insecure_channel(f"127.0.0.1:{engine.port}") as channel:
        described = EngineMovesStub(channel).Describe(pb.DescribeRequest(), timeout=10)
    assert labels[2] == described.layout and described.layout.startswith("vllm-")
    engine.scheduler.shutdown()
    assert advertised(connector, engine.config) == []


def test_workers_on_other_hosts_move_nothing(connector: Any, tmp_path: Path) -> None:
    """Their files would be missing here."""
    made = config(tmp_path, free_port())
    worker = connector.ShunterConnector(made, Role.WORKER, kv_cache_config())
    worker.register_kv_caches(caches())
    found = worker.get_handshake_metadata()
    found.host = "elsewhere"
    scheduler = connector.ShunterConnector(made, Role.SCHEDULER, kv_cache_config())
    scheduler.set_xfer_handshake_metadata({0: found})
    assert advertised(connector, made) == []


def test_what_an_engine_that_was_killed_published_is_not_believed(
    connector: Any, tmp_path: Path
) -> None:
    engine = Engine(connector, tmp_path)
    engine.scheduler._moves.server.close()  # and nothing else
    started(connector, engine.config, kv_cache_config(groups=2), caches())
    assert advertised(connector, engine.config) == []


@pytest.mark.parametrize(
    ("changes", "environment"),
    [
        ({"isa": "amx"}, {}),
        ({"backend": "AMX_MLA"}, {}),
        ({}, {"device_name": "rocm"}),
        ({}, {"get_device_name": lambda: "AMD EPYC"}),
        ({}, {"shuffled": True}),
        ({"isa": ""}, {}),
    ],
)
def test_what_computes_attention_is_in_the_layout(
    connector: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    environment: dict[str, Any],
) -> None:
    """As a worker sees it, whether it was asked for or not."""
    attention = importlib.import_module("shunter_vllm.attention")
    plain = attention.attention_in_use(config(tmp_path, 8200))
    for name, value in environment.items():
        if name == "shuffled":
            monkeypatch.setattr(attention.envs, "VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT", value)
        else:
            monkeypatch.setattr(attention.current_platform, name, value)
    found = attention.attention_in_use(config(tmp_path, 8200, **changes))
    assert found != plain and plain.split() == ["cpu", "cpu", "CPU_ATTN", "vec"]
