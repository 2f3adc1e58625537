"""YAML to plain values, each with the line that it stands on. Hostile input is bounded."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from shunter_api.problems import Problem

Path = tuple[str | int, ...]

MAX_CHARACTERS = 4 * 1024 * 1024
# Aliases can make a short text describe a huge value; every visit counts, shared or not.
MAX_NODES = 500_000
MAX_DEPTH = 64


@dataclass(slots=True)
class YamlDocument:
    """`value` is made of dict, list and scalars; `lines` holds the line of each path in it."""

    origin: str
    value: object
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of a path, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def problem(self, path: Path, message: str) -> Problem:
        return Problem(self.origin, self.line(path), field_text(path), message)


def field_text(path: Path) -> str:
    """`("spec", "rules", 0, "name")` as `spec.rules[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def parse_yaml(text: str, origin: str) -> tuple[list[YamlDocument], list[Problem]]:
    """Every document of a text. After a syntax error the rest of the text is not read."""
    documents: list[YamlDocument] = []
    problems: list[Problem] = []
    if len(text) > MAX_CHARACTERS:
        message = f"has {len(text)} characters; at most {MAX_CHARACTERS} are read"
        return [], [Problem(origin, 0, "", message)]
    builder = _Builder(origin, problems)
    try:
        roots = (root for root in _compose(text) if root is not None and not _is_null(root))
        documents.extend(map(builder.document, roots))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(filter(None, ("not valid YAML:", error.context, error.problem)))
        problems.append(Problem(origin, mark.line + 1 if mark else 0, "", message))
    except yaml.YAMLError as error:
        problems.append(Problem(origin, 0, "", f"not valid YAML: {error}"))
    except _TooLarge as error:
        problems.append(Problem(origin, 0, "", str(error)))
    return documents, problems


class _TooLarge(Exception):
    pass


def _compose(text: str) -> Iterator[yaml.Node | None]:
    try:
        yield from yaml.compose_all(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise _TooLarge(f"is nested deeper than {MAX_DEPTH} levels") from error


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


class _Builder:
    def __init__(self, origin: str, problems: list[Problem]) -> None:
        self._origin = origin
        self._problems = problems
        self._visited = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def document(self, root: yaml.Node) -> YamlDocument:
        document = YamlDocument(self._origin, None)
        document.value = self._value(root, (), document)
        return document

    def _value(self, node: yaml.Node, path: Path, document: YamlDocument) -> object:
        self._visited += 1
        if self._visited > MAX_NODES or len(path) > MAX_DEPTH:
            raise _TooLarge(f"holds more than {MAX_NODES} values or {MAX_DEPTH} levels of them")
        document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(item, (*path, index), document) for index, item in enumerate(node.value)
            ]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, document)
        return self._scalar(node, path, document)

    def _mapping(
        self, node: yaml.MappingNode, path: Path, document: YamlDocument
    ) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
                message = "keys are plain texts; merges (<<) are not read"
                self._problems.append(Problem(self._origin, line, field_text(path), message))
                continue
            inner = (*path, key)
            if key in values:
                first = document.lines[inner]
                message = f"given twice, first on line {first}; keep one"
                self._problems.append(Problem(self._origin, line, field_text(inner), message))
            document.lines[inner] = line
            values[key] = self._value(value_node, inner, document)
        return values

    def _scalar(self, node: yaml.Node, path: Path, document: YamlDocument) -> object:
        try:
            value: object = self._scalars.construct_object(node)
        except (ValueError, yaml.YAMLError):
            message = f"cannot read {str(node.value)[:40]!r}; write it in quotes"
            self._problems.append(document.problem(path, message))
            return None
        return value
