"""Reports on a leaderboard of 100,000 entries are correct and read a fraction of the rows."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest

from core import EnhancedDatabaseService, Settings, open_service
from core.queries import leaderboard_reports
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.integration.plans import count_rows_read

pytestmark = pytest.mark.slow

ENTRIES = 100_000
DAY = date(2026, 3, 2)
LEADERBOARD = {"day": DAY, "category": "returns"}
FILL = f"""
    INSERT INTO users (username)
        SELECT (ARRAY['amy', 'bea', 'cem', 'dan'])[1 + n % 4] || '_' || n
        FROM generate_series(1, {ENTRIES}) n;
    INSERT INTO leaderboard_entries (user_id, session_date, category, score, created_at)
        SELECT id, '{DAY}', 'returns', ((random() + random() + random()) * 4 - 6)::numeric(15, 2),
               '2026-03-02' FROM users;
    SELECT leaderboard_fold('{DAY}', 'returns');
    ANALYZE"""


@pytest.fixture(scope="module")
def filled_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """Yield the URL of a database with one leaderboard of 100,000 entries."""
    with created_database(postgres_server, template=template_database) as url:
        with connected(url) as execute:
            execute(FILL)
        yield url


@pytest.fixture(scope="module")
def large(filled_url: str) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a cache on the database of `filled_url`."""
    settings = Settings(database_url=filled_url, enable_redis_cache=False)  # type: ignore[arg-type]  # coerced
    with open_service(settings) as service:
        yield service


@pytest.fixture(scope="module")
def run(filled_url: str) -> Iterator[Execute]:
    """Yield a function that runs SQL on the database of `filled_url`."""
    with connected(filled_url) as execute:
        yield execute


def test_a_summary_equals_an_sql_count(large: EnhancedDatabaseService, run: Execute) -> None:
    """Bins, number of players, best, worst and median score of a summary equal those of plain SQL."""
    summary = large.find_leaderboard_summary("returns", DAY)
    assert summary is not None
    count = "SELECT count(*) FROM leaderboard_entries WHERE score >= %s AND score < %s"
    for item in summary.bins:
        assert run(count, (item.low, item.high)) == [(item.players,)]
    median = "SELECT percentile_disc(ARRAY[0, 0.5, 1]) WITHIN GROUP (ORDER BY score) FROM leaderboard_entries"
    [[[worst, middle, best]]] = run(median)
    assert (summary.players, summary.worst, summary.best) == (ENTRIES, worst, best)
    assert abs(summary.median - middle) <= Decimal("0.01")


def test_a_stream_yields_the_whole_leaderboard(large: EnhancedDatabaseService) -> None:
    """A stream yields every entry once, with the same ranks as `get_leaderboard`."""
    entries = list(large.stream_leaderboard("returns", DAY))
    assert len({entry.id for entry in entries}) == len(entries) == ENTRIES
    page = large.get_leaderboard("returns", DAY, 50, offset=70_000)
    assert tuple(entries[70_000:70_050]) == page


@pytest.mark.parametrize(
    ("statement", "more", "most"),
    [
        (leaderboard_reports.COUNT, {}, 0),
        # each edge of a bin is within a bucket, which has up to 4,000 entries and is read whole
        (leaderboard_reports.BINS, {"edges": list(range(-6, 7))}, 13 * 4_000),
        (leaderboard_reports.LEADERS, {"score": 3}, 4_000),
        (leaderboard_reports.COUNT_MATCHES, {"pattern": "amy%"}, 10_000),
        (leaderboard_reports.AFTER, {"score": 1, "created_at": None, "id": None, "limit": 500}, 1_100),
    ],
)
def test_a_report_reads_a_fraction_of_the_leaderboard(
    run: Execute, statement: str, more: dict[str, object], most: int
) -> None:
    """A statement of a report reads only a few buckets and the rows that it returns."""
    assert count_rows_read(run, statement, {**LEADERBOARD, **more}, "leaderboard_entries") <= most


@pytest.mark.parametrize("order", leaderboard_reports.ORDERS)
def test_a_search_reads_the_matches_and_their_buckets(run: Execute, order: str) -> None:
    """A search with some hundred matches reads these entries and one bucket for each row of the page."""
    parameters = {**LEADERBOARD, "limit": 25, "offset": 0, "pattern": "bea\\_12%"}
    read = count_rows_read(run, leaderboard_reports.LIST_MATCHES[order], parameters, "leaderboard_entries")
    assert read <= 25 * 4_000 + 1_000
