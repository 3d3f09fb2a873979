"""Writes price files for tests and reads them as `echo-markets import-prices` does.

Owns the rows of most of these files: one bar a day on three days, of which the first is a Friday.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.bulk_load import Progress, ignore_progress
from core.errors import PriceFileError
from core.price_import.loading import ImportResult, load_prices
from core.price_import.options import ReadingOptions, parse_options
from core.price_import.reading import PriceReading, read_prices
from core.price_import.table import PriceTable
from core.service import EnhancedDatabaseService

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DAYS = ("2024-03-01", "2024-03-04", "2024-03-15")
BARS = ((10, 11, 9, 10.5, 100), (11, 12, 10, 11.5, 101), (12, 13, 11, 12.5, 102))
AS_GIVEN = [(day, *bar) for day, bar in zip(DAYS, BARS, strict=True)]


def write_rows(header: str, form: str, days: Sequence[str] = DAYS, **values: Any) -> str:
    """Return a file with the header and a row for each bar.

    `form` is the format of a row with the fields d (day), o, h, l, c, v, and a (adjusted close, half of c).
    """
    rows = [
        form.format(d=day, o=o, h=h, l=low, c=c, v=v, a=c / 2, **values)
        for day, (o, h, low, c, v) in zip(days, BARS, strict=True)
    ]
    return "\n".join([*([header] if header else []), *rows, ""])


def read(path: Path, content: str | bytes, *, now: datetime = NOW, **options: Any) -> PriceReading:
    """Write `content`, unless it is empty, to the file, and read the file with these command-line options."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_prices(path, parse_options(**options), now=now)


def refuse(path: Path, content: str | bytes, **options: Any) -> str:
    """Return the error message for a file that is refused, without the path of its folder."""
    with pytest.raises(PriceFileError) as caught:
        read(path, content, **options)
    return str(caught.value).replace(f"{path.parent}/", "")


def list_days(table: PriceTable) -> list[tuple[Any, ...]]:
    """Return day, open, high, low, close and volume of each row."""
    return [row[1:] for row in list_rows(table)]


def list_rows(table: PriceTable) -> list[tuple[Any, ...]]:
    """Return symbol, day, open, high, low, close and volume of each row; a missing value is None."""
    return list(_rows(table))


def _rows(table: PriceTable) -> Iterator[tuple[Any, ...]]:
    for row in range(len(table)):
        values = [table[name][row].item() for name in ("open", "high", "low", "close", "volume")]
        day = str(date.fromordinal(int(table["day"][row])))
        yield (
            table.symbols[table["code"][row]],
            day,
            *(None if np.isnan(value) else value for value in values),
        )


def describe(reading: PriceReading) -> str:
    """Return the text that the command prints for a reading."""
    return "\n".join(reading.describe())


def import_prices(
    service: EnhancedDatabaseService,
    paths: Path | str | Sequence[Path],
    options: ReadingOptions | None = None,
    *,
    progress: Progress = ignore_progress,
    now: datetime | None = None,
) -> ImportResult:
    """Read price files and load them into the database, as the command does."""
    return load_prices(service, read_prices(paths, options, progress=progress, now=now), progress=progress)
