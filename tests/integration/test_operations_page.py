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
from core.stack.ports import LOOPBACK, find_free_port
from dashboard import runtime
from dashboard.navigation import SCRIPTS
from dashboard.pages.operations.alerts import SECTIONS
from dashboard.pages.operations.prometheus import Prometheus
from dashboard.pages.operations.queries import HIT_RATIO, LATENCY, POOL_USED
from dashboard.pages.operations.telemetry import Telemetry, get_telemetry, set_telemetry
from exporter.exposition import Exposition
from exporter.server import build_app
from tests.serving import served
from tests.web import serving

SCRIPT = Path(__file__).parents[2] / "dashboard" / "app.py"
PAGE = SCRIPTS["operations"]
TIMEOUT_SECONDS = 30


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Take service and telemetry out of the pages' reach after each test."""
    yield
    runtime.set_service(None)
    set_telemetry(None)


def closed_url(scheme: str = "http") -> str:
    """Return an address that nobody listens on."""
    return f"{scheme}://{LOOPBACK}:{find_free_port()}"


def watch(
    service: EnhancedDatabaseService, exporter_url: str, prometheus_url: str | None = None
) -> Telemetry:
    """Give the pages this service, and telemetry that reads anew at each look."""
    telemetry = Telemetry(
        exporter_url=exporter_url,
        prometheus=Prometheus(prometheus_url) if prometheus_url else None,
        refresh_seconds=0,
    )
    runtime.set_service(service)
    set_telemetry(telemetry)
    return telemetry


@contextmanager
def exporting(service: EnhancedDatabaseService) -> Iterator[str]:
    """Serve the metrics of a service; yields the exporter's URL."""
    with served(build_app(service)) as port:
        yield f"http://127.0.0.1:{port}"


def test_another_stacks_exporter_is_not_shown(service: EnhancedDatabaseService) -> None:
    """Its figures are another game's; the page says whose they are."""
    own, other = (build_identity(name, "postgresql://db.example/echo") for name in ("main", "other"))
    with served(build_app(service), headers=[(HEADER, str(other))]) as port:
        url = f"http://{LOOPBACK}:{port}"
        refused = Telemetry(exporter_url=url, prometheus=None, stack=own).read(0)
        shown = Telemetry(exporter_url=url, prometheus=None, stack=other).read(0)
    assert (refused.source, refused.scrape) == ("none", None)
    assert refused.warnings == (f"The exporter belongs to another stack: {other}, and not {own}.",)
    assert shown.source == "exporter"


def open_page() -> AppTest:
    """Open the page and run it."""
    test = AppTest.from_file(str(SCRIPT), default_timeout=TIMEOUT_SECONDS)
    test.run()
    test.switch_page(PAGE)
    return test.run()


def read_text(test: AppTest) -> str:
    """Return all text of a page."""
    parts = [*test.title, *test.header, *test.subheader, *test.markdown, *test.caption, *test.warning]
    return "\n".join(str(part.value) for part in parts)


def count_charts(test: AppTest) -> int:
    """Return how many charts are drawn."""
    return len(test.get("vega_lite_chart")) + len(test.get("arrow_vega_lite_chart"))


def answer_prometheus(path: str) -> tuple[int, bytes]:
    """Answer like a Prometheus with one role, one alert that fires and one that is pending."""
    parts = urlsplit(path)
    query = parse_qs(parts.query).get("query", [""])[0]
    now = datetime.now(UTC).timestamp()
    if parts.path.endswith("/alerts"):
        annotations = {
            "summary": "Checkouts are given up.",
            "runbook_url": "docs/troubleshooting.md#echopooltimeouts",
        }
        firing = {"labels": {"alertname": "PoolTimeouts", "severity": "critical"}, "state": "firing"}
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
    """Return a successful answer of Prometheus's API."""
    return 200, json.dumps({"status": "success", "data": data}).encode()


def test_a_first_look_shows_the_present(service: EnhancedDatabaseService) -> None:
    """Healthy, from the exporter; gauges have a point, rates say what they need."""
    with exporting(service) as url:
        watch(service, url)
        page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "from the exporter · refreshes every 5 s" in text
    assert "Healthy" in text
    assert "Collecting: first values in about 10 s" in text
    assert "within their limits" in text


def test_a_second_look_has_rates(service: EnhancedDatabaseService) -> None:
    """Operations, latency and hit ratio of what happened in between; every panel has advice."""
    with exporting(service) as url:
        watch(service, url)
        page = open_page()
        charts = count_charts(page)
        user = service.create_user(username="alice")
        service.get_user_by_id(user.id)
        page.run()
    assert not page.exception
    assert count_charts(page) > charts
    operations = next(
        table.value for table in page.dataframe if "calls" in table.value and "p95" in table.value
    )
    assert "create_user" in list(operations["operation"])
    text = read_text(page)
    for section in set(SECTIONS.values()) - {SECTIONS["health"], SECTIONS["migrations"]}:
        assert f"(troubleshooting#{section})" in text


def test_the_database_s_own_statistics_are_shown(service: EnhancedDatabaseService) -> None:
    """Sizes of every table, and indexes that nobody used."""
    with exporting(service) as url:
        watch(service, url)
        page = open_page()
    tables = next(table.value for table in page.dataframe if "indexes" in table.value)
    assert {"users", "ticks", "portfolios"} <= set(tables["table"])
    assert any("index" in table.value for table in page.dataframe)


def test_without_an_exporter_the_page_checks_itself(service: EnhancedDatabaseService) -> None:
    """A designed state with a command, the own check above it and the database below."""
    watch(service, closed_url())
    page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "No metrics" in text
    assert "own check of this dashboard" in text
    assert "Healthy" in text
    assert "Table and index sizes" in text
    assert [block.value for block in page.code] == ["make status"]


