"""Some days of data/market_history.csv.gz, for tests that need a few real prices."""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

from core import EnhancedDatabaseService
from core.price_import.loading import ImportResult
from tests.price_files import import_prices

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "market_history.csv.gz"
LAST_DAY = "2013-03-01"


def write_days(path: Path, first: str, last: str = LAST_DAY) -> Path:
    """Write the header and the rows from day `first` to day `last` of the shipped price history to `path`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_rows(first, last))
    return path


def import_days(
    service: EnhancedDatabaseService, folder: Path, first: str, last: str = LAST_DAY
) -> ImportResult:
    """Import the prices of all symbols from day `first` to day `last` into the database of the service."""
    return import_prices(service, write_days(folder / f"from-{first}.csv", first, last))


def _rows(first: str, last: str) -> Iterator[list[str]]:
    with gzip.open(SHIPPED, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        yield header
        date = header.index("Date")
        yield from (row for row in rows if first <= row[date] <= last)
