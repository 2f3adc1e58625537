"""The generated definitions: fresh, structural, whole, and of one mind with the models."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from resource_samples import BY_RULE, BY_SCHEMA, POLICY, POOL, Bad
from shunter_api.cel import VALIDATIONS
from shunter_api.crd import files, without_cel
from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool, ModelPoolSpec
from shunter_api.problems import ConfigurationError
from shunter_api.routingpolicy import RoutingPolicySpec
from structural import Schema, violations, walk

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = {
    definition["spec"]["names"]["kind"]: definition
    for definition in map(yaml.safe_load, files().values())
}


def schema_of(kind: str) -> Schema:
    (version,) = DEFINITIONS[kind]["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


NODES = [
    pytest.param(node, id=f"{kind}.{at}")
    for kind in DEFINITIONS
    for at, node in walk(schema_of(kind))
]
FIELDS = [
    pytest.param(node, id=f"{kind}.{at}.{name}")
    for kind in DEFINITIONS
    for at, owner in walk(schema_of(kind))
    for name, node in owner.get("properties", {}).items()
    if name != "metadata" or at  # of which a definition may say nothing
]


@pytest.mark.parametrize("name", files())
def test_the_charts_files_are_fresh(name: str) -> None:
    there = (ROOT / "charts/shunter/crds" / name).read_text()
    assert there == files()[name], "run `make crds`"


def test_there_is_no_file_beside_them() -> None:
    assert {path.name for path in (ROOT / "charts/shunter/crds").iterdir()} == set(files())


@pytest.mark.parametrize("node", NODES)
def test_every_schema_is_structural_and_bounded(node: Schema) -> None:
    assert not {"$ref", "anyOf", "allOf", "oneOf", "not", "title"} & set(node)
    assert not {"properties", "additionalProperties"} <= set(node)
    match node.get("type"):
        case "string":
            kept_by_server = node.get("description", "").startswith(("shunter.dev/", *DEFINITIONS))
            assert {"maxLength", "enum", "format"} & set(node) or kept_by_server
        case "array":
            assert "maxItems" in node
        case "integer":
            assert "minimum" in node
        case "object" if "additionalProperties" in node:
            assert "maxProperties" in node
        case None:
            assert node["x-kubernetes-int-or-string"]
            assert "maxLength" in node


@pytest.mark.parametrize("node", FIELDS)
def test_every_field_is_described(node: Schema) -> None:
    assert len(node["description"]) > 8 or node["description"] == "ModelPool."
    assert node["description"].endswith(".")


def test_only_the_pods_spec_is_free() -> None:
    free = [at for k in DEFINITIONS for at, node in walk(schema_of(k))
            if "x-kubernetes-preserve-unknown-fields" in node]  # fmt: skip
    assert free == ["spec.podTemplate.spec"]


def test_without_cel_leaves_only_the_rules_out() -> None:
    assert VALIDATIONS not in str(without_cel(DEFINITIONS))
    stripped = [node for kind in DEFINITIONS for _, node in walk(schema_of(kind))]
    for node in stripped:
        node_alone = {k: v for k, v in node.items() if k != VALIDATIONS}
        assert without_cel(node_alone).keys() == node_alone.keys()


def test_columns_and_scale_lead_to_fields() -> None:
    for kind, definition in DEFINITIONS.items():
        (version,) = definition["spec"]["versions"]
        known = {at for at, _ in walk(schema_of(kind))}
        paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
        paths += version["subresources"].get("scale", {}).values()
        for path in paths:
            plain = path.removeprefix(".").replace('[?(@.type=="Ready")]', "[]")
            assert plain in known | {"metadata.creationTimestamp"}, path


@pytest.mark.parametrize(("base", "kind"), [(POOL, "ModelPool"), (POLICY, "RoutingPolicy")])
def test_the_good_samples_are_good(base: dict[str, Any], kind: str) -> None:
    assert violations(base, schema_of(kind)) == []
    assert parse_object(base).kind == kind


@pytest.mark.parametrize("bad", (*BY_SCHEMA, *BY_RULE), ids=lambda bad: bad.name)
def test_code_refuses_what_schema_and_rules_refuse(bad: Bad) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_object(bad.object, strict=True)
    (problem,) = error.value.problems
    assert problem.field.startswith(bad.field)
    assert bad.code_says in problem.message


@pytest.mark.parametrize("bad", BY_SCHEMA, ids=lambda bad: bad.name)
def test_the_schema_names_the_field(bad: Bad) -> None:
    assert violations(bad.object, schema_of(bad.base["kind"])) == [f".{bad.field}"]


@pytest.mark.parametrize("bad", BY_RULE, ids=lambda bad: bad.name)
def test_a_rule_is_there_only_where_the_schema_has_no_say(bad: Bad) -> None:
    assert violations(bad.object, schema_of(bad.base["kind"])) == []


def test_every_rule_has_a_sample_that_breaks_it() -> None:
    told = {rule["message"] for kind in DEFINITIONS for _, node in walk(schema_of(kind))
            for rule in node.get(VALIDATIONS, ())}  # fmt: skip
    assert told == {bad.rule for bad in BY_RULE}


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").rglob("*.yaml")), ids=lambda p: p.name)
def test_the_sample_manifests_meet_the_schemas(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if document and document.get("kind") in DEFINITIONS:
            assert violations(document, schema_of(document["kind"])) == []


def test_defaults_are_those_of_the_models() -> None:
    schema = schema_of("ModelPool")["properties"]["spec"]
    required = {"model": {"source": "sim://llama-3.1-8b"}, "engine": {"type": "simulated"},
                "profiles": [{"name": "a", "accelerator": "l4"}]}  # fmt: skip
    filled = _with_defaults(required, schema)
    assert ModelPoolSpec.model_validate(filled) == ModelPoolSpec.model_validate(required)
    assert filled["scaling"]["spillAfter"] == "1m"
    assert filled["profiles"] == required["profiles"]  # see structural_schema
    tensor_parallel = schema["properties"]["profiles"]["items"]["properties"]["tensorParallel"]
    assert tensor_parallel["description"].endswith("Default: 1.")


def _with_defaults(value: Any, schema: Schema) -> Any:
    if isinstance(value, list):
        return [_with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    defaults = {key: node["default"] for key, node in properties.items() if "default" in node}
    return {
        key: _with_defaults(inner, properties.get(key, {}))
        for key, inner in {**defaults, **value}.items()
    }


def values_of(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that a structural schema accepts."""
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(0, 1000) | _matching(schema["pattern"]).filter(
            lambda text: len(text) <= schema["maxLength"]
        )
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "string":
            return _texts(schema)
        case "array":
            least = schema.get("minItems", 0)
            return st.lists(values_of(schema["items"]), min_size=least, max_size=least + 1)
    if "additionalProperties" in schema:
        keys = st.sampled_from(["cpu", "x-tier"])
        return st.dictionaries(keys, values_of(schema["additionalProperties"]), max_size=2)
    inner = {name: values_of(node) for name, node in schema.get("properties", {}).items()}
    required = {name: inner.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=inner)


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    pattern, most = schema.get("pattern"), schema["maxLength"]
    if pattern is None:
        return st.text("ab -", min_size=schema.get("minLength", 0), max_size=min(most, 8))
    return _matching(pattern).filter(lambda text: len(text) <= most)


