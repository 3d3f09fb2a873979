"""The metrics of a dashboard process, read by another process, while a page is open and after SIGKILL."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from core import Settings
from core.metrics.fleet import FleetReader
from core.metrics.writer import MetricWriter
from tests.dashboard_process import run_dashboard
from tests.end_to_end.browsing import visit
from tests.patience import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DEADLINE_SECONDS = 30.0


def test_metrics_while_a_page_is_open_and_after_sigkill(
    settings: Settings, tmp_path: Path, browser: Browser
) -> None:
    """An open page counts as a session and a render; after SIGKILL only the render counter stays."""
    reader = FleetReader(MetricWriter(), tmp_path / "metrics")

    def value(name: str, **labels: str) -> float | None:
        for family in reader.collect():
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    url = settings.database_url.get_secret_value()
    folder = str(tmp_path / "metrics")
    with run_dashboard(
        tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false", METRICS_DIR=folder
    ) as dashboard:
        assert value("echo_metrics_writers", role="dashboard") == 1
        assert value("echo_dashboard_sessions") == 0
        visit(browser.new_page(), dashboard.url)
        wait_until(lambda: value("echo_dashboard_sessions") == 1, "the session is counted", DEADLINE_SECONDS)
        renders = value("echo_dashboard_render_seconds_count", page="overview")
        assert renders
        dashboard.process.kill()
        dashboard.process.wait()
        assert value("echo_dashboard_sessions") is None
        assert value("echo_metrics_writers", role="dashboard") is None
        assert value("echo_dashboard_render_seconds_count", page="overview") == renders
