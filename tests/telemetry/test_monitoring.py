"""Metrics, alerts and the dashboard fit together: what one names the other has, and promtool finds no fault in any."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import ROOT
from tests.stand import a_stand, fetch, until

RULES = ROOT / "config/prometheus/cdn-listener.rules.yml"
PLAYED = ROOT / "tests/telemetry/alerts.yml"
DASHBOARD = ROOT / "config/grafana/cdn-listener.json"
METRIC = re.compile(r"\blistener_[a-z_]+\b")
RECORDED = re.compile(r"\blistener:[a-z0-9_:]+")
Promtool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def promtool(system_command: Callable[[str], str]) -> Promtool:
    """Run promtool."""
    path = system_command("promtool")

    def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([path, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=50)

    return run


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The metrics of a daemon that refreshed something, and probed it."""
    with a_stand(tmp_path_factory.mktemp("metrics") / "stand") as stand:
        table = stand.config.read_text()
        stand.put(f'{table}\n[verifier.edge]\nmode = "all"\nafter_seconds = 0.1\n')
        with stand.daemon():
            stand.write("hidden-name.html")
            stand.write("back\\slash.html")
            until(lambda: "listener_freshness_seconds_count{" in fetch(f"{stand.admin}/metrics")[1])
            until(lambda: re.search(r"listener_edge_probes_total\{.*\} [1-9]", fetch(f"{stand.admin}/metrics")[1]))
            yield fetch(f"{stand.admin}/metrics")[1]


def expressions() -> list[str]:
    """Return every query of the dashboard, as Prometheus gets it."""
    board = json.loads(DASHBOARD.read_text("utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    found += [one["expr"] for one in board["annotations"]["list"]]
    return [expr.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*") for expr in found]


def rules() -> list[dict[str, Any]]:
    """Return every rule."""
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def test_the_metrics_are_well_formed(metrics: str, promtool: Promtool) -> None:
    """promtool finds no fault with names, units, types and help, and nobody's key or URL is in them."""
    done = promtool("check", "metrics", stdin=metrics)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    for secret in ("hidden-name", "slash", "http", "127.0.0.1"):
        assert secret not in metrics


def test_labels_are_names_of_ours(metrics: str) -> None:
    """Names of the configuration, kinds, states and bounds: as many series as are configured, whatever changes."""
    families = text_string_to_metric_families(metrics)
    labels = [label for family in families for one in family.samples for label in one.labels.items()]
    known = {
        "source": {"www"},
        "target": {"cdn"},
        "account": {"main"},
        "kind": {"file", "directory", "prefetch", "ignore-params"},
        "state": {"pending", "deferred", "in_flight", "failed", "parked", "unconfirmed", "fresh", "stale", "unknown"},
        "edge": {"name"},
        "outcome": {"complete", "failed"},
        "waits_for": {"us", "cdn", "person"},
    }
    assert {name for name, _ in labels} <= {*known, "le", "version", "generation", "name"}
    assert [(name, value) for name, value in labels if name in known and value not in known[name]] == []


def test_every_metric_is_in_the_reference(metrics: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its labels; figures of sources are named as a whole."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = importlib.import_module("references").pages()["metrics.md"]
    rows = {row[1]: row[3] for row in (line.split("|") for line in page.splitlines()) if len(row) > 4}
    missing = []
    for family in text_string_to_metric_families(metrics):
        if not family.documentation.startswith("Reported by the source"):
            row = rows.get(f" `{family.name}{'_total' if family.type == 'counter' else ''}` ")
            labels = {label for sample in family.samples for label in sample.labels} - {"le", "generation"}
            missing += [] if row and all(f"`{label}`" in row for label in labels) else [family.name]
    assert missing == []


def test_the_figures_are_right(metrics: str) -> None:
    """One refresh, one key set aside; buckets, count and quota agree."""
    samples = {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(metrics)
        for one in family.samples
    }
    labels = (("kind", "file"), ("target", "cdn"))
    assert samples["listener_freshness_seconds_count", labels] == 1
    assert samples["listener_freshness_seconds_bucket", (labels[0], ("le", "+Inf"), labels[1])] == 1
    assert 0 < samples["listener_freshness_seconds_sum", labels] < 100
    assert samples["listener_refreshes_total", (labels[0], ("outcome", "complete"), labels[1])] == 1
    assert samples["listener_quota_spent", labels] == 1
    assert samples["listener_quota_left", labels] == samples["listener_quota_limit", labels] - 1
    assert samples["listener_quota_others", labels] == 0
    assert samples["listener_dead_letters", ()] == 1
    assert samples["listener_account_open", (("account", "main"),)] == 1
    assert samples["listener_source_watched_directories", (("source", "www"),)] >= 1
    assert samples["listener_store_size_bytes", ()] > 0
    assert samples["listener_missed_wake_ups_total", ()] == 0


def test_the_rules_have_no_fault(promtool: Promtool) -> None:
    """promtool reads them."""
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should(promtool: Promtool) -> None:
    """Played by promtool: each fires in its case, none on a good day."""
    done = promtool("test", "rules", PLAYED)
    assert done.returncode == 0, done.stdout + done.stderr
    played = yaml.safe_load(PLAYED.read_text("utf-8"))["tests"]
    fired = {case["alertname"] for one in played for case in one.get("alert_rule_test", ()) if case.get("exp_alerts")}
    silent = {
        case["alertname"] for one in played for case in one.get("alert_rule_test", ()) if "exp_alerts" not in case
    }
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts == fired == silent


def test_the_dashboard_has_no_fault(tmp_path: Path, promtool: Promtool) -> None:
    """Every query is one; panels have ids of their own and do not lie on one another."""
    recorded = [{"record": f"one:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


def test_rules_and_dashboard_name_what_there_is(metrics: str) -> None:
    """Each metric that they name is in the real answer, each recording in the rules."""
    there = {one.name for family in text_string_to_metric_families(metrics) for one in family.samples}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for expr in (*expressions(), *(rule["expr"] for rule in rules())):
        wanted = set(METRIC.findall(re.sub(r'"[^"]*"', "", expr)))
        assert wanted <= there, (expr, wanted - there)
        assert set(RECORDED.findall(expr)) <= recorded, expr
