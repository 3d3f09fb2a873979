"""The Prometheus rules and alerts, checked with promtool and against a real exporter."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from core import EnhancedDatabaseService, Settings
from core.cache.kinds import KINDS
from core.metrics import Metrics
from exporter.server import build_app, open_runners
from tests.exporter_server import LOCAL_URL

FOLDER = Path(__file__).parents[2] / "exporter" / "prometheus"
DOCS = Path(__file__).parents[2] / "docs"
RULE_FILES = ("recording_rules.yml", "alerts.yml")
TEST_FILES = ("alerts_test.yml", "budget_test.yml", "hosts_test.yml")
NAME = re.compile(r"(?<![\w:])echo_[a-z0-9_]+\b")
HISTOGRAM_SUFFIX = re.compile(r"_(bucket|sum|count)$")

REPLICA_METRICS = frozenset({"echo_pg_replication_lag_seconds"})
"""Metrics in the rules that the exporter shows only with a replica, which these tests do not have."""


def read_rules(name: str) -> str:
    """Return a rule file without its comments."""
    return re.sub(r"(?m)^\s*#.*$", "", (FOLDER / name).read_text())


def list_alerts() -> list[str]:
    """Return the names of all alerts."""
    return re.findall(r"(?m)- alert: (\w+)$", read_rules("alerts.yml"))


@pytest.fixture
def promtool() -> str:
    """Return the path of promtool, or skip the test if it is not installed."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; the Debian package prometheus has it")
    return found


@pytest.fixture
def client(service: EnhancedDatabaseService, settings: Settings) -> Iterator[TestClient]:
    """Yield a client of an exporter that exports every metric."""
    record_events(service.metrics)
    with TestClient(
        build_app(service, runners=open_runners(settings, service.metrics)), base_url=LOCAL_URL
    ) as client:
        yield client


def record_events(metrics: Metrics) -> None:
    """Record one event for each metric that is exported only after an event."""
    metrics.observe_operation("search_users", 0.01)
    metrics.count_operation_error("create_user", "23")
    for kind in KINDS:
        metrics.observe_cache_load(kind.name, 0.01)
        metrics.count_cache_bypasses(kind.name, "down", 1)
        metrics.count_stale_read_sample(kind.name, "near", is_stale=False)
    metrics.observe_render("leaderboards", 0.1)
    metrics.record_audit_verification(is_intact=True)
    with metrics.regular_task("simulator", interval_seconds=2) as count_success:
        count_success()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES),
        ("test", "rules", *TEST_FILES),
    ],
)
def test_promtool_accepts_the_configuration(promtool: str, arguments: tuple[str, ...]) -> None:
    """The configuration and the rules have no lint error, and the rule tests pass."""
    done = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_exported_metrics(promtool: str, client: TestClient) -> None:
    """The tool promtool finds no fault in names, units and help texts of the exported metrics."""
    text = client.get("/metrics").text
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_metric_in_a_rule_is_exported(client: TestClient) -> None:
    """Every metric in a rule is exported: a rule on an unknown metric would never fire."""
    exported = list_names(client.get("/metrics").text)
    for file in RULE_FILES:
        names = {HISTOGRAM_SUFFIX.sub("", name) for name in NAME.findall(read_rules(file))}
        assert names - exported - REPLICA_METRICS == set()
        assert names & exported


def test_every_recorded_series_in_an_alert_has_a_rule() -> None:
    """Every recorded series in an alert has a recording rule: without the rule it would never fire."""
    recorded = set(re.findall(r"(?m)- record: (echo:\S+)$", read_rules("recording_rules.yml")))
    used = set(re.findall(r"echo:[a-z0-9_:]+", read_rules("alerts.yml")))
    assert used
    assert used <= recorded


def list_names(text: str) -> set[str]:
    """Return the sample names of an exposition; histogram suffixes such as `_bucket` are removed."""
    return {
        HISTOGRAM_SUFFIX.sub("", sample.name) if family.type == "histogram" else sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_alert_has_a_firing_and_a_quiet_case() -> None:
    """The rule tests contain a case that fires and a case that does not fire for each alert."""
    cases = "".join(read_rules(name) for name in TEST_FILES)
    for alert in list_alerts():
        expression = (
            rf'ALERTS\{{alertname="{alert}", alertstate="firing"\}}\n\s+eval_time: \w+\n\s+exp_samples:'
        )
        assert re.search(rf"{expression} \[\]", cases), f"{alert} has no quiet case"
        assert re.search(rf"{expression}\n", cases), f"{alert} has no firing case"


def test_every_alert_has_a_runbook() -> None:
    """Each alert has a severity, a summary, a description, and a section in docs/troubleshooting.md."""
    sections = dict(
        re.findall(r"(?ms)^## (\w+)\n(.*?)(?=^## |\Z)", (DOCS / "troubleshooting.md").read_text())
    )
    for block in read_rules("alerts.yml").split("- alert: ")[1:]:
        alert = block.split("\n", 1)[0]
        assert re.search(r"severity: (critical|warning)\n", block)
        assert re.search(r"summary: \S", block)
        assert re.search(r"description: >-\n\s+\S", block)
        assert f"runbook_url: docs/troubleshooting.md#{alert.lower()}\n" in block
        for part in ("**Means.**", "**Look at**", "**Do.**"):
            assert part in sections[alert], f"the section {alert} lacks {part}"
    assert set(sections) - set(list_alerts()) == set()


def test_every_metric_is_documented(client: TestClient) -> None:
    """docs/metrics.md names every exported metric."""
    documented = set(re.findall(r"`(echo_\w+)`", (DOCS / "metrics.md").read_text()))
    assert list_names(client.get("/metrics").text) - documented == set()
