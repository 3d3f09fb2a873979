"""The migration of closing times and impacts changes imported ticks and price events, and no other rows."""

import pytest
from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from tests.conftest import Execute

MIGRATION = "0018_market_times"
IMPORTED = """
    INSERT INTO ticks (symbol, timestamp, price, bid) VALUES
        ('AAPL', '2013-03-08 21:00Z', 1, NULL), ('AAPL', '2013-03-11 21:00Z', 2, NULL),
        ('AAPL', '2013-07-01 21:00Z', 3, NULL), ('AAPL', '2013-11-04 21:00Z', 4, NULL),
        ('FB', '2026-07-01 21:00Z', 5, NULL),
        -- live: with a quote, with others on its day, at another second, at another hour
        ('IBM', '2026-07-01 21:00Z', 6, 5.9), ('IBM', '2026-07-02 21:00Z', 7, NULL),
        ('IBM', '2026-07-02 09:00Z', 8, NULL), ('IBM', '2026-07-03 21:00:01Z', 9, NULL),
        ('IBM', '2026-07-04 20:00Z', 10, 9.9), ('IBM', '2026-07-05 22:00Z', 11, NULL)"""
EVENTS = """
    INSERT INTO market_events (type, title, sentiment, impact_magnitude, created_at) VALUES
        ('PRICE_MOVE', 'A', 'NEGATIVE', 5.45, '2013-07-01 21:00Z'),
        ('PRICE_MOVE', 'B', 'POSITIVE', 6, '2013-03-08 21:00Z'),
        ('PRICE_MOVE', 'C', 'NEGATIVE', NULL, '2013-07-01 12:00Z'),
        ('EARNINGS', 'D', 'NEGATIVE', 7, '2013-07-01 21:00Z')"""
TICKS = "SELECT price::int, to_char(timestamp AT TIME ZONE 'UTC', 'MM-DD HH24:MI:SS') FROM ticks ORDER BY 1"
MOVED = (
    "SELECT title, impact_magnitude::text, extract(hour FROM created_at AT TIME ZONE 'UTC')::int"
    " FROM market_events ORDER BY 1"
)


@pytest.fixture
def migrator(empty_database_url: str) -> Migrator:
    """Return the migrator of a database with all migrations before this one."""
    migrator = Migrator(Settings(database_url=SecretStr(empty_database_url)))
    migrator.up()
    migrator.down(MIGRATION)
    return migrator


def read_ticks(execute: Execute) -> dict[int, str]:
    """Return the times of all ticks by price."""
    return {int(price): str(moment) for price, moment in execute(TICKS)}


def test_imported_ticks_in_summer_move_by_an_hour(migrator: Migrator, empty_execute: Execute) -> None:
    """`up` moves imported closes in summer and makes impacts of falls negative; `down` restores all rows."""
    empty_execute(IMPORTED)
    empty_execute(EVENTS)
    ticks = read_ticks(empty_execute)
    events = empty_execute(MOVED)
    migrator.up()
    moved = {2: "03-11 20:00:00", 3: "07-01 20:00:00", 5: "07-01 20:00:00"}
    assert read_ticks(empty_execute) == ticks | moved
    assert empty_execute(MOVED) == [
        ("A", "-5.45", 20),
        ("B", "6.00", 21),
        ("C", None, 12),
        ("D", "7.00", 21),
    ]
    migrator.down(MIGRATION)
    assert read_ticks(empty_execute) == ticks
    assert empty_execute(MOVED) == events


def test_an_empty_database_is_migrated(migrator: Migrator, empty_execute: Execute) -> None:
    """`up` and `down` work on a database without rows."""
    assert migrator.up()[0] == MIGRATION
    assert migrator.down(MIGRATION)[-1] == MIGRATION
    assert empty_execute("SELECT count(*) FROM ticks") == [(0,)]
