"""The facts of one machine: of a scheduler that is named, or of a running `shunter up`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shunter.config import load
from shunter.doctor.facts import Facts, ModelFacts, SchedulerFacts, ServiceFacts, Unread
from shunter.doctor.reach import Target, direct
from shunter.doctor.read_service import (
    MAX_ENGINES,
    EnginePlace,
    model_of,
    read_engines,
    read_scheduler,
    read_tokenizers,
)
from shunter.up.launch import reachable
from shunter_api.problems import ConfigurationError
from shunter_runtime.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Machine:
    """`gateway` (host:port) empty: not known. `config`: the pools that the scheduler serves, where
    they are files of this machine."""

    scheduler: str
    gateway: str = ""
    config: Path | None = None
    tls: TlsFiles | None = None


async def gather(machine: Machine) -> Facts:
    """Raises `TlsError`."""
    scheduler = await read_scheduler(machine.scheduler, machine.tls)
    models = _models(machine.config)
    async with direct() as reach:
        places = _places(scheduler, models)
        return Facts(
            ServiceFacts(
                gateway=await reach.call(Target(reachable(machine.gateway)), "/ready")
                if machine.gateway
                else Unread("name the gateway with --gateway HOST:PORT to have it checked"),
                scheduler=scheduler,
                engines=await read_engines(places[:MAX_ENGINES], reach),
                unasked=max(0, len(places) - MAX_ENGINES),
                tokenizers=await read_tokenizers(model.source for model in models.values()),
            )
        )


def _places(
    scheduler: SchedulerFacts | Unread, models: Mapping[str, ModelFacts]
) -> list[EnginePlace]:
    if isinstance(scheduler, Unread):
        return []
    return [
        EnginePlace(i.name, i.pool, Target(i.address), models.get(i.pool))
        for i in scheduler.instances
    ]


def _models(config: Path | None) -> dict[str, ModelFacts]:
    """By pool; empty where nobody says."""
    if config is None:
        return {}
    try:
        return {pool.name: model_of(pool) for pool in load([config]).pools}
    except ConfigurationError:  # the scheduler's own status tells of it
        return {}
