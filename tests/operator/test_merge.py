"""Merging and comparing as Kubernetes does."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_operator.merge import differs, sealed, strategic_merge


def manifest(**spec: Any) -> dict[str, Any]:
    return sealed({"kind": "Deployment", "metadata": {"name": "a"}, "spec": spec})


def test_lists_with_names_merge_by_name_and_null_removes() -> None:
    base = {"containers": [{"name": "a", "image": "1", "args": ["x"]}], "nodeSelector": {"k": "v"}}
    patch = {"containers": [{"name": "b"}, {"name": "a", "args": ["y"]}], "nodeSelector": None}
    assert strategic_merge(base, patch) == {
        "containers": [{"name": "a", "image": "1", "args": ["y"]}, {"name": "b"}]
    }


VALUES = st.recursive(
    st.text(max_size=3) | st.integers(),
    lambda inner: st.dictionaries(st.text(max_size=3), inner) | st.lists(inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=3), VALUES), st.dictionaries(st.text(max_size=3), VALUES))
def test_merging_changes_no_argument_and_twice_is_once(
    base: dict[str, Any], patch: dict[str, Any]
) -> None:
    before = deepcopy((base, patch))
    once = strategic_merge(base, patch)
    assert (base, patch) == before
    assert strategic_merge(once, patch) == once


def test_defaults_of_the_server_are_no_difference() -> None:
    wanted = manifest(replicas=2, containers=[{"name": "a", "ports": [{"containerPort": 1}]}])
    live = deepcopy(wanted)
    live["spec"]["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    live["spec"]["containers"].append({"name": "injected"})
    live["metadata"]["uid"] = "u"
    assert not differs(wanted, live)


@pytest.mark.parametrize(("asked", "shown"), [("1000m", "1"), ("1024Mi", "1Gi"), ("0.5", "500m")])
def test_a_quantity_is_the_same_in_another_unit(asked: str, shown: str) -> None:
    wanted = manifest(limits={"cpu": asked})
    live = deepcopy(wanted)
    live["spec"]["limits"]["cpu"] = shown
    assert not differs(wanted, live)
    live["spec"]["limits"]["cpu"] = "7"
    assert differs(wanted, live)


def test_what_is_asked_for_no_more_is_a_difference() -> None:
    assert differs(manifest(replicas=1), manifest(replicas=1, paused=True))
    assert differs(manifest(replicas=1), None)


def test_an_empty_value_that_the_server_drops_is_no_difference() -> None:
    wanted = manifest(replicas=1, emptyDir={}, args=[], note="")
    live = deepcopy(wanted)
    for name in ("emptyDir", "args", "note"):
        del live["spec"][name]
    assert not differs(wanted, live)
