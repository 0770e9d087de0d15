"""Rules and dashboards: expressions parse, name metrics that somebody exports, and lead to a page on what to do."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "k8s" / "components" / "monitoring" / "dashboards").glob("*.json"))
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
PREFIXES = ("ray_", "rayml_", "rayml:", "autoscaler_", "kuberay_", "up")
SYNTAX = {"by", "on", "and", "or", "unless", "le", "bool", "ignoring", "without", "group_left", "group_right"}


def rules(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        rule
        for document in documents
        if document["kind"] == "PrometheusRule"
        for group in document["spec"]["groups"]
        for rule in group["rules"]
    ]


def panels() -> list[tuple[str, str]]:
    """Where, and expression, of every query of every dashboard."""
    return [
        (f"{path.name}: {panel['title']}", target["expr"])
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def metrics(expression: str) -> set[str]:
    """Names of series: what is left without strings, selectors, label lists, durations and functions."""
    text = re.sub(r'"[^"]*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    text = re.sub(r"\b(by|on|ignoring|without)\s*\([^)]*\)", " ", text)
    names = re.findall(r"(?<![\w:.])([a-zA-Z_][\w:]*)\b(?!\s*\()", text)
    return set(names) - SYNTAX


def balanced(expression: str) -> bool:
    waiting: list[str] = []
    for sign in re.sub(r'"[^"]*"', "", expression):
        if sign in "([{":
            waiting.append({"(": ")", "[": "]", "{": "}"}[sign])
        elif sign in ")]}" and (not waiting or waiting.pop() != sign):
            return False
    return not waiting and expression.count('"') % 2 == 0


def test_the_light_check_itself():
    assert metrics('sum by (a, b) (rate(ray_x_total{c=~"up|down"}[5m])) > 1e9 and on (a) rayml:y:sum == 0') == {
        "ray_x_total",
        "rayml:y:sum",
    }
    assert balanced("a(b[5m]){c}") and not balanced("a(b[5m)]") and not balanced("a(b")


def test_expressions_are_whole_and_name_known_metrics(render):
    written = [
        (rule.get("alert") or rule["record"], rule["expr"]) for rule in rules(render("overlays/prod"))
    ] + panels()
    recorded = {rule["record"] for rule in rules(render("overlays/prod")) if "record" in rule}
    for where, expression in written:
        assert balanced(expression), where
        assert metrics(expression), f"{where} asks for nothing"
        for name in metrics(expression):
            assert name.startswith(PREFIXES), f"{where}: who exports {name}?"
            assert not name.startswith("rayml:") or name in recorded, f"{where}: nobody records {name}"
            assert not name.startswith("rayml_") or f"`{name}`" in PAGE, f"{where}: {name} is not in docs/kubernetes.md"


def test_rays_metrics_are_those_of_rays_own_dashboards(render):
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None, "Ray is a dependency"
    folder = Path(spec.origin).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    known = set(re.findall(r"\b(?:ray|autoscaler)_\w+", text))
    for expression in [rule["expr"] for rule in rules(render("overlays/prod"))] + [expr for _, expr in panels()]:
        for name in metrics(expression):
            assert not name.startswith(("ray_", "autoscaler_")) or name in known, f"Ray knows no {name}"


def promtool(*arguments: str, folder: Path) -> None:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("no promtool on PATH (Debian: prometheus): expressions got the light check only")
    done = subprocess.run([binary, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def rule_file(documents: list[dict[str, Any]]) -> str:
    groups = [
        group for document in documents if document["kind"] == "PrometheusRule" for group in document["spec"]["groups"]
    ]
    return yaml.safe_dump({"groups": groups})


def test_prometheus_parses_rules_and_dashboards(render, tmp_path):
    (tmp_path / "rules.yaml").write_text(rule_file(render("overlays/prod")))
    # `duplicate-rules` is no mistake of a dashboard's, so each query gets a name of its own.
    queries = [{"record": f"panel:{number}", "expr": expression} for number, (_, expression) in enumerate(panels())]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": queries}]}))
    promtool("check", "rules", "rules.yaml", "panels.yaml", folder=tmp_path)


def test_alerts_fire_when_they_should(render, tmp_path):
    (tmp_path / "rules.yaml").write_text(rule_file(render("overlays/prod")))
    (tmp_path / "cases.yaml").write_text((Path(__file__).parent / "alert-cases.yaml").read_text())
    promtool("test", "rules", "cases.yaml", folder=tmp_path)


def test_every_alert_has_a_case(render):
    cases = (Path(__file__).parent / "alert-cases.yaml").read_text()
    for rule in rules(render("overlays/prod")):
        assert "alert" not in rule or f'alertname="{rule["alert"]}"' in cases, rule["alert"]


def test_alerts_say_how_bad_it_is_and_where_to_read_on(render):
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).strip().lower().replace(" ", "-")
        for line in PAGE.splitlines()
        if line[:1] == "#"
    }
    alerts = [rule for rule in rules(render("overlays/prod")) if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]
        page, anchor = rule["annotations"]["runbook"].split("#")
        assert (ROOT / page).is_file()
        assert anchor in headings, f"{rule['alert']}: docs/kubernetes.md has no heading for #{anchor}"


def test_monitors_ask_at_ports_that_kuberay_and_its_chart_name(render):
    for document in render("overlays/gpu"):
        if document["kind"] == "PodMonitor":
            ports = {endpoint["port"] for endpoint in document["spec"]["podMetricsEndpoints"]}
            assert ports <= {"metrics", "http"}, document["metadata"]["name"]


def test_what_is_scraped_is_let_through(render):
    """Ports of the monitors' rewritten addresses, and the policy that opens them."""
    documents = render("overlays/gpu")
    (policy,) = (
        d["spec"] for d in documents if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "ray-metrics"
    )
    opened = {entry["port"] for rule in policy["ingress"] for entry in rule["ports"]}
    text = yaml.safe_dump([d for d in documents if d["kind"] == "PodMonitor"])
    assert {8080, *(int(port) for port in re.findall(r"\$1:(\d+)", text))} == opened


def test_dashboards_are_whole():
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 3
    for path, board in zip(DASHBOARDS, boards, strict=True):
        assert board["uid"] == f"rayml-{path.stem}"
        identities = [panel["id"] for panel in board["panels"]]
        assert len(identities) == len(set(identities))
        variables = {variable["name"] for variable in board["templating"]["list"]}
        used = set(re.findall(r"\$(\w+)", json.dumps(board)))
        assert used <= variables, f"{path.name} has no {used - variables}"
        for panel in board["panels"]:
            assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "$datasource", "a dashboard belongs to no data source of ours"


def test_dashboards_do_not_lie_on_each_other():
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken and place["x"] + place["w"] <= 24, f"{path.name}: {panel['title']}"
            taken |= cells


def test_the_config_map_holds_the_dashboards(render):
    (made,) = (document for document in render("overlays/gpu") if document["kind"] == "ConfigMap")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["data"] == {path.name: path.read_text() for path in DASHBOARDS}
    assert sum(map(len, made["data"].values())) < 256 * 1024, "the annotation of a client-side apply holds 256 KiB"
