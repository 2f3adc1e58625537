"""The tables of docs/resources.md, from the definitions.

`python -m shunter_api.crd_page FILE` fills what stands between `<!-- spec KIND -->`, `<!-- status
KIND -->` or `<!-- rules KIND -->` and the next `<!-- end -->`.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from shunter_api.cel import VALIDATIONS
from shunter_api.crd import modelpools, routingpolicies
from shunter_api.crd_schema import DEFAULT_IN_WORDS, Schema
from shunter_api.durations import DURATION

_BLOCK = re.compile(r"(<!-- (spec|status|rules) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MANY_CHOICES = 8  # from here on they are not all shown


def filled(text: str) -> str:
    """The page with its tables as the models have them now."""
    schemas = {
        d["spec"]["names"]["kind"]: d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for d in (modelpools(), routingpolicies())
    }

    def block(match: re.Match[str]) -> str:
        begin, table, kind, end = match.groups()
        return f"{begin}{_TABLES[table](schemas[kind])}{end}"

    return _BLOCK.sub(block, text)


def fields(schema: Schema, at: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """Path, schema and whether it must be given, of every field inside a schema."""
    for name, node in schema.get("properties", {}).items():
        path = f"{at}.{name}".removeprefix(".")
        yield path, node, name in schema.get("required", ())
        yield from fields(node, path)
        yield from fields(node.get("items", {}), f"{path}[]")


def main() -> None:
    """Fills the page that the command line names."""
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text()))


def _spec(schema: Schema) -> str:
    lines = ["| field | type | default | what it is |", "|---|---|---|---|"]
    for path, node, required in fields(schema["properties"]["spec"]):
        said, _, in_words = node["description"].partition(DEFAULT_IN_WORDS)
        default = in_words.removesuffix(".") or _json(node.get("default"))
        shown = "required" if required else default and f"`{default}`"
        lines.append(f"| `{path}` | {_type(node)} | {shown} | {_cell(said)} |")
    return "\n".join(lines) + "\n"


def _status(schema: Schema) -> str:
    lines = ["| field | type | what it is |", "|---|---|---|"]
    for path, node, _ in fields(schema["properties"].get("status", {})):
        lines.append(f"| `{path}` | {_type(node)} | {_cell(node['description'])} |")
    return "\n".join(lines) + "\n"


def _rules(schema: Schema) -> str:
    lines = ["| where | what the refusal says |", "|---|---|"]
    own = [("", schema), *((path, node) for path, node, _ in fields(schema))]
    for path, node in own:
        inside = [(path, node), (f"{path}[]", node.get("items", {}))]
        for place, part in inside:
            if part.get("pattern") == DURATION:
                continue  # said once, in words
            lines += [
                f"| `{place or 'metadata.name'}` | {_cell(rule['message'])} |"
                for rule in part.get(VALIDATIONS, ())
            ]
    return "\n".join(lines) + "\n"


_TABLES: Mapping[str, Callable[[Schema], str]] = MappingProxyType(
    {"spec": _spec, "status": _status, "rules": _rules}
)


def _type(node: Schema) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if node.get("pattern") == DURATION:
        return "duration"
    if "enum" in node:
        shown = [f"`{choice}`" for choice in node["enum"][:_MANY_CHOICES]]
        return ", ".join(shown) + (", ..." if len(node["enum"]) > _MANY_CHOICES else "")
    match node["type"]:
        case "integer" if "maximum" in node:
            return f"{node['minimum']} to {node['maximum']}"
        case "integer":
            return f"{node['minimum']} or more"
        case "array":
            return f"list of {_type(node['items'])}, at most {node['maxItems']}"
        case "object" if "additionalProperties" in node:
            values = _type(node["additionalProperties"])
            return f"map to {values}, at most {node['maxProperties']}"
    return str(node["type"])


def _json(default: object) -> str:
    return "" if default in (None, {}) else json.dumps(default)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
