"""Loads the days of price files into the database: one tick per trading day, at the time of its close.

Checks that the prices of the new days fit the stored prices. Contains no SQL: `service.load_market_ticks`
writes the ticks. All files are read and checked before the first tick is written. Therefore a mistake in the
last line of the last file leaves the database unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import chain, islice
from typing import Final

import numpy as np

from core.bulk_load import BATCH_ROWS, BatchWriter, Progress, ignore_progress
from core.database.read_consistency import reads_on_primary
from core.errors import InvalidInput, PriceFileError
from core.price_import.daily_ticks import build_ticks
from core.price_import.options import Split
from core.price_import.reading import PriceReading
from core.price_import.rows import RowProblem
from core.price_import.splits import describe_jump, find_ratio
from core.price_import.table import PriceTable
from core.records import VOLATILITY_RETURNS, Candle
from core.service import EnhancedDatabaseService
from core.simulation.trading_hours import close_of

PARALLEL_WRITES: Final = 2
"""Batches written in parallel: the server stores one while the next is encoded. More batches save no time."""

DAYS_BEHIND: Final = 7
"""A history that `move_to_today` moves for the first time ends at most this number of days before today."""

_CONTEXT: Final = timedelta(days=60)
"""Stored days are read up to this distance from the first and from the last new day.

It is more than `VOLATILITY_RETURNS` trading days.
"""

# a stored close of 1.00 or more and the new close may differ by this, because vendors round to cents
_HALF_CENT: Final = 0.005
_SAME: Final = 0.001
"""The largest relative difference allowed between the stored close and the new close of the same day."""


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    `rows` is the number of days that were read, summed over all symbols. `changed` is the number of these
    days that were new, or different from the stored day. `repeated` is the number of rows that were left out
    because they repeat another row. `skipped` is the number of invalid rows, which were not loaded, and
    `problems` has the first invalid row of each kind.
    """

    rows: int
    changed: int
    repeated: int
    skipped: int
    symbols: tuple[str, ...]
    first_day: date
    last_day: date
    problems: tuple[RowProblem, ...]


def load_prices(
    service: EnhancedDatabaseService, reading: PriceReading, *, progress: Progress = ignore_progress
) -> ImportResult:
    """Load the days that were read. Other days in the database are not changed.

    The change and volatility of a symbol's first days are computed from earlier days in the database. Raises
    `PriceFileError`, before anything is loaded, when the prices do not fit the stored prices of the symbol.
    """
    table = reading.table
    # read from the primary: a replica may lack prices that were imported a moment ago
    with reads_on_primary():
        days_before = _fit_to_stored(service, reading)
    ticks = chain.from_iterable(
        build_ticks(table.select(table.rows_of(code)), symbol, days_before[symbol])
        for code, symbol in enumerate(table.symbols)
    )
    done = 0
    with BatchWriter(concurrency=PARALLEL_WRITES) as writes:
        while batch := list(islice(ticks, BATCH_ROWS)):
            writes.write(service.load_market_ticks, batch)
            progress("loading prices", done, len(table))
            done += len(batch)
    progress("loading prices", len(table), len(table))
    service.update_symbol_currencies(reading.currencies)
    invalid = reading.tally("invalid")
    return ImportResult(
        rows=len(table),
        changed=writes.rows,
        repeated=reading.repeated,
        skipped=sum(invalid.counts.values()),
        symbols=table.symbols,
        first_day=date.fromordinal(int(table["day"].min())),
        last_day=date.fromordinal(int(table["day"].max())),
        problems=tuple(invalid.first.values()),
    )


