"""Imports daily prices from files.

Owns the order of an import, and what a trading day becomes: one tick, stamped with the day's
close. Never holds SQL: what it has read goes through `service.load_market_ticks`.

Files are read and checked whole before the first row is written, so that a mistake in the last
line of the last one finds the database untouched.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from core.errors import PriceFileError
from core.records import Candle, Tick
from core.service import EnhancedDatabaseService
from core.simulation.bars import VOLATILITY_RETURNS, build_ticks
from core.simulation.bulk_load import BATCH_ROWS, BatchWriter, Progress, ignore_progress
from core.simulation.history import close_of, last_closed_day
from core.simulation.price_layout import understand
from core.simulation.price_options import ReadingOptions, Split
from core.simulation.price_plan import Plan
from core.simulation.price_rows import FileReader, Problem
from core.simulation.price_series import (
    adjust_splits,
    describe_intervals,
    describe_jump,
    drop_repeats,
    find_jumps,
    find_ratio,
    is_shifted,
    join_days,
)
from core.simulation.price_source import Source, open_sources, scan_text
from core.simulation.price_table import PriceTable, TableBuilder

MAX_ROWS: Final = 20_000_000
"""Bounds the memory to about 2 GB."""

PARALLEL_WRITES: Final = 2
"""While the server stores one batch, the next is put into its words; more would not be faster."""

_CONTEXT: Final = timedelta(days=60)
"""Long enough to hold the trading days that a volatility looks back on."""

_HALF_CENT: Final = 0.005  # vendors round to cents
_SAME: Final = 0.001
"""How far stored and new closes of one day may differ, relatively, and still be of one history."""


@dataclass(frozen=True)
class PriceReading:
    """What was read of price files: the days, the currencies by symbol, and how it was understood."""

    table: PriceTable
    currencies: dict[str, str]
    plan: Plan
    splits: tuple[Split, ...] = ()


@dataclass(frozen=True)
class ImportResult:
    """What an import did: `rows` days were read, of which `changed` were new or different.

    `repeated` rows said the same as another; `skipped` rows were invalid, `problems` has the first
    of each kind.
    """

    rows: int
    changed: int
    repeated: int
    skipped: int
    symbols: tuple[str, ...]
    first_day: date
    last_day: date
    problems: tuple[Problem, ...]


def import_prices(
    service: EnhancedDatabaseService,
    paths: Path | str | Sequence[Path],
    options: ReadingOptions | None = None,
    *,
    splits: Sequence[Split] = (),
    strict: bool = False,
    skip_invalid: bool = False,
    progress: Progress = ignore_progress,
    now: datetime | None = None,
) -> ImportResult:
    """Read price files and load them; importing them again changes nothing.

    Raises as `read_prices` and `load_prices` do, with nothing loaded.
    """
    reading = read_prices(
        paths, options, splits=splits, strict=strict, skip_invalid=skip_invalid, progress=progress, now=now
    )
    return load_prices(service, reading, progress=progress)


def read_prices(
    paths: Path | str | Sequence[Path],
    options: ReadingOptions | None = None,
    *,
    splits: Sequence[Split] = (),
    strict: bool = False,
    skip_invalid: bool = False,
    progress: Progress = ignore_progress,
    now: datetime | None = None,
) -> PriceReading:
    """Read files, folders and archives of prices, packed or not, and say how they were understood.

    Raises `PriceFileError`, naming file and line, when a file cannot be read or could be read in
    two ways, when a row is invalid and `skip_invalid` is not set, and for warnings if `strict`.
    """
    now = now or datetime.now(UTC)
    with open_sources([Path(paths)] if isinstance(paths, Path | str) else paths) as (sources, left_out):
        plan = Plan(left_out=left_out)
        collector = _Collector(options or ReadingOptions(), plan, now, skip_invalid=skip_invalid)
        size, done = sum(source.size for source in sources), 0
        for source in sources:
            collector.read(source, partial(_add_progress, progress, done, size))
            done += source.size
    progress("reading prices", size, size)
    table = collector.builder.build()
    if not len(table):
        skipped = [line for kind in ("skipped", "invalid") for line in plan.tally(kind).describe()]
        raise PriceFileError("; ".join([f"{sources[0].name} has no valid row; nothing was loaded", *skipped]))
    table, plan.repeated = drop_repeats(table)
    table, plan.bars_a_day = join_days(table)
    plan.notes += adjust_splits(table, collector.splits, splits)
    plan.warnings += describe_intervals(table)
    if is_shifted(table) and collector.options.timezone is None and collector.is_zoned:
        raise PriceFileError(
            f"{sources[0].name}: its days run from Sunday to Thursday in UTC; say in which zone a day is with"
            " --timezone, such as Asia/Tokyo (UTC for days as they are)"
        )
    explained = {(split.symbol, split.day) for split in splits}
    plan.warnings += [
        describe_jump(jump)
        for jump in find_jumps(table, [not reader.is_adjusted for reader in plan.files.values()])
        if (jump.symbol, jump.day) not in explained
    ]
    if strict and plan.warnings:
        raise PriceFileError(f"{plan.warnings[0]} (refused by --strict)")
    return PriceReading(table, collector.currencies, plan, tuple(splits))


def _add_progress(progress: Progress, done: int, size: int, read: int) -> None:
    progress("reading prices", min(done + read, size), size)


@dataclass
class _Collector:
    """Reads one file after the other into parts of a table."""

    options: ReadingOptions
    plan: Plan
    now: datetime
    skip_invalid: bool = field(kw_only=True)
    builder: TableBuilder = field(default_factory=TableBuilder)
    currencies: dict[str, str] = field(default_factory=dict)
    splits: list[Split] = field(default_factory=list)
    is_zoned: bool = False

    def read(self, source: Source, progress: Callable[[int], None]) -> None:
        text = scan_text(source, self.options.encoding)
        layout = understand(source.name, text, self.options)
        reader = FileReader(
            source,
            layout,
            self.options,
            last_day=last_closed_day(self.now),
            today=self.now.astimezone(UTC).date(),
            skip_invalid=self.skip_invalid,
        )
        self.plan.files[source.name] = reader
        self.builder.files.append(source.name)
        codes: set[int] = set()
        for part in reader.read(self.builder.symbols, progress):
            codes.update(np.unique(part["code"]).tolist())
            self.builder.add(part)
            if self.builder.rows > MAX_ROWS:
                raise PriceFileError(f"{source.name}: more than {MAX_ROWS} rows in all; import them in parts")
        self.splits += reader.splits
        self.is_zoned = self.is_zoned or reader.is_zoned
        self._note_currency(reader, source.name, codes)

    def _note_currency(self, reader: FileReader, name: str, codes: set[int]) -> None:
        currency = next(iter(reader.currencies), None) or reader.layout.currency
        if currency is None:
            return
        names = list(self.builder.symbols)
        for symbol in (names[code] for code in sorted(codes)):
            known = self.currencies.setdefault(symbol, currency)
            if known != currency:
                raise PriceFileError(f"{name}: {symbol} in {currency}, but another file has it in {known}")


def load_prices(
    service: EnhancedDatabaseService, reading: PriceReading, *, progress: Progress = ignore_progress
) -> ImportResult:
    """Load the days that were read; days that the database holds besides keep theirs.

    Change and volatility of a symbol's first days count on the days before them in the database.
    Raises `PriceFileError`, with nothing loaded, when the days do not fit to those that stay there.
    """
    table = reading.table
    closes_before = _fit_to_stored(service, reading)
    changed = _load(service, table, closes_before, progress)
    service.update_symbol_currencies(reading.currencies)
    invalid = reading.plan.tally("invalid")
    return ImportResult(
        rows=len(table),
        changed=changed,
        repeated=reading.plan.repeated,
        skipped=invalid.total(),
        symbols=table.symbols,
        first_day=date.fromordinal(int(table["day"].min())),
        last_day=date.fromordinal(int(table["day"].max())),
        problems=tuple(invalid.first.values()),
    )


def _fit_to_stored(service: EnhancedDatabaseService, reading: PriceReading) -> dict[str, list[Candle]]:
    """Return the days before each symbol's first one, and refuse days that continue another history."""
    table, before = reading.table, dict[str, list[Candle]]()
    stored = service.get_symbol_currencies()
    for code, symbol in enumerate(table.symbols):
        before[symbol] = []
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
        before[symbol] = [around[day] for day in sorted(around) if day < days["day"][0]]
        after = [around[day] for day in sorted(around) if day > days["day"][-1]]
        if before[symbol]:
            _check_seam(days, around, before[symbol][-1], is_first=True, splits=reading.splits)
        if after:
            _check_seam(days, around, after[0], is_first=False, splits=reading.splits)
        currency = reading.currencies.get(symbol)
        if currency and stored[symbol] not in {None, currency} and (before[symbol] or after):
            raise PriceFileError(
                f"{symbol} is stored in {stored[symbol]}, and these files have it in {currency}; import its"
                " whole history in one currency, or under another --symbol"
            )
    return before


