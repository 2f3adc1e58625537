"""Builds what serves moves in the process of vLLM's scheduler."""

from collections.abc import Callable
from dataclasses import dataclass

from shunter_vllm.arrivals import Arrivals
from shunter_vllm.folder import BlockFolder
from shunter_vllm.layout import EngineFacts
from shunter_vllm.leases import Store
from shunter_vllm.ledger import BlockLedger
from shunter_vllm.offers import Offers
from shunter_vllm.scheduler_side import SchedulerSide
from shunter_vllm.service import MovesServer
from shunter_vllm.settings import ConnectorSettings

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class MovesParts:
    scheduler: SchedulerSide
    server: MovesServer
    port: int


def start_moves(
    settings: ConnectorSettings,
    facts: EngineFacts,
    folder: BlockFolder,
    clock: Callable[[], float],
) -> MovesParts:
    """Raises `OSError` and `TlsError`."""
    block_bytes = facts.block_bytes * facts.tensor_parallel
    ledger = BlockLedger(settings.store_mib * _MIB // block_bytes)
    store = Store(facts, folder, ledger, clock, settings.max_moves)
    offers = Offers(store, max(1, settings.step_mib * _MIB // block_bytes))
    arrivals = Arrivals(store)
    server = MovesServer(store, offers, arrivals, settings.tls)
    port = server.start(settings.host, settings.port)
    return MovesParts(SchedulerSide(offers, arrivals, facts.block_tokens), server, port)
