"""Imports daily prices from a file.

Owns what a trading day becomes: one tick, stamped with the day's close. Never
holds SQL: what it has read goes through `service.load_market_ticks`.

The file is read and checked whole before the first row is written. Kept as
numbers a row takes 44 bytes, so that a million rows fit where their text would
not, and a mistake in the last line finds the database untouched.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from core.errors import PriceFileError
from core.records import Tick
from core.service import EnhancedDatabaseService
from core.simulation.amounts import price_units
from core.simulation.bars import VOLATILITY_RETURNS, build_ticks
from core.simulation.price_columns import find_columns
from core.simulation.price_file import PriceFile, RecordBatch, open_price_file
from core.simulation.price_rows import Problem, RowReader
from core.simulation.price_table import PriceTable
from core.simulation.progress import Progress, ignore_progress
from core.simulation.trading_day import close_of, last_closed_day
from core.simulation.write_behind import BATCH_ROWS, WriteBehind

MAX_ROWS: Final = 20_000_000
"""Bounds the memory to about 1 GB."""

SHOWN_PROBLEMS: Final = 5
"""How many invalid rows are described; of the others only the number is told."""

PARALLEL_WRITES: Final = 2
"""While the server stores one batch, the next is put into its words; more would not be faster."""

_CONTEXT: Final = timedelta(days=60)
"""Long enough to hold the trading days that a volatility looks back on."""


@dataclass(frozen=True)
class ImportResult:
    """What an import did: `rows` days were read, of which `changed` were new or different.

    `repeated` rows were replaced by a later row of the same symbol and day,
    `skipped` rows were invalid; `problems` describes the first of those.
    """

    rows: int
    changed: int
    repeated: int
    skipped: int
    symbols: tuple[str, ...]
    first_day: date | None
    last_day: date | None
    problems: tuple[Problem, ...]


@dataclass
class _Reading:
    """What was read of a file so far."""

    parts: list[PriceTable] = field(default_factory=list)
    rows: int = 0
    skipped: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, part: PriceTable, problems: list[Problem]) -> None:
        self.parts.append(part)
        self.rows += len(part)
        self.skipped += len(problems)
        self.problems += problems[: SHOWN_PROBLEMS - len(self.problems)]


def import_prices(
    service: EnhancedDatabaseService,
    path: Path | str,
    *,
    skip_invalid: bool = False,
    progress: Progress = ignore_progress,
    now: datetime | None = None,
) -> ImportResult:
    """Load a CSV file of daily prices, gzipped or not; importing it again changes nothing.

    Change and volatility of a symbol's first days in the file count on the days
    that the database holds before them. Days that it holds after the file's last
    one keep theirs: import a corrected history as a whole.
    Raises `PriceFileError`, with nothing loaded, when the file cannot be read or a
    row is invalid and `skip_invalid` is not set.
    """
    last_day = last_closed_day(now or datetime.now(UTC))
    path = Path(path)
    reading, symbols = _read(path, last_day=last_day, skip_invalid=skip_invalid, progress=progress)
    table = _join(reading, symbols).sort_without_repeats()
    if not len(table):
        raise PriceFileError(f"{path} has no valid row below its header; nothing was loaded")
    changed = _load(service, table, progress)
    return ImportResult(
        rows=len(table),
        changed=changed,
        repeated=reading.rows - len(table),
        skipped=reading.skipped,
        symbols=table.symbols,
        first_day=date.fromordinal(int(table.days.min())),
        last_day=date.fromordinal(int(table.days.max())),
        problems=tuple(reading.problems),
    )


def read_prices(path: Path, *, now: datetime | None = None) -> PriceTable:
    """Return the rows of a file by symbol and day.

    Raises `PriceFileError` when the file cannot be read or a row is invalid.
    """
    last_day = last_closed_day(now or datetime.now(UTC))
    reading, symbols = _read(path, last_day=last_day, skip_invalid=False, progress=ignore_progress)
    return _join(reading, symbols).sort_without_repeats()


def _read(
    path: Path, *, last_day: date, skip_invalid: bool, progress: Progress
) -> tuple[_Reading, tuple[str, ...]]:
    reading = _Reading()
    with open_price_file(path) as file:
        reader = RowReader(find_columns(file.header, path), last_day=last_day)
        for batch in file.batches():
            part, problems = reader.read(batch)
            _refuse(file, batch, problems, skip_invalid=skip_invalid)
            reading.add(part, problems)
            if reading.rows > MAX_ROWS:
                raise PriceFileError(f"{path} has more than {MAX_ROWS} rows; split it")
            progress("reading prices", file.position, file.size)
    return reading, reader.symbols


def _refuse(file: PriceFile, batch: RecordBatch, problems: list[Problem], *, skip_invalid: bool) -> None:
    for problem in problems:
        if problem.line in batch.swallowed:
            # never skipped: how many rows the quote swallowed is not known
            raise file.fail(problem.line, "a quote that is opened here is not closed on the line")
        if not skip_invalid:
            raise file.fail(*problem)


def _join(reading: _Reading, symbols: tuple[str, ...]) -> PriceTable:
    parts = reading.parts
    if not parts:
        return PriceTable.empty()
    return PriceTable(
        symbols,
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.days for part in parts]),
        np.concatenate([part.bars for part in parts]),
        np.concatenate([part.volumes for part in parts]),
    )


def _closes_before(service: EnhancedDatabaseService, table: PriceTable) -> dict[str, tuple[int, ...]]:
    """Return for each symbol the closes that the database holds before its first day."""
    closes = {}
    for code, symbol in enumerate(table.symbols):
        first = close_of(date.fromordinal(int(table.days[table.rows_of(code).start])))
        candles = service.get_price_history(symbol, first - _CONTEXT, first, "1d")
        recent = candles[-VOLATILITY_RETURNS:]
        closes[symbol] = tuple(price_units(candle.close) for candle in recent)
    return closes


def _ticks(table: PriceTable, closes_before: dict[str, tuple[int, ...]]) -> Iterator[Tick]:
    for code, symbol in enumerate(table.symbols):
        rows = table.rows_of(code)
        days = table.select(np.arange(rows.start, rows.stop))
        yield from build_ticks(days, symbol, closes_before[symbol])


def _load(service: EnhancedDatabaseService, table: PriceTable, progress: Progress) -> int:
    ticks = _ticks(table, _closes_before(service, table))
    done = 0
    with WriteBehind(at_once=PARALLEL_WRITES) as writes:
        while batch := list(islice(ticks, BATCH_ROWS)):
            writes.write(service.load_market_ticks, batch)
            progress("loading prices", done, len(table))
            done += len(batch)
    progress("loading prices", len(table), len(table))
    return writes.rows
