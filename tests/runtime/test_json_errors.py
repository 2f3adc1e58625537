from typing import Any

import msgspec
import pytest

from shunter_runtime.json_errors import problem_and_field


class Part(msgspec.Struct):
    role: str


class Body(msgspec.Struct):
    count: int
    parts: list[Part] = []


@pytest.mark.parametrize(
    ("body", "problem", "field"),
    [
        ([], "Expected `object`, got `array`", None),
        ({}, "Object missing required field `count`", "count"),
        ({"count": "secret"}, "Expected `int`, got `str`", "count"),
        ({"count": 1, "parts": [{"role": 5}]}, "Expected `str`, got `int`", "parts[0].role"),
        ({"count": 1, "parts": [{}]}, "Object missing required field `role`", "parts[0].role"),
    ],
)
def test_problem_and_field(body: Any, problem: str, field: str | None) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(body), type=Body)
    assert problem_and_field(caught.value) == (problem, field)
