"""What must hold between the parts of a scenario."""

from collections.abc import Collection, Iterable, Iterator

from shunter_api.base import Metadata
from shunter_api.engine import Engine
from shunter_api.load import Documents, Located
from shunter_api.modelpool import ModelPool
from shunter_api.positions import Path, YamlDocument
from shunter_api.problems import Problem
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.rules import DEFAULT_CLASS
from shunter_api.validate import Known, check, unknown_name
from shunter_scheduler.sources.feasible import infeasible
from shunter_simulator.scenarios.scenario import Scenario
from shunter_simulator.workloads.spec import classes_of


def scenario_problems(scenario: Scenario, document: YamlDocument) -> list[Problem]:
    """Everything that cannot work, with its place in `document`."""
    pools = {pool.name: pool for pool in scenario.model_pools}
    if not pools:
        why = "there is no pool; give `pools`, or `resources` with some"
        return [document.problem(("pools",), why)]
    problems = set(check(_documents(scenario, document), _known(scenario)))
    for path, why in (*_named(scenario, pools), *_faults(scenario, pools), *_classes(scenario)):
        problems.add(document.problem(path, why))
    return sorted(problems)


class _Part(YamlDocument):
    """A part of a scenario, as the document of the resource that it describes."""

    def __init__(self, whole: YamlDocument, prefix: Path) -> None:
        super().__init__(whole.origin, None)
        self.whole = whole
        self.prefix = prefix

    def problem(self, path: Path, message: str) -> Problem:
        inner = path[1:] if path[:1] == ("spec",) else path[-1:]
        return self.whole.problem((*self.prefix, *inner), message)


def _documents(scenario: Scenario, whole: YamlDocument) -> Documents:
    def part(*prefix: str | int) -> YamlDocument:
        return _Part(whole, prefix)

    pools = [Located(p, part("pools", n)) for n, p in enumerate(scenario.model_pools)]
    return Documents(tuple(pools), (Located(policy_of(scenario), part("policy")),))


def policy_of(scenario: Scenario) -> RoutingPolicy:
    return RoutingPolicy.model_construct(
        metadata=Metadata(name=scenario.name), spec=scenario.policy
    )


def _known(scenario: Scenario) -> Known:
    def check_pool(pool: ModelPool) -> Iterable[tuple[Path, str]]:
        """A profile whose engine the scenario describes need not suit the data sheet."""
        settings = scenario.engines.get(pool.name, {})
        told = {
            index
            for index, profile in enumerate(pool.profiles)
            if (engine := settings.get(profile.name)) and engine.told
        }
        if len(told) == len(pool.profiles):
            return ()
        simulated = pool.spec.model_copy(update={"engine": Engine(type="simulated")})
        pool = pool.model_copy(update={"spec": simulated})  # whatever serves it in earnest
        return [
            (path, why) for path, why in infeasible(pool) if path[2:] not in {(i,) for i in told}
        ]

    return Known(pool_check=check_pool)


def _named(scenario: Scenario, pools: dict[str, ModelPool]) -> Iterator[tuple[Path, str]]:
    """Pools and profiles that `instances` and `engines` speak of."""
    told: list[tuple[str, str, Collection[str]]] = [
        *(("instances", name, counts) for name, counts in scenario.instances.items()),
        *(("engines", name, settings) for name, settings in scenario.engines.items()),
    ]
    for field, name, of_profiles in told:
        if name not in pools:
            yield (field, name), unknown_name("pool", name, pools)
            continue
        profiles = [profile.name for profile in pools[name].profiles]
        for profile in of_profiles:
            if profile not in profiles:
                yield (field, name, profile), unknown_name("profile", profile, profiles)


def _faults(scenario: Scenario, pools: dict[str, ModelPool]) -> Iterator[tuple[Path, str]]:
    names = {name for pool in pools.values() for _, name in scenario.instances_of(pool)}
    for index, fault in enumerate(scenario.faults):
        at: Path = ("faults", index)
        if fault.instance is not None and fault.instance not in names:
            yield (*at, "instance"), unknown_name("instance", fault.instance, names)
        if fault.pool is None:
            continue
        if fault.pool not in pools:
            yield (*at, "pool"), unknown_name("pool", fault.pool, pools)
            continue
        there = scenario.instances_of(pools[fault.pool])
        chosen = sum(fault.profile in (None, profile) for profile, _ in there)
        if chosen < fault.count:
            yield (*at, "count"), f"asks for {fault.count} instances; there are {chosen}"


def _classes(scenario: Scenario) -> Iterator[tuple[Path, str]]:
    """Of the load: every request of a class that no policy has would be refused."""
    known = {DEFAULT_CLASS, *(slo_class.name for slo_class in scenario.policy.classes)}
    for path, name in classes_of(scenario.workload):
        if name and name not in known:
            yield ("workload", *path), unknown_name("class", name, known)