def _check_seam(
    days: PriceTable, stored: dict[int, Candle], beside: Candle, *, is_first: bool, splits: Sequence[Split]
) -> None:
    """Refuse days that do not continue the stored ones: another close of one day, or a split between.

    `beside` is the stored day before the first one, or after the last one.
    """
    symbol, edge = beside.symbol, 0 if is_first else -1
    shared = [row for row in range(len(days)) if int(days["day"][row]) in stored]
    advice = "the files are adjusted for another split or dividend; import the whole history again"
    if shared:
        row = shared[edge]
        close, known = float(days["close"][row]), float(stored[int(days["day"][row])].close)
        if abs(close - known) > max(_SAME * known, _HALF_CENT if known >= 1 else 0):
            when = date.fromordinal(int(days["day"][row]))
            raise PriceFileError(
                f"{symbol} does not fit to what is stored: on {when} it closes at {close:g},"
                f" stored is {known:g}; {advice}"
            )
        return
    close, opened = float(days["close"][edge]), float(days["open"][edge])
    if is_first:
        day = int(days["day"][0])
        jumps = [float(beside.close) / (opened if opened > 0 else close), float(beside.close) / close]
    else:
        day = beside.bucket.date().toordinal()
        jumps = [close / float(beside.open), close / float(beside.close)]
    ratio = find_ratio(*np.log(jumps).tolist())
    if ratio and not any((split.symbol, split.day) == (symbol, day) for split in splits):
        jump = describe_jump(Split(symbol, day, ratio)).split(";")[0]
        raise PriceFileError(
            f"{jump}, between the days of the files and those that are stored; {advice}, or say that"
            f" there was none with --split {symbol}:{date.fromordinal(day)}:1:1"
        )


def _ticks(table: PriceTable, closes_before: dict[str, list[Candle]]) -> Iterator[Tick]:
    for code, symbol in enumerate(table.symbols):
        closes = [candle.close for candle in closes_before[symbol][-VOLATILITY_RETURNS:]]
        yield from build_ticks(table.select(table.rows_of(code)), symbol, closes)


def _load(
    service: EnhancedDatabaseService,
    table: PriceTable,
    closes_before: dict[str, list[Candle]],
    progress: Progress,
) -> int:
    ticks = _ticks(table, closes_before)
    done = 0
    with BatchWriter(at_once=PARALLEL_WRITES) as writes:
        while batch := list(islice(ticks, BATCH_ROWS)):
            writes.write(service.load_market_ticks, batch)
            progress("loading prices", done, len(table))
            done += len(batch)
    progress("loading prices", len(table), len(table))
    return writes.rows
