"""From a pydantic model to the structural OpenAPI v3 schema that Kubernetes asks of a CRD.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from shunter_api.base import form_of
from shunter_api.cel import VALIDATIONS, all_keys

Schema = dict[str, Any]

# What a structural schema may say of a value, in the order in which it is written.
_KEPT = (
    "description",
    "type",
    "format",
    "default",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "properties",
    "items",
    "additionalProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    VALIDATIONS,
)
DEFAULT_IN_WORDS = " Default: "
_INT32_MAX = 2**31 - 1


def structural_schema(model: type[BaseModel], *, with_defaults: bool = True) -> Schema:
    """The schema of one model; every reference is written out.

    Items of lists have their defaults in descriptions only: kubectl and GitOps tools compare lists
    as wholes, and would find a change wherever the server had filled one in.
    """
    return _Writer(model, with_defaults).object(model)


def field_docs(model: type[BaseModel]) -> Mapping[str, str]:
    """The text under each field of a model, by the name that YAML uses."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[model.model_fields[name].alias or name] = " ".join(text.split())
    return docs


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that a type mentions, and those that these mention."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for inner in get_args(annotation):
        yield from models_in(inner)


class _Writer:
    def __init__(self, model: type[BaseModel], with_defaults: bool) -> None:
        self._with_defaults = with_defaults
        self._classes = {found.__name__: found for found in models_in(model)}

    def object(self, model: type[BaseModel], *, in_list: bool = False) -> Schema:
        source = model.model_json_schema(by_alias=True)
        docs, defaults = field_docs(model), _defaults(model)
        properties: Schema = {}
        for name, node in source["properties"].items():
            written = self._value(node, in_list)
            written["description"] = docs[name]
            if self._with_defaults and node.get("default") is not None:
                default = _default(defaults.get(name), written)
                if not in_list:
                    written["default"] = default
                elif default not in (None, {}):
                    written["description"] += f"{DEFAULT_IN_WORDS}{json.dumps(default)}."
            properties[name] = _in_order(written)
        known = {k: v for k, v in source.items() if k != "additionalProperties"}
        return _in_order({**known, "properties": properties})

    def _value(self, node: Schema, in_list: bool) -> Schema:
        node = {k: v for k, v in _not_null(node).items() if k not in ("default", "description")}
        if "$ref" in node:
            extra = {k: v for k, v in node.items() if k != "$ref"}
            model = self._classes[node["$ref"].rpartition("/")[2]]
            return {**self.object(model, in_list=in_list), **extra}
        if node.get("type") == "array":
            node["items"] = _in_order(self._value(node["items"], True))
        elif node.get("type") == "object":
            node = self._map(node)
        elif node.get("type") == "integer":
            node["format"] = "int32" if node.get("maximum", 2**63) <= _INT32_MAX else "int64"
        elif node.get("format") == "decimal":
            del node["format"]
        elif "const" in node:  # Kubernetes' schemas have no word for it
            node["enum"] = [node.pop("const")]
        return node

    def _map(self, node: Schema) -> Schema:
        """A map's keys have no place in a structural schema; a rule checks them."""
        if "patternProperties" not in node:
            return {k: v for k, v in node.items() if k != "additionalProperties"}
        ((pattern, values),) = node["patternProperties"].items()
        rule = all_keys(pattern, form_of(pattern), node["propertyNames"]["maxLength"])
        return {**node, "additionalProperties": _in_order(self._value(values, True)), **rule}


def _not_null(node: Schema) -> Schema:
    """`X | None`: a field that is null counts as absent."""
    kinds = [kind for kind in node.get("anyOf", ()) if kind.get("type") != "null"]
    if "anyOf" not in node:
        return node
    (kind,) = kinds
    return {**kind, **{k: v for k, v in node.items() if k != "anyOf"}}


def _defaults(model: type[BaseModel]) -> Schema:
    return model.model_construct().model_dump(mode="json", by_alias=True, exclude_none=True)


def _default(value: Any, written: Schema) -> Any:
    """None: no default needs to be written, since empty and absent mean the same."""
    if "properties" in written:
        inner = written["properties"].values()
        return {} if any("default" in node for node in inner) else None
    return None if value in ("", [], {}) else value


def _in_order(node: Schema) -> Schema:
    """What `_KEPT` names and says something; an empty default says something, an empty list not."""
    kept = {key: node[key] for key in _KEPT if node.get(key) not in (None, [])}
    if VALIDATIONS in kept:
        kept[VALIDATIONS] = [
            {"rule": rule["rule"], "message": rule["message"]} for rule in kept[VALIDATIONS]
        ]
    return {key: value for key, value in kept.items() if key == "default" or value != {}}
