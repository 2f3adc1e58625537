"""The chart's PriorityClasses, and what the operator is told of them."""

import pytest

from helm_chart import Helm, Object, named, of_kind


def told(objects: list[Object]) -> dict[str, str]:
    """LEVEL=NAME of the operator's command line."""
    operator = named(objects, "Deployment", "shunter-operator")
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    flags = [a.removeprefix("--priority-class=") for a in container["args"] if "priority-" in a]
    return dict(flag.split("=") for flag in flags)


def test_they_order_pods_and_preempt_none(helm: Helm) -> None:
    objects = helm.template(namespace="serving")
    made = {o["metadata"]["name"]: o for o in of_kind(objects, "PriorityClass")}
    assert told(objects) == {
        "low": "shunter-low-serving",
        "standard": "shunter-standard-serving",
        "high": "shunter-high-serving",
    }
    assert set(made) == set(told(objects).values())
    assert {one["preemptionPolicy"] for one in made.values()} == {"Never"}
    assert not any(one.get("globalDefault") for one in made.values())
    low, standard, high = (made[name]["value"] for name in told(objects).values())
    assert 0 <= low < standard < high


@pytest.mark.parametrize("setting", ["scope=namespace", "priorityClasses.create=false"])
def test_without_them_the_operator_names_none(helm: Helm, setting: str) -> None:
    objects = helm.template(setting)
    assert of_kind(objects, "PriorityClass") == []
    assert told(objects) == {}


@pytest.mark.parametrize("scope", ["cluster", "namespace"])
def test_classes_that_are_there_already_are_used(helm: Helm, scope: str) -> None:
    objects = helm.template(f"scope={scope}", "priorityClasses.names.high=urgent")
    assert of_kind(objects, "PriorityClass") == []
    assert told(objects) == {"high": "urgent"}
