"""The Operations page in each of its states, run by Streamlit against real servers."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService, Settings, open_service
from core.settings.stack_identity import HEADER, build_identity
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from dashboard import runtime
from dashboard.monitoring.prometheus import Prometheus
from dashboard.monitoring.queries import HIT_RATIO, POOL_USED
from dashboard.monitoring.sampler import Sampler, StackSample, set_sampler
from dashboard.navigation import SCRIPTS
from dashboard.pages.operations import charts, data
from dashboard.pages.operations.advice import ADVICE
from dashboard.server import sign_in
from dashboard.server.access import Policy
from exporter.exposition import Exposition
from exporter.server import build_app
from tests.exporter_server import served
from tests.web import serving

pytestmark = pytest.mark.usefixtures("released_pages")

SCRIPT = Path(__file__).parents[2] / "dashboard" / "app.py"
PAGE = SCRIPTS["operations"]
TIMEOUT_SECONDS = 30


def closed_url(scheme: str = "http") -> str:
    """Return a URL with a local port on which no server listens."""
    return f"{scheme}://{LOOPBACK}:{find_free_port()}"


class SteppingClock:
    """A monotonic clock that advances by ten seconds with each call, so that every sample scrapes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Advance by ten seconds, and return the time in seconds."""
        self.now += 10
        return self.now


def watch(service: EnhancedDatabaseService, exporter_url: str, prometheus_url: str | None = None) -> Sampler:
    """Set the service and a sampler of the pages; return the sampler after its first sample."""
    sampler = Sampler(
        service,
        exporter_url=exporter_url,
        prometheus=Prometheus(prometheus_url) if prometheus_url else None,
        clock=SteppingClock(),
    )
    runtime.set_service(service)
    set_sampler(sampler)
    sampler.sample()
    return sampler


def read_latest(sampler: Sampler) -> StackSample:
    """Return the latest sample of the sampler."""
    assert sampler.latest is not None
    return sampler.latest


@contextmanager
def exporting(service: EnhancedDatabaseService) -> Iterator[str]:
    """Serve the exporter of a service, and yield its URL."""
    with served(build_app(service)) as port:
        yield f"http://127.0.0.1:{port}"


def test_metrics_of_another_stack_are_refused(service: EnhancedDatabaseService) -> None:
    """The sampler refuses the exporter of another stack and names both stacks."""
    own, other = (build_identity(name, "postgresql://db.example/echo") for name in ("main", "other"))
    with served(build_app(service), headers=[(HEADER, str(other))]) as port:
        url = f"http://{LOOPBACK}:{port}"
        refused, shown = (Sampler(service, exporter_url=url, stack=stack) for stack in (own, other))
        refused.sample()
        shown.sample()
    assert read_latest(refused).metrics is None
    assert read_latest(refused).error == f"The exporter belongs to another stack: {other}, and not {own}."
    assert read_latest(refused).problems == (), "no problem of this stack"
    assert read_latest(shown).metrics is not None


def open_page() -> AppTest:
    """Open the Operations page in the app, and return it after its run."""
    test = AppTest.from_file(str(SCRIPT), default_timeout=TIMEOUT_SECONDS)
    test.run()
    test.switch_page(PAGE)
    return test.run()


def read_text(test: AppTest) -> str:
    """Return the titles, headers, texts, captions and warnings of a page."""
    parts = [*test.title, *test.header, *test.subheader, *test.markdown, *test.caption, *test.warning]
    return "\n".join(str(part.value) for part in parts)


def count_charts(test: AppTest) -> int:
    """Return the number of charts on a page."""
    return len(test.get("vega_lite_chart")) + len(test.get("arrow_vega_lite_chart"))


def answer_prometheus(path: str) -> tuple[int, bytes]:
    """Return the response of a Prometheus with one process role, one firing alert and one pending alert."""
    parts = urlsplit(path)
    query = parse_qs(parts.query).get("query", [""])[0]
    now = datetime.now(UTC).timestamp()
    if parts.path.endswith("/alerts"):
        annotations = {
            "summary": "Checkouts are given up.",
            "runbook_url": "docs/troubleshooting.md#echopooltimeouts",
        }
        firing = {"labels": {"alertname": "EchoPoolTimeouts", "severity": "critical"}, "state": "firing"}
        pending = {"labels": {"alertname": "Late", "severity": "warning"}, "state": "pending"}
        since = {"activeAt": "2013-03-01T21:00:00.123456789Z", "annotations": annotations}
        return ok({"alerts": [pending, {**firing, **since}]})
    labels = {"role": "dashboard", "cache": "user", "tier": "near", "op": "get_user_by_id"}
    if parts.path.endswith("/query_range"):
        return ok({"result": [{"metric": labels, "values": [[now - 60, "0.5"], [now, "NaN"]]}]})
    if "__name__" in query:
        status = {"__name__": "echo_health_status", "status": "healthy"}
        return ok({"result": [{"metric": status, "value": [now, "1"]}]})
    return ok({"result": [{"metric": labels, "value": [now, "0.25"]}]})


def ok(data: object) -> tuple[int, bytes]:
    """Return a successful response of the Prometheus API."""
    return 200, json.dumps({"status": "success", "data": data}).encode()


def test_after_one_sample_the_page_shows_current_values(service: EnhancedDatabaseService) -> None:
    """After one sample the page shows the health, and that rates need a second sample."""
    with exporting(service) as url:
        watch(service, url)
        page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "from the exporter" in text
    assert "Healthy" in text
    assert "Collecting: first values in about 10 s" in text
    assert text.count("None") == 2, "neither incidents nor alerts"


def test_after_two_samples_the_page_shows_rates(service: EnhancedDatabaseService) -> None:
    """After two samples the page shows rates of the operations between them, and links to advice."""
    with exporting(service) as url:
        sampler = watch(service, url)
        page = open_page()
        before = count_charts(page)
        user = service.create_user(username="alice")
        service.get_user_by_id(user.id)
        sampler.sample()
        page.run()
    assert not page.exception
    assert count_charts(page) > before
    operations = next(table.value for table in page.dataframe if "Calls/s" in table.value)
    assert "create_user" in list(operations["Operation"])
    text = read_text(page)
    for topic in ("alerts", "pool", "cache", "latency", "size", "redis"):
        assert f"(troubleshooting#{ADVICE[topic].section})" in text
    assert text.count("find the slow operation under Database operations") == 1, "not below that table"
    assert "Database operations in the last" in text


def test_table_sizes_and_unused_indexes_are_shown(service: EnhancedDatabaseService) -> None:
    """The page shows table sizes and unused indexes."""
    with exporting(service) as url:
        watch(service, url)
        page = open_page()
    tables = next(table.value for table in page.dataframe if "Indexes (MiB)" in table.value)
    assert {"users", "ticks", "portfolios"} <= set(tables["Table"])
    assert any("Index" in table.value for table in page.dataframe)


def test_without_an_exporter_the_page_checks_itself(service: EnhancedDatabaseService) -> None:
    """Without an exporter the page shows its own health check, the database's tables and `make status`."""
    watch(service, closed_url())
    page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "No metrics" in text
    assert "own check of this dashboard" in text
    assert "Healthy" in text
    assert "Table and index sizes" in text
    assert [block.value for block in page.code] == ["make status"]