def test_charts_go_on_when_the_exporter_is_back(service: EnhancedDatabaseService) -> None:
    """What was seen before is still there: the history is the process's, not the page's."""
    up = [True]

    def respond(_: str) -> tuple[int, bytes]:
        return (200, Exposition(service).build()) if up[0] else (503, b"")

    with serving(respond) as url:
        watch(service, url)
        page = open_page()
        up[0] = False
        page.run()
        assert "HTTP 503" in read_text(page)
        up[0] = True
        page.run()
        snapshot = get_telemetry().read(0)
    assert not page.warning
    [line] = snapshot.series[POOL_USED]
    assert line.labels == ("job",)
    assert len(line.points) >= 2


def test_redis_down_is_degraded_with_its_way_out(settings: Settings) -> None:
    """Badge, condition and link; the page itself goes on."""
    gone = settings.model_copy(update={"redis_url": SecretStr(f"{closed_url('redis')}/0")})
    with open_service(gone) as service, exporting(service) as url:
        watch(service, url)
        page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "Degraded" in text
    assert "Redis cannot be used\\: Connection refused" in text, "escaped for Markdown"
    assert "[What helps](troubleshooting#echoredisdown)" in text


def test_a_database_down_leaves_the_fleet_s_figures(settings: Settings) -> None:
    """Metrics and alerts go on; sizes and statements say what they wait for."""
    url = SecretStr(f"postgresql://nobody:s3cr3t@{LOOPBACK}:{find_free_port()}/nothing")
    gone = settings.model_copy(update={"database_url": url, "database_connect_timeout": 1_000})
    with open_service(gone) as service, exporting(service) as exporter_url:
        watch(service, exporter_url)
        page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "Unhealthy" in text
    assert "The database does not answer" in text
    assert "The database does not answer, so sizes" in text
    assert "s3cr3t" not in text


def test_prometheus_gives_a_longer_past_and_its_alerts(service: EnhancedDatabaseService) -> None:
    """A span to choose, charts at once, alerts with severity, age and section."""
    with serving(answer_prometheus) as url:
        telemetry = watch(service, closed_url(), url)
        page = open_page()
        snapshot = telemetry.read(900)
    text = read_text(page)
    assert not page.exception
    assert "from Prometheus" in text
    assert page.segmented_control(key="span").value == "1 h"
    assert count_charts(page) == 4
    assert text.index("PoolTimeouts") < text.index("Late")
    assert "since 21:00:00 UTC" in text
    assert "[What helps](troubleshooting#echopooltimeouts)" in text
    assert [len(line.points) for line in snapshot.series[HIT_RATIO]] == [1]


@pytest.mark.parametrize(
    "respond",
    [
        lambda _: (500, b""),
        lambda _: (200, b"<html>"),
        lambda _: ok({"result": [{"value": 1}], "alerts": [1]}),
    ],
)
def test_a_prometheus_that_fails_gives_way_to_the_exporter(
    service: EnhancedDatabaseService, respond: Callable[[str], tuple[int, bytes]]
) -> None:
    """The page says so, and shows what the exporter has."""
    with serving(respond) as prometheus_url, exporting(service) as url:
        watch(service, url, prometheus_url)
        page = open_page()
    text = read_text(page)
    assert not page.exception
    assert "Prometheus cannot be read" in text
    assert "from the exporter" in text
    assert "Healthy" in text


def test_nobody_answers(settings: Settings) -> None:
    """Prometheus, exporter and database gone: three designed states and no error."""
    url = SecretStr(f"postgresql://nobody@{LOOPBACK}:{find_free_port()}/nothing")
    gone = settings.model_copy(update={"database_url": url, "enable_redis_cache": False})
    with open_service(gone) as service:
        watch(service, closed_url(), closed_url())
        page = open_page()
    text = read_text(page)
    assert not page.exception
    assert [warning.value.split(" cannot")[0] for warning in page.warning] == ["Prometheus", "The exporter"]
    assert "The database does not answer, so sizes" in text


def test_paused_it_says_so(service: EnhancedDatabaseService) -> None:
    """The switch stops both parts; the time of the last look stays."""
    with exporting(service) as url:
        watch(service, url)
        page = open_page()
        page.toggle(key="live").set_value(False).run()
    assert "paused" in read_text(page)


def test_sessions_share_one_look(service: EnhancedDatabaseService) -> None:
    """Within the interval, nobody is asked again, whoever looks."""
    looks = []

    def respond(path: str) -> tuple[int, bytes]:
        looks.append(path)
        return 200, Exposition(service).build()

    clock = [0.0]
    with serving(respond) as url:
        telemetry = Telemetry(exporter_url=url, prometheus=None, refresh_seconds=5, clock=lambda: clock[0])
        first = telemetry.read(900)
        clock[0] = 3.0
        assert telemetry.read(3_600) is first
        clock[0] = 5.0
        assert telemetry.read(900) is not first
    assert looks == ["/metrics", "/metrics"]
    assert set(first.series) >= {POOL_USED, *LATENCY}


def test_troubleshooting_is_a_page_of_the_dashboard(service: EnhancedDatabaseService) -> None:
    """The links of the panels lead somewhere."""
    watch(service, closed_url())
    test = AppTest.from_file(str(SCRIPT), default_timeout=TIMEOUT_SECONDS).run()
    test.switch_page(SCRIPTS["troubleshooting"])
    test.run()
    assert not test.exception
    assert [title.value for title in test.title] == ["Troubleshooting"]
