"""From a configuration to the engines that run on this machine: pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from shunter_api.engine import LLAMA_SLOTS, EngineType
from shunter_api.instances import InstanceEntry
from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_api.validate import Configuration

# Engines that can be started here; others are found through an InstanceList.
STARTED_HERE: frozenset[EngineType] = frozenset({"simulated", "numpy", "llamacpp"})


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """One engine. Two plans that are equal need no restart."""

    name: str
    pool: str
    profile: str
    engine_type: EngineType
    source: str
    served_name: str
    accelerator: str
    tensor_parallel: int
    context_length: int
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    port: int | None  # None: any free one

    def entry(self, address: str) -> InstanceEntry:
        return InstanceEntry.model_validate(
            {
                "name": self.name,
                "pool": self.pool,
                "profile": self.profile,
                "address": address,
                "engineType": self.engine_type,
            }
        )


def plan_engines(
    configuration: Configuration, absent: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, EnginePlan], list[str]]:
    """`replicas.min` engines per profile, by name, and remarks on pools that get none here.

    A pool whose instances the files list is run by somebody else. `absent` pools cannot be served
    on this machine; its values say why.
    """
    plans: dict[str, EnginePlan] = {}
    remarks: list[str] = []
    if not configuration.pools:
        remarks.append("there is no ModelPool, so nothing is served; add one to the files")
    listed = {entry.pool for entry in configuration.instances}
    for pool in configuration.pools:
        if pool.name in listed:
            continue
        if pool.name in absent:
            remarks.append(f"pool {pool.name} is not served: {absent[pool.name]}")
            continue
        if pool.engine_type not in STARTED_HERE:
            remarks.append(
                f"pool {pool.name}: `shunter up` does not start {pool.engine_type} engines; "
                "start them yourself and name them in an InstanceList"
            )
            continue
        index = 0
        for profile in pool.profiles:
            for replica in range(profile.replicas.min):
                plan = _plan(pool, profile, replica, index)
                plans[plan.name] = plan
                index += 1
        if not index:
            held = pool.spec.scaling.from_zero is not None
            wait = "; its requests wait in vain, since nothing scales here" if held else ""
            change = "set one to 1, without scaleToZero," if held else "set one to 1"
            remarks.append(
                f"pool {pool.name}: every profile has replicas.min 0, so none is started{wait}; "
                f"{change} to serve it on this machine"
            )
    return plans, remarks


def _plan(pool: ModelPool, profile: Profile, replica: int, index: int) -> EnginePlan:
    engine = pool.spec.engine
    return EnginePlan(
        name=f"{pool.name}-{profile.name}-{replica}",
        pool=pool.name,
        profile=profile.name,
        engine_type=engine.type,
        source=pool.spec.model.source,
        served_name=pool.model_names[0],
        accelerator=profile.accelerator,
        tensor_parallel=profile.tensor_parallel,
        context_length=pool.context_length,
        args=engine.args,
        env=tuple((variable.name, variable.value) for variable in engine.env),
        port=engine.port + index if engine.port else None,
    )


def engine_arguments(plan: EnginePlan, port: int, speed: float) -> tuple[str, ...]:
    """The command line after `shunter engine`."""
    arguments = [
        *("--backend", plan.engine_type, "--model", plan.source),
        *("--served-name", plan.served_name, "--accelerator", plan.accelerator),
        *("--tensor-parallel", str(plan.tensor_parallel)),
        *("--context-length", str(plan.context_length), "--port", str(port)),
        *("--moves-port", "0"),  # found by its metrics page
    ]
    if plan.engine_type == "simulated":
        arguments += ["--speed", f"{speed:g}"]
    return (*arguments, *plan.args)


def llama_arguments(plan: EnginePlan, model: str, port: int, saved_slots: Path) -> tuple[str, ...]:
    """The command line after `llama-server`, whose context is shared out to its slots."""
    slots = _slots(plan.args)
    return (
        *("--model", model, "--alias", plan.served_name),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ctx-size", str(plan.context_length * slots), "--parallel", str(slots)),
        *("--metrics", "--offline", "--no-ui", "--slot-save-path", str(saved_slots)),
        *plan.args,
    )


def _slots(args: tuple[str, ...]) -> int:
    for flag in ("--parallel", "-np"):
        if flag in args[:-1]:
            value = args[args.index(flag) + 1]
            return int(value) if value.isdigit() and int(value) > 0 else LLAMA_SLOTS
    return LLAMA_SLOTS