def test_charts_stay_while_the_exporter_is_down(service: EnhancedDatabaseService) -> None:
    """While the exporter fails, the page keeps its charts and shows the error until the exporter recovers."""
    up = [True]

    def respond(_: str) -> tuple[int, bytes]:
        return (200, Exposition(service).build()) if up[0] else (503, b"")

    with serving(respond) as url:
        sampler = watch(service, url)
        page = open_page()
        before = count_charts(page)
        up[0] = False
        sampler.sample()
        page.run()
        assert "HTTP 503" in read_text(page)
        assert "Alert since" not in "".join(item.value for item in page.header)
        assert count_charts(page) == before
        assert [problem.name for problem in read_latest(sampler).problems] == ["Exporter down"]
        up[0] = True
        sampler.sample()
        page.run()
    assert not page.warning
    assert read_latest(sampler).problems == ()
    metrics = read_latest(sampler).metrics
    assert metrics is not None
    [line] = metrics.series[POOL_USED]
    assert line.labels == ("job",)


def test_redis_down_is_shown_with_alert_and_incident(settings: Settings) -> None:
    """If Redis is down, the page shows status, alert and incident; only operators see the error message."""
    gone = settings.model_copy(update={"redis_url": SecretStr(f"{closed_url('redis')}/0")})
    with open_service(gone) as service, exporting(service) as url:
        watch(service, url)
        page = open_page()
        sign_in.set_policy(Policy(is_behind_proxy=True))
        hidden = open_page()
    text = read_text(page)
    assert not page.exception
    assert "Degraded" in text
    alerts, incidents = (
        next(table.value for table in page.dataframe if column in table.value)
        for column in ("Severity", "Lasted")
    )
    assert alerts.iloc[0]["What"] == "Redis does not answer: Connection refused"
    assert alerts.iloc[0]["State"] == "Pending"
    assert incidents.iloc[0]["What"] == "Redis down"
    assert incidents.iloc[0]["Lasted"] == "not over"
    assert incidents.iloc[0]["Reason"] == "Connection refused"
    assert "[What helps](troubleshooting#echoredisdown)" in text
    everything = read_text(hidden) + "".join(table.value.to_string() for table in hidden.dataframe)
    assert "Redis does not answer" in everything
    assert "refused" not in everything


def test_the_page_opens_while_the_database_is_down(settings: Settings) -> None:
    """If the database is down, the page shows "Unhealthy" and the reason without the password."""
    url = SecretStr(f"postgresql://nobody:s3cr3t@{LOOPBACK}:{find_free_port()}/nothing")
    gone = settings.model_copy(update={"database_url": url, "database_connect_timeout": 1_000})
    with open_service(gone) as service, exporting(service) as exporter_url:
        watch(service, exporter_url)
        page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "Unhealthy" in text
    assert "The database cannot be reached" in text
    assert "s3cr3t" not in text


