"""A million ticks of 500 symbols: latest prices, a month of candles, and retention by partition."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from core import EnhancedDatabaseService, Settings, open_service
from core.queries import ticks
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.integration.plans import count_rows_read, list_scans

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)
MONTH = {"month": ticks.month_of(NOW), "end": ticks.month_after(NOW)}
SYMBOLS = 500
# A million ticks in the past half year: one per symbol every 130 minutes.
FILL = """
    INSERT INTO ticks (symbol, timestamp, price, volume)
        SELECT 'S' || n %% 500, %(now)s - n / 500 * interval '130 minutes', 100 + n %% 7, 1
        FROM generate_series(0, 999999) n"""
PARTITIONS = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY relname"
MONTHS = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' AND relname ~ '_[0-9]+$'"
SEARCH_LATEST = (
    "SELECT DISTINCT ON (symbol) symbol, timestamp, price FROM ticks ORDER BY symbol, timestamp DESC"
)


@pytest.fixture(scope="module")
def filled_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """Yield the URL of a database with a million ticks; the oldest are in the partition `ticks_before`."""
    with created_database(postgres_server, template=template_database) as url:
        settings = Settings(database_url=url, enable_redis_cache=False)  # type: ignore[arg-type]  # coerced
        with connected(url) as execute, open_service(settings) as service:
            begin = (NOW - timedelta(days=120)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            execute("DROP TABLE " + ", ".join(name for (name,) in execute(MONTHS)))
            execute("ALTER TABLE ticks DETACH PARTITION ticks_before")
            execute(
                "ALTER TABLE ticks ATTACH PARTITION ticks_before FOR VALUES FROM (MINVALUE) TO (%s)", (begin,)
            )
            service.maintain_partitions()
            execute(FILL, {"now": NOW})
            for (name,) in execute(PARTITIONS):
                execute(f"VACUUM ANALYZE {name}")
        yield url


@pytest.fixture
def run(filled_url: str) -> Iterator[Execute]:
    """Yield SQL access to the database with a million ticks."""
    with connected(filled_url) as execute:
        yield execute


@pytest.fixture
def large_service(filled_url: str) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a cache on the database with a million ticks."""
    settings = Settings(database_url=filled_url, enable_redis_cache=False)  # type: ignore[arg-type]  # coerced
    with open_service(settings) as service:
        yield service


def test_latest_prices_read_one_row_a_symbol(large_service: EnhancedDatabaseService, run: Execute) -> None:
    """The latest prices equal a search through all ticks, but the statement reads one row per symbol."""
    latest = large_service.get_latest_market_data()
    assert len(latest) == SYMBOLS
    assert [(t.symbol, t.timestamp, t.price) for t in latest] == sorted(run(SEARCH_LATEST))
    assert count_rows_read(run, ticks.LATEST_OF_ALL_IN_MONTH, MONTH, "ticks") == SYMBOLS
    scans = list_scans(run, ticks.LATEST_OF_ALL_IN_MONTH, MONTH)
    assert {table for _, table in scans} == {"symbols", f"ticks_{NOW:%Y_%m}"}


def test_candles_read_the_ticks_of_their_month(large_service: EnhancedDatabaseService, run: Execute) -> None:
    """A month of candles reads the symbol's ticks of that month in at most two partitions."""
    start = NOW - timedelta(days=28)
    candles = large_service.get_price_history("S7", start, NOW, "1d")
    count = sum(candle.ticks for candle in candles)
    [(expected,)] = run(
        "SELECT count(*) FROM ticks WHERE symbol = 'S7' AND timestamp >= %s AND timestamp < %s", (start, NOW)
    )
    assert count == expected > 300
    parameters = {"symbol": "S7", "start": start, "end": NOW, "bucket": timedelta(days=1)}
    assert count_rows_read(run, ticks.CANDLES, parameters, "ticks") == count
    scans = list_scans(run, ticks.CANDLES, parameters)
    assert len(scans) <= 2
    assert "Seq Scan" not in {kind for kind, _ in scans}


def test_retention_drops_partitions_and_not_rows(
    large_service: EnhancedDatabaseService, run: Execute
) -> None:
    """Retention drops whole partitions and runs no DELETE; ticks since the first kept month stay."""
    statements: list[str] = []
    large_service._database.query_hooks.append(lambda event: statements.append(event.sql))
    [(before,)] = run("SELECT count(*) FROM ticks")
    report = large_service.maintain_partitions(keep=timedelta(days=60))
    assert "ticks_before" in report.dropped
    assert len(report.dropped) >= 2
    assert not any("DELETE FROM ticks" in statement for statement in statements)
    [(left, oldest)] = run("SELECT count(*), min(timestamp) FROM ticks")
    assert 0 < left < before
    assert NOW - timedelta(days=92) < oldest < NOW - timedelta(days=59)
    assert large_service.maintain_partitions(keep=timedelta(days=60)).dropped == ()
    assert len(large_service.get_latest_market_data()) == SYMBOLS