@cache
def _matching(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))


# What code finds where the schema found nothing: each has its CEL rule. A list whose items are all
# refused is too short as well.
RULES_OF_CODE = {"value_error", "less_than", "less_than_equal", "greater_than", "too_short"}


def _taken(model: type[BaseModel], spec: Any, schema: Schema) -> None:
    assert violations(spec, schema) == []
    try:
        model.model_validate(spec)
    except ValidationError as error:
        assert {detail["type"] for detail in error.errors()} <= RULES_OF_CODE


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(values_of(schema_of("ModelPool")["properties"]["spec"]))
def test_pools_take_what_the_schema_takes(spec: Any) -> None:
    """But for what the rules refuse."""
    _taken(ModelPoolSpec, spec, schema_of("ModelPool")["properties"]["spec"])


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(values_of(schema_of("RoutingPolicy")["properties"]["spec"]))
def test_policies_take_what_the_schema_takes(spec: Any) -> None:
    _taken(RoutingPolicySpec, spec, schema_of("RoutingPolicy")["properties"]["spec"])


# No null: the server drops it, and the models read it as absent where a field may be absent.
ODD: list[Any] = [True, -1, 0, 3, 1.5, "", "x", "A b", "1", "0s", "9" * 40, "z" * 70_000]
ODD += [[], ["x"], {}]


@pytest.mark.parametrize("base", [POOL, POLICY], ids=lambda base: base["kind"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_schema_takes_what_the_models_take(base: dict[str, Any], data: st.DataObject) -> None:
    """One value of a good resource is replaced by another, of any type."""
    schema = schema_of(base["kind"])
    path = data.draw(st.sampled_from(_places(base["spec"], ("spec",))))
    odd = data.draw(st.sampled_from(ODD))
    changed = Bad("", base, path, odd, "", "").object
    refused = violations(changed, schema)
    try:
        parse_object(changed, strict=True)
    except ConfigurationError:
        return
    assert refused == []


def _places(value: Any, at: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
    if at == ("spec", "podTemplate", "spec"):
        return [at]
    items = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list) else ()
    )  # fmt: skip
    return [at, *(place for key, inner in items for place in _places(inner, (*at, key)))]


def test_an_object_of_the_api_server_is_read() -> None:
    """With what only the server writes, and with status."""
    server = {"uid": "1", "generation": 3, "managedFields": [{}], "namespace": "a",
              "creationTimestamp": "2026-01-01T00:00:00Z"}  # fmt: skip
    given_back = {**POOL, "metadata": {"name": "chat", **server}, "status": {"replicas": 1}}
    pool = parse_object(given_back)
    assert isinstance(pool, ModelPool)
    assert pool.metadata.key == "a/chat"
    assert pool.metadata.creation_timestamp is not None


def test_fields_of_a_newer_definition_are_left_out() -> None:
    """An upgrade applies the definitions first, and their defaults come to older processes."""
    profiles = [{**profile, "newer": 1} for profile in POOL["spec"]["profiles"]]
    newer = {**POOL["spec"], "profiles": profiles, "scaling": {"newer": {"deep": [1]}}}
    assert parse_object({**POOL, "spec": newer}) == parse_object(
        {**POOL, "spec": {**newer, "profiles": POOL["spec"]["profiles"], "scaling": {}}}
    )