def test_the_page_shows_history_and_alerts_of_prometheus(service: EnhancedDatabaseService) -> None:
    """With Prometheus the page offers a time span, shows every chart at once, and lists alerts."""
    with serving(answer_prometheus) as url:
        sampler = watch(service, closed_url(), url)
        page = open_page()
        assert sampler.prometheus is not None
        metrics = data.read_prometheus(sampler.prometheus, 900)
    text = read_text(page)
    assert not page.exception
    assert "from Prometheus" in text
    assert page.segmented_control(key="span").value == "1 h"
    assert count_charts(page) == len(charts.PANELS)
    alerts = next(table.value for table in page.dataframe if "Severity" in table.value)
    assert list(alerts["Alert"]) == ["EchoPoolTimeouts", "Late"]
    assert list(alerts["State"]) == ["Firing", "Pending"]
    assert alerts["Since (UTC)"].iloc[0] == datetime(2013, 3, 1, 21, tzinfo=UTC)
    assert alerts["What helps"].iloc[0] == "troubleshooting#echopooltimeouts"
    assert [len(line.points) for line in metrics.series[HIT_RATIO]] == [1]
    assert [problem.text for problem in read_latest(sampler).problems] == ["Checkouts are given up."]


@pytest.mark.parametrize(
    "respond",
    [
        lambda _: (500, b""),
        lambda _: (200, b"<html>"),
        lambda _: ok({"result": [{"value": 1}], "alerts": [1]}),
    ],
)
def test_the_exporter_replaces_a_failing_prometheus(
    service: EnhancedDatabaseService, respond: Callable[[str], tuple[int, bytes]]
) -> None:
    """If Prometheus fails, the page says so and shows the metrics of the exporter."""
    with serving(respond) as prometheus_url, exporting(service) as url:
        watch(service, url, prometheus_url)
        page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "Prometheus cannot be read" in text
    assert "from the exporter" in text
    assert "Healthy" in text


def test_the_page_opens_without_any_server(settings: Settings) -> None:
    """Without Prometheus, exporter and database the page shows a message for each and no exception."""
    url = SecretStr(f"postgresql://nobody@{LOOPBACK}:{find_free_port()}/nothing")
    gone = settings.model_copy(update={"database_url": url, "enable_redis_cache": False})
    with open_service(gone) as service:
        watch(service, closed_url(), closed_url())
        page = open_page()
    text = read_text(page)
    assert not page.exception
    sources = [warning.value.split(" cannot")[0] for warning in page.warning]
    assert sources[:2] == ["Prometheus", "The exporter"]
    assert "The database cannot be reached" in text


def test_pausing_is_shown(service: EnhancedDatabaseService) -> None:
    """If live updates are switched off, the page shows "paused"."""
    with exporting(service) as url:
        watch(service, url)
        page = open_page()
        page.toggle(key="live").set_value(False).run()
    assert "paused" in read_text(page)


def test_reads_of_prometheus_are_cached(service: EnhancedDatabaseService) -> None:
    """A second read of the same time span within five seconds sends no request to Prometheus."""
    paths = []

    def respond(path: str) -> tuple[int, bytes]:
        paths.append(path)
        return answer_prometheus(path)

    with serving(respond) as url:
        sampler = watch(service, closed_url(), url)
        first, _ = data.find_metrics(read_latest(sampler), sampler.prometheus, 900)
        count = len(paths)
        second, _ = data.find_metrics(read_latest(sampler), sampler.prometheus, 900)
        other, _ = data.find_metrics(read_latest(sampler), sampler.prometheus, 3_600)
    assert first is second
    assert other is not first
    assert len(paths) == 2 * count - 1, "the sampler asked for the alerts once"


def test_only_the_sampler_scrapes_the_exporter(service: EnhancedDatabaseService) -> None:
    """Opening the page three times sends no request to the exporter; only the sampler does."""
    paths = []

    def respond(path: str) -> tuple[int, bytes]:
        paths.append(path)
        return 200, Exposition(service).build()

    with serving(respond) as url:
        watch(service, url)
        for _ in range(3):
            open_page()
    assert paths == ["/metrics"]


def test_missing_statement_statistics_are_mentioned_once(service: EnhancedDatabaseService) -> None:
    """Without `pg_stat_statements` one caption says so, and the section has no heading."""
    watch(service, closed_url())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(service), "list_slowest_statements", lambda *_: None)
        page = open_page()
    assert read_text(page).count("pg_stat_statements") == 1
    assert "Slowest statements since" not in read_text(page)


def test_the_troubleshooting_page_opens(service: EnhancedDatabaseService) -> None:
    """The dashboard has the page "Troubleshooting", to which the panels link."""
    watch(service, closed_url())
    test = AppTest.from_file(str(SCRIPT), default_timeout=TIMEOUT_SECONDS).run()
    test.switch_page(SCRIPTS["troubleshooting"])
    test.run()
    assert not test.exception
    assert [title.value for title in test.title] == ["Troubleshooting"]
