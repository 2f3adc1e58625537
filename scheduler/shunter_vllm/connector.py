"""`ShunterConnector`, which vLLM makes once in its scheduler and once in each worker.

    --kv-transfer-config '{"kv_connector": "ShunterConnector", "kv_role": "kv_both",
        "kv_connector_module_path": "shunter_vllm.connector",
        "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"port": 8200}}'

It obeys `KVConnectorBase_V1` (vllm/distributed/kv_transfer/kv_connector/v1/base.py) as of 0.32.
Only this module, `attention` and `tensors` need vLLM's environment.

Workers have their KV caches before the scheduler has its connector, and tell it through vLLM's
handshake what they are like; where nothing speaks against it, moves are served, and then the
layout is published, which the API server reads once the engine is ready.
"""

import logging
import time
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics

from shunter_vllm.attention import attention_in_use
from shunter_vllm.facts import engine_facts
from shunter_vllm.folder import BlockFolder
from shunter_vllm.layout import UnknownLayout, WorkerCache, with_caches
from shunter_vllm.published import publish, published, withdraw
from shunter_vllm.scheduler_side import StepCopies
from shunter_vllm.settings import ConnectorSettings, SettingsError, parse_settings
from shunter_vllm.start import MovesParts, start_moves
from shunter_vllm.tensors import TensorCache
from shunter_vllm.worker_side import WorkerSide

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig

_log = logging.getLogger("vllm.shunter")
_NO_MOVES = "KV does not move from here or to here: %s"


class StepMetadata(KVConnectorMetadata):  # type: ignore[misc]
    def __init__(self, copies: StepCopies) -> None:
        self.copies = copies


class CacheMetadata(KVConnectorHandshakeMetadata):  # type: ignore[misc]
    def __init__(self, cache: WorkerCache) -> None:
        self.cache = cache
        self.host = gethostname()


