"""Text of a YAML file to resources, with the place of everything that is wrong."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shunter_api.base import API_VERSION, Metadata, form_of
from shunter_api.instances import InstanceList
from shunter_api.modelpool import ModelPool
from shunter_api.positions import Path, YamlDocument, parse_yaml
from shunter_api.problems import ConfigurationError, Problem
from shunter_api.routingpolicy import RoutingPolicy

AnyResource = ModelPool | RoutingPolicy | InstanceList

KINDS: Mapping[str, type[AnyResource]] = MappingProxyType(
    {"ModelPool": ModelPool, "RoutingPolicy": RoutingPolicy, "InstanceList": InstanceList}
)

T = TypeVar("T", ModelPool, RoutingPolicy, InstanceList)


@dataclass(frozen=True, slots=True)
class Located(Generic[T]):
    """A resource and the text that it came from."""

    value: T
    document: YamlDocument

    def problem(self, path: Path, message: str) -> Problem:
        return self.document.problem(path, message)


def located(value: T, origin: str = "") -> Located[T]:
    """A resource that came from no text."""
    return Located(value, YamlDocument(origin, None))


@dataclass(frozen=True, slots=True)
class Documents:
    """What one or several files hold; `problems` lists what could not be read."""

    pools: tuple[Located[ModelPool], ...] = ()
    policies: tuple[Located[RoutingPolicy], ...] = ()
    instance_lists: tuple[Located[InstanceList], ...] = ()
    problems: tuple[Problem, ...] = ()


def load_documents(text: str, origin: str) -> Documents:
    """Reads every document of one file. Raises nothing: see `Documents.problems`."""
    parsed, problems = parse_yaml(text, origin)
    pools: list[Located[ModelPool]] = []
    policies: list[Located[RoutingPolicy]] = []
    instance_lists: list[Located[InstanceList]] = []
    for document in parsed:
        resource, found = _read(document)
        problems.extend(found)
        match resource:
            case ModelPool():
                pools.append(Located(resource, document))
            case RoutingPolicy():
                policies.append(Located(resource, document))
            case InstanceList():
                instance_lists.append(Located(resource, document))
    return Documents(tuple(pools), tuple(policies), tuple(instance_lists), tuple(problems))


def merge(parts: Iterable[Documents]) -> Documents:
    """Several files as one."""
    parts = tuple(parts)
    return Documents(
        tuple(pool for part in parts for pool in part.pools),
        tuple(policy for part in parts for policy in part.policies),
        tuple(listed for part in parts for listed in part.instance_lists),
        tuple(problem for part in parts for problem in part.problems),
    )


def parse_object(
    value: Mapping[str, object], origin: str = "object", *, strict: bool = False
) -> AnyResource:
    """A resource as the API server gives it. What only the server writes is left out, and so are
    fields that this program does not know, unless `strict`: the server has refused those that its
    schema does not have, and what is left belongs to a newer one, which an upgrade brings first.

    Raises `ConfigurationError` with every problem, its `field` set.
    """
    metadata = value.get("metadata")
    plain = {key: inner for key, inner in value.items() if key != "status"}
    if isinstance(metadata, Mapping):
        known = [field.alias or name for name, field in Metadata.model_fields.items()]
        plain["metadata"] = {key: metadata[key] for key in known if key in metadata}
    resource, problems = _read(YamlDocument(origin, plain), "forbid" if strict else "ignore")
    if resource is None or problems:
        raise ConfigurationError(tuple(problems))
    return resource


def _read(
    document: YamlDocument, unknown: Literal["forbid", "ignore"] = "forbid"
) -> tuple[AnyResource | None, list[Problem]]:
    value = document.value
    if not isinstance(value, dict):
        return None, [document.problem((), f"a resource is a mapping with {_heads()}")]
    kind = value.get("kind")
    if value.get("apiVersion") != API_VERSION:
        found = f"found {value['apiVersion']!r}" if "apiVersion" in value else "it is missing"
        return None, [document.problem(("apiVersion",), f"must be {API_VERSION}; {found}")]
    schema = KINDS.get(kind) if isinstance(kind, str) else None
    if schema is None:
        found = f"found {kind!r}" if "kind" in value else "it is missing"
        return None, [document.problem(("kind",), f"must be one of {', '.join(KINDS)}; {found}")]
    try:
        return schema.model_validate(value, extra=unknown), []
    except ValidationError as error:
        return None, problems_of(document, schema, error)


def problems_of(
    document: YamlDocument, schema: type[BaseModel], error: ValidationError
) -> list[Problem]:
    """What pydantic found wrong with a document, in our words and by field and line."""
    details = error.errors(include_url=False)
    return [_problem(document, schema, d) for d in details if not _is_echo(d, details)]


def _heads() -> str:
    return f"apiVersion: {API_VERSION} and kind: {' | '.join(KINDS)}"


def _is_echo(detail: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """A list whose items are all refused is reported as too short as well."""
    path = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(d["loc"]) > len(path) and d["loc"][: len(path)] == path for d in details
    )


def _problem(document: YamlDocument, schema: type[BaseModel], detail: ErrorDetails) -> Problem:
    # "[key]" says what is wrong there, a tag which model of a union is meant: neither is written.
    location = tuple(part for part in detail["loc"] if part != "[key]")
    path = _without_tags(document.value, location)
    message = _message(schema, location, detail)
    if detail["type"].startswith("union_tag"):
        path = (*path, "kind")
    return document.problem(path, message)


def _without_tags(value: object, location: Path) -> Path:
    path: Path = ()
    for part in location:
        if isinstance(value, dict):
            if part not in value and value.get("kind") == part:
                continue
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        path = (*path, part)
    return path


def _message(schema: type[BaseModel], path: Path, detail: ErrorDetails) -> str:
    kind, context, given = detail["type"], detail.get("ctx", {}), detail.get("input")
    match kind:
        case "extra_forbidden":
            return _unknown_field(schema, path)
        case "missing":
            return "is missing"
        case "union_tag_not_found":
            return "is missing"
        case "union_tag_invalid":
            return f"must be one of {context['expected_tags']}; found {context['tag']!r}"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            quoted = '; write "Off" in quotes, a bare Off means false' if given is False else ""
            return f"must be one of {context['expected']}; found {given!r}{quoted}"
        case "string_pattern_mismatch":
            pattern = context["pattern"]
            return f"must be {form_of(pattern)}; found {given!r}"
        case _:
            shown = f"; found {given!r}" if isinstance(given, str | int | float) else ""
            return f"{detail['msg']}{shown}"


def _unknown_field(schema: type[BaseModel], path: Path) -> str:
    known = sorted(_fields(schema, path[:-1]))
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown field; {hint}"


def _fields(schema: type[BaseModel], path: Path) -> list[str]:
    """The field names that the schema knows at a path, which may have tags of unions in it."""
    models: list[type[BaseModel]] = [schema]
    for part in path:
        if isinstance(part, int):
            continue
        fields = [f for m in models for n, f in m.model_fields.items() if (f.alias or n) == part]
        if fields:
            models = [inner for field in fields for inner in _models_in(field.annotation)]
        else:
            models = [model for model in models if _tag_of(model) == part] or models
    return sorted({f.alias or n for model in models for n, f in model.model_fields.items()})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _tag_of(model: type[BaseModel]) -> object:
    kind = model.model_fields.get("kind")
    return next(iter(get_args(kind.annotation)), None) if kind is not None else None
