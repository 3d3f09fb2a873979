"""Bulk work: importing prices and replaying sessions, against COPY of the same rows.

The bare way has the finished rows at hand and only hands them over, into tables
with the same columns, constraints and indexes. What the service takes longer is
what it does besides: checking every field, playing the sessions, merging.
"""

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection

from core import EnhancedDatabaseService
from core.simulation.prices import import_prices
from core.simulation.replay import seed
from tests.bench.timing import Comparison, time_call

SEEDED_TABLES = ("users", "portfolios", "leaderboard_entries", "quests", "market_events")
PRICE_COLUMNS = "(symbol, timestamp, open, high, low, price, volume)"


def measure_import(service: EnhancedDatabaseService, bare: connection, prices: Path) -> Comparison:
    """Import the shipped history; bare: unzip it, split the lines and COPY the raw columns."""
    seconds = time_call(lambda: import_prices(service, prices))
    with bare, bare.cursor() as cursor:
        cursor.execute("CREATE TABLE bare_ticks (LIKE ticks INCLUDING ALL)")

    def copy() -> None:
        text, _ = _read_prices(prices)
        with bare, bare.cursor() as cursor:
            cursor.copy_expert(f"COPY bare_ticks {PRICE_COLUMNS} FROM STDIN", text)

    _, rows = _read_prices(prices)
    return Comparison("import prices", seconds, seconds, time_call(copy), rows)


def measure_seed(
    service: EnhancedDatabaseService, bare: connection, *, players: int, sessions: int
) -> Comparison:
    """Replay sessions; bare: COPY of the very rows that this has written."""
    seconds = time_call(lambda: seed(service, players=players, sessions=sessions))
    copies = [_prepare_copy(bare, table) for table in SEEDED_TABLES]

    def copy() -> None:
        with bare:
            for run, _ in copies:
                run()

    bare_seconds = time_call(copy)
    return Comparison("replay sessions", seconds, seconds, bare_seconds, sum(rows for _, rows in copies))


def connect(url: str) -> connection:
    """Open the connection of the bare way."""
    return psycopg2.connect(url)


def _prepare_copy(bare: connection, table: str) -> tuple[Callable[[], None], int]:
    rows = io.StringIO()
    with bare, bare.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} TO STDOUT", rows)
        count = cursor.rowcount
        cursor.execute(f"CREATE TABLE bare_{table} (LIKE {table} INCLUDING ALL)")

    def run() -> None:
        rows.seek(0)
        with bare.cursor() as cursor:
            cursor.copy_expert(f"COPY bare_{table} FROM STDIN", rows)

    return run, count


def _read_prices(path: Path) -> tuple[io.StringIO, int]:
    """Return COPY's text form of a price file, unchecked, and its number of rows."""
    text, rows = io.StringIO(), 0
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            day = f"{row['Date']} 21:00:00+00"
            values = (row["Ticker"], day, row["Open"], row["High"], row["Low"], row["Close"])
            text.write("\t".join((*values, str(int(float(row["Volume"]))))) + "\n")
            rows += 1
    text.seek(0)
    return text, rows