class ShunterConnector(KVConnectorBase_V1):  # type: ignore[misc]
    def __init__(
        self,
        vllm_config: "VllmConfig",
        role: KVConnectorRole,
        kv_cache_config: "KVCacheConfig",
    ) -> None:
        """Raises `SettingsError`, and `OSError` where the model's files cannot be read."""
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._settings = _settings(vllm_config)
        self._facts = engine_facts(vllm_config)
        self._attention = partial(attention_in_use, vllm_config)
        self._num_blocks = kv_cache_config.num_blocks
        self._folder = BlockFolder(_folder(self._settings))
        self._worker = WorkerSide(self._folder, vllm_config.parallel_config.rank)
        self._cache = WorkerCache(problem="a worker has no KV cache")
        self._unsupported = self._facts.unsupported or _unsupported_cache(
            kv_cache_config, self._facts.block_tokens
        )
        self._moves: MovesParts | None = None
        if role is KVConnectorRole.SCHEDULER:
            withdraw(self._folder.path)  # of an engine that was killed
            if self._unsupported:
                _log.warning(_NO_MOVES, self._unsupported)

    # ------------------------------------------------------------ in the scheduler

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        """By ranks in pipeline and tensor parallelism. vLLM's own refuses to start with several
        stages; here such an engine serves, and nothing moves."""
        self.set_xfer_handshake_metadata(
            {rank: found for (stage, rank), found in metadata.items() if stage == 0}
        )

    def set_xfer_handshake_metadata(
        self, metadata: dict[int, KVConnectorHandshakeMetadata]
    ) -> None:
        """The last thing before the engine is ready. Raises `OSError` and `TlsError`."""
        if self._unsupported:
            return
        try:
            if any(found.host != gethostname() for found in metadata.values()):
                raise UnknownLayout("workers on other hosts: blocks go by files of one")
            facts = with_caches(self._facts, [found.cache for found in metadata.values()])
        except UnknownLayout as error:
            _log.warning(_NO_MOVES, error)
            return
        self._moves = start_moves(self._settings, facts, self._folder, time.monotonic)
        publish(self._folder.path, facts.word())
        _log.info("KV moves: port %d, layout %s", self._moves.port, facts.word())

    def on_new_request(self, request: Any) -> None:
        if self._moves is not None:
            self._moves.scheduler.began(request)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if self._moves is None:
            return 0, False
        return self._moves.scheduler.new_tokens(request, num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._moves is not None:
            self._moves.scheduler.allocated(request, num_external_tokens)

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> KVConnectorMetadata:
        if self._moves is None:
            return StepMetadata(StepCopies())
        state = scheduler_output.kv_connector_block_state

        def table(request_id: str) -> list[int] | None:
            groups = state.get_block_ids(request_id) if state is not None else None
            return groups[0] if groups else None

        return StepMetadata(self._moves.scheduler.step(table))

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        if self._moves is not None:
            self._moves.scheduler.ended(request)
        return False, None

    def shutdown(self) -> None:
        if self._moves is not None:
            withdraw(self._folder.path)
            self._moves.server.close()

    # ------------------------------------------------------------ in a worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        try:
            cache = TensorCache(kv_caches, self._facts.layers, self._num_blocks)
            form = f"{self._attention()} {cache.block_form}"
        except Exception as error:  # vLLM serves without moves, whatever it has
            self._cache = WorkerCache(problem=f"{type(error).__name__}: {error}")
            return
        self._worker.use(cache)
        self._cache = WorkerCache(form, cache.block_bytes)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata:
        return CacheMetadata(self._cache)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self._worker.load(self._copies().loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All is there when `start_load_kv` returns."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Whole blocks are copied after the step."""

    def wait_for_save(self) -> None:
        self._worker.save(self._copies().saves)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_failed_blocks()

    def _copies(self) -> StepCopies:
        metadata = self._get_connector_metadata()
        return metadata.copies if isinstance(metadata, StepMetadata) else StepCopies()

    # ------------------------------------------------------------ in the API server

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: "VllmConfig",
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> "MovesInfo | None":
        return MovesInfo(vllm_config, metric_types, labelnames, per_engine_labelvalues)


class MovesInfo(KVConnectorPromMetrics):  # type: ignore[misc]
    """Publishes the layout and the port on vLLM's own page, where schedulers look for them."""

    def __init__(
        self,
        vllm_config: "VllmConfig",
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        settings = _settings(vllm_config)
        word = published(_folder(settings))
        if not word:
            return
        try:
            info = self._gauge_cls(
                name="shunter:kv_moves_info",
                documentation="Where the KV cache can be moved.",
                labelnames=[*labelnames, "layout", "port"],
            )
        except ValueError:  # made before in this process: vLLM removes only metrics of its own name
            return
        for values in per_engine_labelvalues.values():
            info.labels(*values, word, str(settings.port)).set(1)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """The connector sends no statistics."""


def _settings(vllm_config: "VllmConfig") -> ConnectorSettings:
    """Raises `SettingsError`."""
    transfer = vllm_config.kv_transfer_config
    if transfer.kv_load_failure_policy != "recompute":
        raise SettingsError('kv_load_failure_policy has to be "recompute"')
    if transfer.kv_role != "kv_both":
        raise SettingsError(f'kv_role {transfer.kv_role}: has to be "kv_both"')
    return parse_settings(transfer.kv_connector_extra_config)


def _folder(settings: ConnectorSettings) -> Path:
    return Path(settings.folder) / str(settings.port)


def _unsupported_cache(kv_cache_config: "KVCacheConfig", block_tokens: int) -> str:
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        return f"{len(groups)} groups of KV blocks: only one"
    spec = groups[0].kv_cache_spec
    if spec.block_size != block_tokens:
        return f"blocks of {spec.block_size} tokens, where {block_tokens} are configured"
    kind = type(spec).__name__
    full = ("FullAttentionSpec", "MLAAttentionSpec", "UniformTypeKVCacheSpecs")
    return "" if kind in full else f"blocks of kind {kind}"
