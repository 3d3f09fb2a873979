"""Reads price files: finds the files, detects their formats, checks all rows, and adjusts for splits.

Runs these steps in this order, and describes how the files were interpreted. Writes nothing:
`core.price_import.loading` loads the days that were read.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np

from core.bulk_load import Progress, ignore_progress
from core.errors import PriceFileError
from core.price_import.format_detection import SEPARATORS, FileFormat, Series, detect_format
from core.price_import.options import ReadingOptions, Split
from core.price_import.rows import FileReader, Tally
from core.price_import.sources import Source, open_sources, scan_text
from core.price_import.splits import adjust_splits, describe_jump, find_jumps
from core.price_import.table import (
    PriceTable,
    TableBuilder,
    describe_intervals,
    drop_repeats,
    is_shifted,
    join_days,
    shorten_list,
)
from core.price_import.vocabulary import PRICES

MAX_ROWS: Final = 20_000_000
"""The largest number of rows in all files together. It limits memory use to about 2 GB."""

SHOWN_FILES: Final = 10
SHOWN_ROWS: Final = 5
SHOWN_LINES: Final = 20


@dataclass
class PriceReading:
    """The result of reading price files.

    `table` has the daily prices. `files` maps the name of each file to its reader, and `currencies` maps each
    symbol to its currency. `left_out` has the names of files that are no tables. `splits` has the splits that
    the options name. `bars_a_day` is the largest number of rows that one symbol has for one day. `repeated`
    is the number of rows that were left out because they repeat another row.
    """

    table: PriceTable
    files: dict[str, FileReader]
    currencies: dict[str, str]
    left_out: Sequence[str]
    splits: tuple[Split, ...]
    notes: list[str]
    warnings: list[str]
    bars_a_day: int
    repeated: int

    def tally(self, kind: Literal["skipped", "invalid"]) -> Tally:
        """Count the skipped rows of all files, or the invalid rows of all files, by reason."""
        return _add_up(
            reader.skipped if kind == "skipped" else reader.invalid for reader in self.files.values()
        )

    def describe(self) -> Iterator[str]:
        """Yield lines of text that describe how the files were interpreted, and what their rows contain.

        Files with the same format are described together.
        """
        table = self.table
        alike: dict[tuple[str, ...], list[str]] = {}
        for name, reader in self.files.items():
            alike.setdefault(tuple(_describe_file(reader)), []).append(name)
        for lines, names in list(alike.items())[:SHOWN_FILES]:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"{names[0]}{more}: {lines[0]}"
            symbol = self.files[names[0]].format.symbol if len(names) == 1 else None
            for line in lines[1:]:
                yield f"  {line.replace('symbol: from', f'symbol: {symbol}, from') if symbol else line}"
        if len(alike) > SHOWN_FILES:
            yield f"and {len(alike) - SHOWN_FILES} more layouts"
        first, last = (date.fromordinal(int(day)) for day in (table["day"].min(), table["day"].max()))
        yield f"rows: {len(table)} days of {shorten_list(table.symbols, 3)}, from {first} to {last}"
        if self.bars_a_day > 1:
            yield f"several bars a day, up to {self.bars_a_day}: made into one, in order of time"
        if self.repeated:
            yield f"repeated rows that say the same: {self.repeated}"
        if self.left_out:
            yield f"left out, no tables: {shorten_list(self.left_out, 8)}"
        yield from (f"skipped: {line}" for line in self.tally("skipped").describe())
        yield from (f"INVALID, skipped: {line}" for line in self.tally("invalid").describe())
        for label, sentences in (("note", self.notes), ("warning", self.warnings)):
            yield from (f"{label}: {sentence}" for sentence in sentences[:SHOWN_LINES])
            if len(sentences) > SHOWN_LINES:
                yield f"{label}: and {len(sentences) - SHOWN_LINES} more"

    def describe_rows(self) -> Iterator[str]:
        """Yield the lines of a text table that shows the first rows as they would be loaded."""
        table = self.table
        yield f"{'symbol':12} {'day':10} " + " ".join(f"{name:>14}" for name in (*PRICES, "volume"))
        for row in range(min(SHOWN_ROWS, len(table))):
            values = [f"{table[name][row]:>14.10g}".replace("nan", "  -") for name in PRICES]
            day = date.fromordinal(int(table["day"][row]))
            volume = f"{table['volume'][row]:>14.0f}"
            yield f"{table.symbols[table['code'][row]]:12} {day} {' '.join(values)} {volume}"


def read_prices(
    paths: Path | str | Sequence[Path],
    options: ReadingOptions | None = None,
    *,
    progress: Progress = ignore_progress,
    now: datetime | None = None,
) -> PriceReading:
    """Read prices from files, folders and archives, compressed or not.

    `now` decides which days have closed already; the default is the current time. Raises `PriceFileError`
    when a file cannot be read, or has more than one possible format. An invalid row raises it too, except
    with `options.skip_invalid`; the message names the file and line. With `options.strict`, a warning raises
    it too.
    """
    options = options or ReadingOptions()
    files = _Files(options, now or datetime.now(UTC))
    with open_sources([Path(paths)] if isinstance(paths, Path | str) else paths) as (sources, left_out):
        size, done = sum(source.size for source in sources), 0
        for source in sources:
            files.read(source, partial(_add_progress, progress, done, size))
            done += source.size
    progress("reading prices", size, size)
    table = files.builder.build()
    if not len(table):
        tallies = [tally for reader in files.readers.values() for tally in (reader.skipped, reader.invalid)]
        reasons = _add_up(tallies).describe()
        raise PriceFileError("; ".join([f"{sources[0].name} has no valid row; nothing was loaded", *reasons]))
    table, repeated = drop_repeats(table)
    table, bars_a_day = join_days(table)
    if is_shifted(table) and options.timezone is None and any(one.is_zoned for one in files.readers.values()):
        raise PriceFileError(
            f"{sources[0].name}: its days run from Sunday to Thursday in UTC; say in which zone a day is with"
            " --timezone, such as Asia/Tokyo (UTC for days as they are)"
        )
    notes = adjust_splits(table, files.splits, options.splits)
    explained = {(split.symbol, split.day) for split in options.splits}
    warnings = describe_intervals(table) + [
        describe_jump(jump)
        for jump in find_jumps(table, [not reader.is_adjusted for reader in files.readers.values()])
        if (jump.symbol, jump.day) not in explained
    ]
    if options.strict and warnings:
        raise PriceFileError(f"{warnings[0]} (refused by --strict)")
    return PriceReading(
        table=table,
        files=files.readers,
        currencies=files.currencies,
        left_out=left_out,
        splits=options.splits,
        notes=notes,
        warnings=warnings,
        bars_a_day=bars_a_day,
        repeated=repeated,
    )


def _add_progress(progress: Progress, done: int, size: int, read: int) -> None:
    progress("reading prices", min(done + read, size), size)


class _Files:
    """Reads files one after the other, and collects their rows in one table."""

    def __init__(self, options: ReadingOptions, now: datetime) -> None:
        self.builder = TableBuilder()
        self.readers: dict[str, FileReader] = {}
        self.currencies: dict[str, str] = {}
        self.splits: list[Split] = []
        self._options, self._now = options, now

    def read(self, source: Source, progress: Callable[[int], None]) -> None:
        file_format = detect_format(source.name, scan_text(source, self._options.encoding), self._options)
        reader = self.readers[source.name] = FileReader(source, file_format, self._options, self._now)
        self.builder.files.append(source.name)
        codes: set[int] = set()
        for part in reader.read(self.builder.symbols, progress):
            codes.update(np.unique(part["code"]).tolist())
            self.builder.add(part)
            if self.builder.rows > MAX_ROWS:
                raise PriceFileError(f"{source.name}: more than {MAX_ROWS} rows in all; import them in parts")
        self.splits += reader.splits
        if currency := next(iter(reader.currencies), None) or file_format.currency:
            names = list(self.builder.symbols)
            for symbol in (names[code] for code in sorted(codes)):
                known = self.currencies.setdefault(symbol, currency)
                if known != currency:
                    raise PriceFileError(
                        f"{source.name}: {symbol} in {currency}, but another file has it in {known}"
                    )


def _add_up(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        for kind, problem in tally.first.items():
            total.add(problem, tally.counts[kind])
    return total


def _describe_file(reader: FileReader) -> Iterator[str]:
    file_format, text = reader.format, reader.format.text
    separator = SEPARATORS.get(text.separator, repr(text.separator))
    header = f"header on line {file_format.header_line}" if file_format.header_line else "no header"
    guess = " (a guess)" if text.encoding not in {"utf-8", "utf-8-sig", "utf-16", "utf-32"} else ""
    mark = "point" if file_format.decimal == "." else "comma"
    yield f"{text.encoding}{guess}, {separator}, {header}, decimal {mark}"
    preamble = text.skipped_lines - bool(file_format.header_line)
    if preamble:
        yield f"{preamble} more lines above the first row"
    # the symbol is left out here: files that differ only in their symbol then have equal descriptions
    yield f"symbol: from {file_format.symbol_from}"
    names = {meaning: file_format.describe(column) for meaning, column in file_format.shared.items()}
    time = f", time {names['time']}" if "time" in names else ""
    yield f"date: {names['date']} as {file_format.date_form}{time}{reader.describe_zone()}"
    for series in file_format.series[:3]:
        yield from _describe_series(file_format, series)
    if len(file_format.series) > 3:
        yield f"and {len(file_format.series) - 3} more symbols side by side"
    if currency := file_format.currency or next(iter(reader.currencies), None):
        yield f"currency: {currency}"
    ignored = [
        name for column, name in enumerate(file_format.names) if column not in file_format.used and name
    ]
    if ignored:
        yield f"not used: {shorten_list(ignored, 8)}"
    for remark, count in reader.remarks.items():
        yield f"{remark}{f' ({count} rows)' if count else ''}"


def _describe_series(file_format: FileFormat, series: Series) -> Iterator[str]:
    names = {meaning: file_format.describe(column) for meaning, column in series.columns.items()}
    prices = [f"{name} {names[name]}" for name in PRICES if name in names]
    label = f"prices of {series.symbol}" if series.symbol else "prices"
    yield f"{label}: {', '.join(prices)}{'; it stands for open, high and low' if len(prices) == 1 else ''}"
    if "adjusted" in names:
        yield f"adjusted by {names['adjusted']}"
    elif "split" in file_format.shared:
        column = file_format.describe(file_format.shared["split"])
        yield f"adjusted by the splits in {column}, if the prices are not adjusted already"
    else:
        yield "adjusted by nothing: prices as they are"
    yield f"volume: {names['volume']}" if "volume" in names else "volume: none, 0"
