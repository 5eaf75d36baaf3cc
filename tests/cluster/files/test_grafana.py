"""The dashboard by its form, and its questions by what the front and Ray really tell Prometheus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.dashboard.modules.metrics import dashboards
from starlette.applications import Starlette

from serve_app.metrics.keys_file import KeysFileStatus
from serve_app.metrics.prometheus import Metrics
from tests.cluster.files.deployment_files import FILES
from tests.serve_app.metrics.test_prometheus import RECORD, pool

DASHBOARD: dict[str, Any] = json.loads((FILES / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
ROWS = [panel for panel in PANELS if panel["type"] == "row"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
RAY_ROW = "Ray: the nodes"
MADE_BY_SUFFIX = ("_bucket", "_count", "_sum")


def expressions(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


@dataclass(frozen=True)
class Selected:
    """Series that an expression asks for: their name, and the value that it wants of each label."""

    name: str
    labels: dict[str, str]


def selectors(expression: str) -> list[Selected]:
    """What an expression selects, with a value for each of Grafana's variables.

    :raises ValueError: it is no PromQL.
    """
    found: list[Selected] = []

    def visit(part: Any) -> None:
        selector = part.vector_selector if isinstance(part, promql_parser.MatrixSelector) else part
        if isinstance(selector, promql_parser.VectorSelector):
            labels = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
            found.append(Selected(str(selector.name), labels))

    text = expression.replace("$__rate_interval", "1m").replace("$model", "m")
    promql_parser.walk(promql_parser.parse(text), pre_visit=visit)
    return found


async def told_by_the_front() -> dict[str, list[dict[str, str]]]:
    """The labels of every series that a front tells when all has happened to it that it counts."""
    metrics = Metrics("r1")
    metrics.tell_of_keys_file(lambda: KeysFileStatus(state="current", keys=1, age_s=0.5, reloads=1, failed_reloads=0))
    metrics.started("m")
    metrics.first_tokens("m", 0.3)
    metrics.later_tokens("m", 0.02, 1)
    metrics.ended(RECORD)
    app = Starlette()
    app.add_route("/metrics", metrics.endpoint(lambda: {"m": pool()}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        text = (await http.get("/metrics")).text
    series: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.labels)
    return {name: labels for name, labels in series.items() if not name.endswith("_created")}


@cache
def told_by_ray() -> str:
    """Ray's own dashboards, as Python."""
    return "".join(path.read_text() for path in Path(dashboards.__file__).parent.glob("*_dashboard_panels.py"))


def charts_of_row(title: str) -> list[dict[str, Any]]:
    place = PANELS.index(next(row for row in ROWS if row["title"] == title))
    after = [PANELS.index(row) for row in ROWS if PANELS.index(row) > place]
    return PANELS[place + 1 : min(after, default=len(PANELS))]


def test_every_panel_has_a_number_a_name_and_a_source() -> None:
    numbers = [panel["id"] for panel in PANELS]
    assert len(set(numbers)) == len(numbers)
    assert all(panel["title"] and panel["datasource"] == SOURCE for panel in CHARTS)
    assert all(target["datasource"] == SOURCE for panel in CHARTS for target in panel["targets"])
    assert all(len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) for panel in CHARTS)
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "model": "query"}
    assert DASHBOARD["uid"] == "exlpool"


def test_no_panel_lies_on_another_one() -> None:
    for panel in PANELS:
        at = panel["gridPos"]
        assert min(at["x"], at["y"]) >= 0
        assert at["x"] + at["w"] <= WIDTH
    for one, other in combinations(PANELS, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{one['title']} and {other['title']}"


async def test_what_it_asks_for_is_told() -> None:
    told = await told_by_the_front()
    for expression in expressions(CHARTS):
        for selector in selectors(expression):
            if selector.name.startswith("ray_"):
                continue
            assert selector.name in told, expression
            for label, value in selector.labels.items():
                values = {labels.get(label) for labels in told[selector.name]}
                assert None not in values, f"{expression}: there is no label {label}"
                assert label not in ("what", "kind") or value in values, expression


async def test_what_is_told_is_shown() -> None:
    shown = {selector.name for expression in expressions(CHARTS) for selector in selectors(expression)}
    told = {name for name in await told_by_the_front() if not name.endswith(MADE_BY_SUFFIX)}
    buckets = {name for name in await told_by_the_front() if name.endswith("_bucket")}
    assert told | buckets <= shown
    values = {labels["what"] for labels in (await told_by_the_front())["exlpool_pool"]}
    assert values == {value for value in values if any(f'what="{value}"' in one for one in expressions(CHARTS))}


def test_rays_own_stand_apart_and_are_rays() -> None:
    rays = expressions(charts_of_row(RAY_ROW))
    assert rays
    for expression in expressions(CHARTS):
        names = {selector.name for selector in selectors(expression)}
        assert all(name.startswith("ray_") for name in names) == (expression in rays), expression
    names = {selector.name for expression in rays for selector in selectors(expression)}
    assert {name for name in names if f"{name}{{" in told_by_ray()} == names


async def test_the_variable_asks_for_what_is_told() -> None:
    (model,) = (one for one in DASHBOARD["templating"]["list"] if one["name"] == "model")
    name = model["definition"].removeprefix("label_values(").partition(",")[0]
    assert all("model" in labels for labels in (await told_by_the_front())[name])


@pytest.mark.parametrize("expression", ["sum(rate(a[5m])", "rate(a)", "sum by model (a)", 'a{model="m}'])
def test_what_is_no_promql_is_seen(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        selectors(expression)
