"""The tables of docs/simulate.md, from the models.

`python -m shunter_simulator.scenarios.reference FILE` fills what stands between `<!-- fields -->`
or `<!-- workloads -->` and the next `<!-- end -->`.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from shunter_api.crd_schema import field_docs
from shunter_api.durations import DURATION, duration_text
from shunter_api.modelpool import ModelPoolSpec
from shunter_api.routingpolicy import RoutingPolicySpec
from shunter_simulator.scenarios.scenario import Scenario
from shunter_simulator.workloads.spec import WorkloadSpec

_BLOCK = re.compile(r"(<!-- (fields|workloads) -->\n).*?(<!-- end -->)", re.DOTALL)
# Described with the resources: docs/resources.md.
_ELSEWHERE = (ModelPoolSpec, RoutingPolicySpec)
_KEYS = {"instances": ("POOL", "PROFILE"), "engines": ("POOL", "PROFILE")}

Schema = dict[str, Any]


def filled(text: str) -> str:
    """The page with its tables as the models have them now."""
    tables = {"fields": _fields_table, "workloads": _workloads_table}
    return _BLOCK.sub(lambda match: f"{match[1]}{tables[match[2]]()}{match[3]}", text)


def main() -> None:
    """Fills the page that the command line names."""
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text()))


def _fields_table() -> str:
    lines = ["| field | type | default | what it is |", "|---|---|---|---|"]
    for path, node, said, required in _rows(Scenario, ""):
        shown = "required" if required else _default(node)
        cell = said.replace("|", "\\|")
        lines.append(f"| `{path}` | {_type(node)} | {shown} | {cell} |")
    return "\n".join(lines) + "\n"


def _workloads_table() -> str:
    lines = ["| kind | fields | what it is |", "|---|---|---|"]
    for model in get_args(get_args(WorkloadSpec)[0]):
        properties = model.model_json_schema(by_alias=True)["properties"]
        required = set(model.model_json_schema(by_alias=True).get("required", ()))
        shown = [
            f"`{name}`" if name in required else f"`{name}: {_plain(node.get('default'))}`"
            for name, node in properties.items()
            if name != "kind"
        ]
        kind = properties["kind"]["const"]
        said = " ".join((model.__doc__ or "").split())
        lines.append(f"| `{kind}` | {', '.join(shown)} | {said} |")
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], at: str) -> Iterator[tuple[str, Schema, str, bool]]:
    """Path, schema, text and whether it must be given, of every field."""
    schema, docs = model.model_json_schema(by_alias=True), field_docs(model)
    for name, field in model.model_fields.items():
        key = field.alias or name
        path = f"{at}{key}"
        yield path, schema["properties"][key], docs[key], field.is_required()
        inner = _inner(field.annotation)
        if inner is not None and not issubclass(inner, _ELSEWHERE) and key != "workload":
            keys = "".join(f".{one}" for one in _KEYS.get(key, ()))
            items = "[]" if schema["properties"][key].get("type") == "array" else ""
            yield from _rows(inner, f"{path}{items}{keys}.")


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_inner(inner) for inner in get_args(annotation))
    return next((model for model in found if model), None)


def _type(node: Schema) -> str:
    options = [one for one in node.get("anyOf", (node,)) if one.get("type") != "null"]
    node = {**node, **options[0]}
    pattern = node.get("pattern", "")
    if "enum" in node:
        return ", ".join(f"`{choice}`" for choice in node["enum"])
    if DURATION in pattern:
        return "duration" if pattern == DURATION else "duration, or `step`"
    match node.get("type"):
        case "array":
            return "list"
        case "object":
            return "map"
        case None:
            return "object"
        case kind:
            return str(kind)


def _default(node: Schema) -> str:
    default = node.get("default")
    if default in (None, [], "") or isinstance(default, dict):
        return ""
    if DURATION in node.get("pattern", "") and isinstance(default, float):
        return f"`{duration_text(default)}`"
    return f"`{_plain(default)}`"


def _plain(default: object) -> str:
    return default if isinstance(default, str) else json.dumps(default)


if __name__ == "__main__":
    main()
