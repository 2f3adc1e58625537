"""CEL rules of the schemas. Each repeats a check that the model beside it makes in code, for API
servers that refuse a resource before anyone reads it."""

from typing import NamedTuple

from pydantic.config import JsonDict

VALIDATIONS = "x-kubernetes-validations"


class Rule(NamedTuple):
    """`rule` holds of `self`, the value that carries it; `message` says what would be accepted."""

    rule: str
    message: str


def cel(*rules: Rule) -> JsonDict:
    """The schema extension that carries rules."""
    return {VALIDATIONS: [{"rule": rule.rule, "message": rule.message} for rule in rules]}


def unique_names(what: str) -> JsonDict:
    """Of a list of objects with a `name`."""
    return cel(
        Rule(
            "self.all(a, self.exists_one(b, b.name == a.name))",
            f"two {what} have the same name; give each a name of its own",
        )
    )


def all_keys(pattern: str, form: str, most: int) -> JsonDict:
    """Of a map: a structural schema says nothing of keys."""
    quoted = pattern.replace("\\", "\\\\").replace("'", "\\'")
    return cel(
        Rule(
            f"self.all(key, size(key) <= {most} && key.matches('{quoted}'))",
            f"a key must be {form}, at most {most} characters",
        )
    )
