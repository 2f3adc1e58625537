"""From a file to a `Scenario`, with the place of everything that is wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from shunter_api.load import Documents, load_documents, merge, problems_of
from shunter_api.positions import YamlDocument, parse_yaml
from shunter_api.problems import ConfigurationError, Problem
from shunter_api.routingpolicy import Dispatch
from shunter_api.validate import check
from shunter_scheduler.sources.files import KNOWN
from shunter_simulator.scenarios.checks import scenario_problems
from shunter_simulator.scenarios.scenario import Scenario, scenario_pool

Reader = Callable[[str], str]  # text of a resource file, by its name in the scenario


def load_scenario(path: Path) -> Scenario:
    """Raises `ConfigurationError` with every problem, those of named resources included."""
    text = _text(path, str(path))
    return parse_scenario(text, str(path), lambda name: _text(path.parent / name, name))


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError((Problem(name, 0, "", f"cannot be read: {error}"),)) from error


def parse_scenario(text: str, origin: str, read: Reader) -> Scenario:
    """Raises `ConfigurationError`."""
    documents, problems = parse_yaml(text, origin)
    if not problems and (len(documents) != 1 or not isinstance(documents[0].value, dict)):
        problems = [Problem(origin, 0, "", "a scenario is one mapping with pools and workload")]
    if problems:
        raise ConfigurationError(tuple(problems))
    document = documents[0]
    scenario = _with_resources(_validated(document), document, read)
    if found := scenario_problems(scenario, document):
        raise ConfigurationError(tuple(found))
    return scenario


def _validated(document: YamlDocument) -> Scenario:
    try:
        return Scenario.model_validate(document.value)
    except ValidationError as error:
        raise ConfigurationError(tuple(problems_of(document, Scenario, error))) from error


def _with_resources(scenario: Scenario, document: YamlDocument, read: Reader) -> Scenario:
    """The same without `resources`: what they hold is part of it."""
    if not scenario.resources:
        return scenario
    found = merge(load_documents(read(name), name) for name in scenario.resources)
    problems = (*check(found, KNOWN), *_clashes(scenario, found, document))
    if problems:
        raise ConfigurationError(tuple(problems))
    pools = tuple(scenario_pool(pool.value) for pool in found.pools)
    update: dict[str, object] = {"resources": (), "pools": (*scenario.pools, *pools)}
    if found.policies:
        update["policy"] = found.policies[0].value.spec
    return scenario.model_copy(update=update)


def _clashes(scenario: Scenario, found: Documents, document: YamlDocument) -> Iterator[Problem]:
    own = {pool.name for pool in scenario.pools}
    for pool in found.pools:
        if pool.value.name in own:
            yield pool.problem(("metadata", "name"), "the scenario has a pool of this name as well")
    for policy in found.policies[1:]:
        yield policy.problem((), "a scenario takes one RoutingPolicy; remove all but one")
    if found.policies and "policy" in scenario.model_fields_set:
        yield document.problem(("policy",), "`resources` give a RoutingPolicy as well; keep one")


def with_policy(scenario: Scenario, name: str) -> Scenario:
    """The same under another dispatch policy. Raises `ConfigurationError` where there is none of
    that name."""
    told = {**scenario.policy.dispatch.model_dump(by_alias=True, mode="json"), "policy": name}
    try:
        dispatch = Dispatch.model_validate(told)
    except ValidationError as error:
        found = problems_of(YamlDocument("--policy", told), Dispatch, error)
        raise ConfigurationError(tuple(replace(one, field="") for one in found)) from error
    policy = scenario.policy.model_copy(update={"dispatch": dispatch})
    return scenario.model_copy(update={"policy": policy})
