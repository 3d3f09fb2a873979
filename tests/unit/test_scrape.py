"""Reads the exporter's metrics: sums, quantiles, and errors of the HTTP answer."""

import threading
from datetime import UTC, datetime

import pytest

from core.http_client import FetchFailed, fetch
from core.metrics.scrape import Scrape, estimate_quantile, parse_scrape, read_scrape
from core.stack.ports import find_free_port
from tests.web import serving

NOW = datetime(2013, 3, 1, 21, tzinfo=UTC)
TEXT = """\
# TYPE echo_health_status gauge
echo_health_status{status="healthy"} 0
echo_health_status{status="degraded"} 1
# TYPE echo_db_pool_connections gauge
echo_db_pool_connections{role="dashboard",state="used"} 2
echo_db_pool_connections{role="dashboard",state="idle"} 1
echo_db_pool_connections{role="job",state="used"} 3
"""
INFINITY = float("inf")


@pytest.fixture
def scrape() -> Scrape:
    """Return a parsed scrape with the pools of two processes."""
    return parse_scrape(TEXT, taken_at=NOW)


def test_samples_are_summed_by_label(scrape: Scrape) -> None:
    """Samples are summed by role and state; a missing metric has the sum 0, a missing sample is None."""
    name = "echo_db_pool_connections"
    assert scrape.sum_by(name, "role", state="used") == {("dashboard",): 2, ("job",): 3}
    assert scrape.total(name) == 6
    assert scrape.find(name, role="simulator") is None
    assert scrape.total("echo_nothing") == 0
    assert scrape.find_status() == "degraded"


@pytest.mark.parametrize(
    ("quantile", "buckets", "expected"),
    [
        (0.5, {1.0: 0, 2.0: 10, INFINITY: 10}, 1.5),
        (0.99, {1.0: 10, INFINITY: 10}, 0.99),
        (0.5, {1.0: 0, 2.0: 0, INFINITY: 4}, 2.0),
        (0.5, {1.0: 0, INFINITY: 0}, None),
        (0.5, {}, None),
    ],
)
def test_quantiles_follow_promql(
    quantile: float, buckets: dict[float, float], expected: float | None
) -> None:
    """Quantiles are interpolated linearly in a bucket, as in PromQL; without observations they are None."""
    assert estimate_quantile(quantile, buckets) == pytest.approx(expected)


def test_an_exporter_is_read() -> None:
    """`read_scrape` reads /metrics and stores the current time."""
    with serving(lambda path: (200 if path == "/metrics" else 404, TEXT.encode())) as url:
        scrape = read_scrape(url)
    assert scrape.find_status() == "degraded"
    assert abs((scrape.taken_at - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(404, b"", "HTTP 404"), (200, b"<html>hello</html>", "text format"), (200, b"\xff\xfe", "text format")],
)
def test_an_invalid_answer_has_a_reason(status: int, body: bytes, words: str) -> None:
    """An answer other than a scrape raises FetchFailed with the reason."""
    with serving(lambda _: (status, body)) as url, pytest.raises(FetchFailed, match=words):
        read_scrape(url)


def test_the_error_of_a_closed_port_has_no_url() -> None:
    """The error of a closed port has the reason but not the URL, which may contain a password."""
    port = find_free_port()
    with pytest.raises(FetchFailed) as caught:
        read_scrape(f"http://alice:s3cr3t@127.0.0.1:{port}")
    assert "refused" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_a_hanging_server_costs_one_timeout() -> None:
    """`fetch` raises after its timeout when the server sends no answer."""
    release = threading.Event()

    def hang(_: str) -> tuple[int, bytes]:
        release.wait(10)
        return 200, b""

    with serving(hang) as url:
        with pytest.raises(FetchFailed, match="no answer within"):
            fetch(url, timeout_seconds=0.2)
        release.set()
