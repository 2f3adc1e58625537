"""Every error has its file, line and field, and says what would be accepted."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.load import load_documents
from shunter_api.problems import Problem

POOL = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: chat}
spec:
  model: {source: "sim://llama-3.1-8b", aliases: [default]}
  engine: {type: simulated}
  profiles:
    - name: h100
      accelerator: h100
  migration: {mode: Auto}
"""


def problems(text: str) -> list[Problem]:
    return list(load_documents(text, "pool.yaml").problems)


def test_a_pool_with_its_defaults() -> None:
    (located,) = load_documents(POOL, "pool.yaml").pools
    pool = located.value
    assert pool.model_names == ("chat", "default")
    assert pool.profiles[0].accelerator == "h100-sxm-80gb"
    assert (pool.profiles[0].replicas.min, pool.migration.drain_timeout_s) == (1, 120.0)


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "says"),
    [
        ("name: chat", "name: Chat", 3, "metadata.name", "Kubernetes name"),
        ("name: chat", "nam: chat", 3, "metadata.nam", "did you mean name?"),
        ("name: chat", "namespace: a", 3, "metadata.name", "is missing"),
        ("sim:", "ftp:", 5, "spec.model.source", "sim://, hf://"),
        ("sim://", "hf://org/", 4, "spec", "simulated loads a model from sim://"),
        ("aliases", "alias", 5, "spec.model.alias", "did you mean aliases?"),
        ("[default]", "default", 5, "spec.model.aliases", "tuple"),
        ("type: simulated", "type: triton", 6, "spec.engine.type", "'vllm', 'sglang', 'llamacpp'"),
        ("accelerator: h100", "accelerator: h10", 9, "spec.profiles[0].accelerator", "h100"),
        ("name: h100", "nme: h100", 8, "spec.profiles[0].nme", "did you mean name?"),
        ("Auto", "Off", 10, "spec.migration.mode", 'write "Off" in quotes'),
        ("mode: Auto", "drainTimeout: 3", 10, "spec.migration.drainTimeout", "500ms, 2s"),
        ("mode: Auto", "drainTimeout: 999h", 10, "spec.migration.drainTimeout", "less than"),
        ("v1alpha1", "v1", 1, "apiVersion", "must be shunter.dev/v1alpha1"),
        ("ModelPool", "Modelpool", 2, "kind", "ModelPool, RoutingPolicy, InstanceList"),
    ],
)
def test_one_mistake(old: str, new: str, line: int, field: str, says: str) -> None:
    found = problems(POOL.replace(old, new, 1))
    (problem,) = [p for p in found if p.field == field]
    assert says in problem.message
    assert str(problem).startswith(f"pool.yaml:{line}: {field}: ")


def test_all_mistakes_come_at_once_over_documents() -> None:
    text = POOL.replace("h100", "h10") + "---\nkind: Foo\n---\n- 1\n"
    places = [(p.line, p.field) for p in problems(text)]
    assert places == [(9, "spec.profiles[0].accelerator"), (12, "apiVersion"), (14, "")]


def test_a_syntax_error_has_its_line() -> None:
    (problem,) = problems("a: 1\nb: [1\n")
    assert problem.line == 3
    assert "not valid YAML" in problem.message


def test_a_key_given_twice() -> None:
    (problem,) = problems(POOL + "  engine: {type: numpy}\n")[:1]
    assert (problem.line, problem.field) == (11, "spec.engine")
    assert "first on line 6" in problem.message


def test_numbers_where_money_is_a_text() -> None:
    (problem,) = problems(
        POOL.replace("accelerator: h100", "accelerator: h100\n      costPerHour: 2.5")
    )
    assert (problem.line, problem.field) == (10, "spec.profiles[0].costPerHour")
    assert "quotes" in problem.message


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (problem,) = problems("\n".join(lines))
    assert "holds more than" in problem.message


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 3000, "- " * 2000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize(
    "text", ["a: 2026-13-45", "? [a]\n: b", "a: !!python/object:os.x {}", "\x00"]
)
def test_odd_yaml_is_a_problem_not_a_crash(text: str) -> None:
    assert problems(text)


@given(st.text(max_size=200))
def test_any_text_is_answered(text: str) -> None:
    documents = load_documents(text, "x")
    assert not documents.pools


@given(st.data())
def test_any_small_damage_is_answered(data: st.DataObject) -> None:
    """A byte changed anywhere gives a pool or problems with lines, never an exception."""
    at = data.draw(st.integers(0, len(POOL) - 1))
    with_char = data.draw(st.sampled_from("\t \n:[]{}&*!|>'\"%@`-x0,#?"))
    documents = load_documents(POOL[:at] + with_char + POOL[at + 1 :], "x")
    assert documents.pools or documents.problems or with_char == "#"


def test_empty_documents_are_nothing() -> None:
    documents = load_documents(textwrap.dedent("---\n---\n# only a comment\n"), "x")
    assert documents.problems == ()
