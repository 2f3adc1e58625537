"""docs/resources.md says what the models say."""

import re
from pathlib import Path
from typing import get_args

import pytest

from shunter_api import weights
from shunter_api.crd import modelpools, routingpolicies
from shunter_api.crd_page import filled
from shunter_api.load import load_documents
from shunter_api.status import ConditionType
from structural import Schema, walk

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/resources.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"\n{title}\n")[2].partition("\n#")[0]


def test_the_tables_are_fresh() -> None:
    assert filled(PAGE) == PAGE, "run `make crds`"


@pytest.mark.parametrize("definition", [modelpools(), routingpolicies()])
def test_every_field_of_the_spec_has_a_row(definition: Schema) -> None:
    kind = definition["spec"]["names"]["kind"]
    (version,) = definition["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    named = {at for at, _ in walk(spec) if at and not at.endswith(("[]", "{}"))}
    table = PAGE.partition(f"<!-- spec {kind} -->")[2].partition("<!-- end -->")[0]
    assert set(re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)) == named


def test_the_conditions_are_those_of_the_status() -> None:
    rows = re.findall(r"^\| (\w+) \|", section("### Conditions"), re.MULTILINE)
    types = rows[rows.index("condition") + 1 : rows.index("reason")]
    assert tuple(types) == get_args(ConditionType)


def test_the_operator_gives_every_reason_of_the_page() -> None:
    rows = re.findall(r"^\| (\w+) \|", section("### Conditions"), re.MULTILINE)
    files = [*(ROOT / "operator/shunter_operator").glob("*.py"), Path(weights.__file__)]
    sources = "".join(p.read_text() for p in files)
    assert [
        reason for reason in rows[rows.index("reason") + 1 :] if f'"{reason}"' not in sources
    ] == []


def test_every_reason_of_a_fetch_is_on_the_page() -> None:
    for page in (PAGE, (ROOT / "docs/operator.md").read_text()):
        assert [reason for reason in weights.WEIGHTS_REASONS if reason not in page] == []


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_are_valid(example: str) -> None:
    documents = load_documents(example, "example")
    assert documents.problems == ()
    assert documents.pools or documents.policies