def _fit_to_stored(
    service: EnhancedDatabaseService, reading: PriceReading
) -> dict[str, list[tuple[date, Decimal]]]:
    """Return the stored days and closes before each symbol's first new day.

    Raises `PriceFileError` when the new prices do not fit the stored prices, or have another currency.
    """
    table, days_before = reading.table, dict[str, list[tuple[date, Decimal]]]()
    stored = service.get_symbol_currencies()
    for code, symbol in enumerate(table.symbols):
        days_before[symbol] = []
        if symbol not in stored:
            continue
        days = table.select(table.rows_of(code))
        first, last = (close_of(date.fromordinal(int(days["day"][row]))) for row in (0, -1))
        around = {
            candle.bucket.date().toordinal(): candle
            for start, end in ((first - _CONTEXT, first + _CONTEXT), (last - _CONTEXT, last + _CONTEXT))
            for candle in service.get_price_history(symbol, start, end, "1d")
            if candle.ticks == 1
        }
        before = [around[day] for day in sorted(around) if day < days["day"][0]]
        after = [around[day] for day in sorted(around) if day > days["day"][-1]]
        if before:
            _check_continuity(days, around, before[-1], is_first=True, splits=reading.splits)
        if after:
            _check_continuity(days, around, after[0], is_first=False, splits=reading.splits)
        currency = reading.currencies.get(symbol)
        if currency and stored[symbol] not in {None, currency} and (before or after):
            raise PriceFileError(
                f"{symbol} is stored in {stored[symbol]}, and these files have it in {currency}; import its"
                " whole history in one currency, or under another --symbol"
            )
        days_before[symbol] = [
            (candle.bucket.date(), candle.close) for candle in before[-VOLATILITY_RETURNS:]
        ]
    return days_before


def _check_continuity(
    days: PriceTable, stored: dict[int, Candle], neighbour: Candle, *, is_first: bool, splits: Sequence[Split]
) -> None:
    """Raise `PriceFileError` if the prices of the new days do not continue the stored prices.

    With `is_first`, the beginning of the new days is checked, and `neighbour` is the last stored day before
    them. Otherwise their end is checked, and `neighbour` is the first stored day after them. If some of the
    new days are already stored, the first of these days (or the last) must have the stored close. If none of
    them is stored, the prices must not jump by the ratio of a split between `neighbour` and the nearest new
    day.
    """
    symbol, edge = neighbour.symbol, 0 if is_first else -1
    shared = [row for row in range(len(days)) if int(days["day"][row]) in stored]
    advice = "the files are adjusted for another split or dividend; import the whole history again"
    if shared:
        row = shared[edge]
        close, known = float(days["close"][row]), float(stored[int(days["day"][row])].close)
        if abs(close - known) > max(_SAME * known, _HALF_CENT if known >= 1 else 0):
            when = date.fromordinal(int(days["day"][row]))
            raise PriceFileError(
                f"{symbol} does not fit the stored prices: on {when} it closes at {close:g},"
                f" the stored close is {known:g}; {advice}"
            )
        return
    close, opened = float(days["close"][edge]), float(days["open"][edge])
    if is_first:
        day = int(days["day"][0])
        jumps = [float(neighbour.close) / (opened if opened > 0 else close), float(neighbour.close) / close]
    else:
        day = neighbour.bucket.date().toordinal()
        jumps = [close / float(neighbour.open), close / float(neighbour.close)]
    ratio = find_ratio(*np.log(jumps).tolist())
    if ratio and not any((split.symbol, split.day) == (symbol, day) for split in splits):
        jump = describe_jump(Split(symbol, day, ratio)).split(";")[0]
        raise PriceFileError(
            f"{jump}, between the days of the files and those that are stored; {advice}, or say that"
            f" there was none with --split {symbol}:{date.fromordinal(day)}:1:1"
        )


def move_to_today(
    service: EnhancedDatabaseService, reading: PriceReading, today: date, *, keep_dates: bool = False
) -> int:
    """Move all days of a reading by whole weeks; return the number of weeks.

    A history that is not stored yet is moved so that it ends at most seven days before `today`. A history
    that is already stored is moved by as many weeks as at its first import. Otherwise the same days would be
    stored twice at different dates. With `keep_dates`, no day is moved; raises `InvalidInput` if an earlier
    import has moved the days.
    """
    with reads_on_primary():
        stored = service.get_moved_weeks()
    known = [stored[symbol] for symbol in reading.table.symbols if symbol in stored]
    if keep_dates:
        if any(known):
            raise InvalidInput(
                f"this history is in the database already, moved by {max(known)} weeks; leave --keep-dates"
                " out, or delete its ticks first"
            )
        return 0
    last = date.fromordinal(int(reading.table["day"].max()))
    weeks = known[0] if known else max(0, (today - timedelta(days=1) - last).days // DAYS_BEHIND)
    reading.table["day"][:] += 7 * weeks
    return weeks
