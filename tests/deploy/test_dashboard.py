"""The Grafana dashboard asks for metrics that there are, and shows each panel once."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

from helm_chart import CHART, Helm, named

BOARD: dict[str, Any] = json.loads((CHART / "dashboards" / "shunter.json").read_text())
DOC = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(shunter_\w+)` \| (\w+) \|([^|]*)\|")
METRIC = re.compile(r"\b(shunter_\w+)")
GROUPED = re.compile(r"\bby \(([^)]*)\)")


def documented() -> dict[str, set[str]]:
    """Names as Prometheus has them, each with its labels."""
    found = {}
    for line in DOC.read_text().splitlines():
        if (row := ROW.match(line)) is None:
            continue
        name, kind, labels = row[1], row[2], set(re.findall(r"`(\w+)`", row[3]))
        if kind == "histogram":
            name, labels = f"{name}_bucket", labels | {"le"}
        found[name] = labels
    return found


def queries() -> list[tuple[str, str, str]]:
    """Title of the panel, expression, legend."""
    return [
        (panel["title"], target["expr"], target["legendFormat"])
        for panel in BOARD["panels"]
        for target in panel.get("targets", ())
    ]


def test_every_query_is_of_metrics_and_labels_that_there_are() -> None:
    known = documented()
    assert len(queries()) > 20
    for title, expression, legend in queries():
        metrics = METRIC.findall(expression)
        assert metrics and set(metrics) <= known.keys(), title
        labels = set.intersection(*(known[metric] for metric in metrics))
        grouped = {one for part in GROUPED.findall(expression) for one in part.split(", ")}
        assert grouped <= labels, title
        assert set(re.findall(r"{{(\w+)}}", legend)) == grouped - {"le"}, title
        assert expression.count("(") == expression.count(")"), title


def test_counters_are_shown_as_rates() -> None:
    for title, expression, _ in queries():
        for metric in METRIC.findall(expression):
            if metric.endswith(("_total", "_bucket")):
                assert re.search(
                    rf"rate\({metric}({{[^}}]*}})?\[\$__rate_interval\]", expression
                ), title


def test_panels_have_names_units_and_places_of_their_own() -> None:
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    for one, other in combinations((panel["gridPos"] for panel in BOARD["panels"]), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_the_chart_hands_it_to_grafana(helm: Helm) -> None:
    label = "grafanaDashboard.labels.folder=llm"
    objects = helm.template("grafanaDashboard.enabled=true", label)
    config = named(objects, "ConfigMap", "shunter-dashboard")
    assert json.loads(config["data"]["shunter.json"]) == BOARD
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["metadata"]["labels"]["folder"] == "llm"
