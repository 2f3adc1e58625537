"""The CustomResourceDefinitions, from the models that parse the resources.

`python -m shunter_api.crd DIRECTORY` writes one file per resource. API servers before 1.25 know no
CEL: they drop the rules of what is created or replaced, but refuse server-side apply of them.
`--without-cel` leaves the rules out.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from shunter_api.base import API_VERSION, SERVICE_NAME
from shunter_api.cel import VALIDATIONS, Rule, cel
from shunter_api.crd_schema import Schema, structural_schema
from shunter_api.modelpool import ModelPool, ModelPoolSpec
from shunter_api.routingpolicy import RoutingPolicy, RoutingPolicySpec
from shunter_api.status import PolicyStatus, PoolStatus

GROUP, _, VERSION = API_VERSION.partition("/")
HEADER = "# Written by `make crds` from scheduler/shunter_api: change the models, not this file.\n"


def modelpools() -> Schema:
    """The definition of `modelpools.shunter.dev`."""
    name_rule = Rule(
        f"size(self.metadata.name) <= 63 && self.metadata.name.matches('{SERVICE_NAME}')",
        "metadata.name is the name of a Service: lower-case letters, digits and -, a letter first, "
        "no - at the end, at most 63 characters",
    )
    schema = _resource(ModelPool, ModelPoolSpec, PoolStatus, name_rule)
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return _definition(
        "modelpool", "smp", schema, _POOL_COLUMNS, {"status": {}, "scale": scale}, ModelPool
    )


def routingpolicies() -> Schema:
    """The definition of `routingpolicies.shunter.dev`."""
    name_rule = Rule(
        "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
        "metadata.name is lower-case letters, digits and -, no - at the ends, "
        "at most 63 characters",
    )
    schema = _resource(RoutingPolicy, RoutingPolicySpec, PolicyStatus, name_rule)
    return _definition(
        "routingpolicy", "srp", schema, _POLICY_COLUMNS, {"status": {}}, RoutingPolicy
    )


def without_cel(schema: Any) -> Any:
    """The same definition without its rules."""
    if isinstance(schema, list):
        return [without_cel(item) for item in schema]
    if isinstance(schema, dict):
        return {key: without_cel(value) for key, value in schema.items() if key != VALIDATIONS}
    return schema


def files(*, with_cel: bool = True) -> dict[str, str]:
    """The text of each file by its name."""
    definitions = {"modelpools.yaml": modelpools(), "routingpolicies.yaml": routingpolicies()}
    if not with_cel:
        definitions = without_cel(definitions)
    return {
        name: HEADER + yaml.dump(value, Dumper=_Plain, sort_keys=False, width=96)
        for name, value in definitions.items()
    }


def main() -> None:
    """Writes the files into the directory that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m shunter_api.crd")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--without-cel", action="store_true")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    for name, text in files(with_cel=not options.without_cel).items():
        (options.directory / name).write_text(text)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    return {**column, "priority": 1} if wide else column


_READY = '.status.conditions[?(@.type=="Ready")]'
_AGE = _column("AGE", ".metadata.creationTimestamp", "date")

_POOL_COLUMNS = [
    _column("MODEL", ".status.model"),
    _column("READY", ".status.readyReplicas", "integer"),
    _column("DESIRED", ".status.desiredReplicas", "integer"),
    _column("GPU-MIX", ".status.gpuMix"),
    _column("TTFT-P95", ".status.serving.ttftP95"),
    _column("SLO%", ".status.serving.sloAttainment"),
    _column("QUEUE", ".status.serving.queued", "integer"),
    _column("REASON", f"{_READY}.reason"),
    _AGE,
    _column("TOK/S", ".status.serving.tokensPerSecond", "integer", wide=True),
    _column("COST/H", ".status.costPerHour", wide=True),
    _column("POLICY", ".status.policy", wide=True),
]
_POLICY_COLUMNS = [
    _column("PRIORITY", ".spec.priority", "integer"),
    _column("DISPATCH", ".spec.dispatch.policy"),
    _column("READY", f"{_READY}.status"),
    _column("REASON", f"{_READY}.reason"),
    _AGE,
]


def _resource(
    model: type[BaseModel],
    spec: type[BaseModel],
    status: type[BaseModel],
    name_rule: Rule,
) -> Schema:
    return {
        "description": spec.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": f"{API_VERSION}.", "type": "string"},
            "kind": {"description": f"{model.__name__}.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(spec),
            "status": structural_schema(status, with_defaults=False),
        },
        **cel(name_rule),
    }


def _definition(
    singular: str,
    short: str,
    schema: Schema,
    columns: list[Schema],
    subresources: Schema,
    model: type[BaseModel],
) -> Schema:
    plural = f"{singular.removesuffix('y')}ies" if singular.endswith("y") else f"{singular}s"
    names = {
        "kind": model.__name__,
        "listKind": f"{model.__name__}List",
        "plural": plural,
        "singular": singular,
        "shortNames": [short],
        "categories": ["shunter"],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        "subresources": subresources,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }


if __name__ == "__main__":
    main()
