"""Reads the rows of one price file: refuses invalid rows, and skips rows that are no trading day.

Owns the rules for such rows, and their messages. The rules for prices are in `bars`. A rule is checked for a
whole column at once; only rows that break a rule are processed one by one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow.compute as pc

from core.errors import PriceFileError
from core.price_import.bars import EVENT, Bars, RowCheck
from core.price_import.format_detection import FileFormat, Series
from core.price_import.numbers_and_dates import (
    Mask,
    Moments,
    equals,
    find_date_forms,
    matches,
    parse_days,
    parse_ratio,
    parse_times,
    to_array,
    to_column,
)
from core.price_import.options import ReadingOptions, Split
from core.price_import.sources import Batch, Source, read_batches
from core.price_import.table import Columns
from core.price_import.vocabulary import PRICES, parse_currency, parse_symbol
from core.simulation.trading_hours import last_closed_day

FIRST_DAY: Final = date(1900, 1, 1)
"""A row with an earlier date is invalid: the date is surely a typing error."""

_NOTE: Final = (
    r"(?i)^\W*(?:total|sum|average|avg|mean|median|count|min|max|std|source|note|data|downloaded|copyright)\b"
    r"|^[\s\"]*(?:#|//|;|\*|--|©)"
)
_SENTENCE: Final = r"^[^\d\W]\w*\s+\S+\s+\S"
_DAY_LIKE: Final = r"\d[-/.]\d\d?[-/.]\d|\d{8}"
_OTHER_FORM: Final = {"DD/MM/YYYY": "MM/DD/YYYY", "MM/DD/YYYY": "DD/MM/YYYY"}
_OPEN_QUOTE: Final = "a quote that is opened here is not closed on the line"


class RowProblem(NamedTuple):
    """A row that is not loaded. `kind` is the reason without values of the row, such as "date is invalid"."""

    file: str
    line: int
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass
class Tally:
    """For each `RowProblem.kind`, the number of rows that are not loaded, and the first of these rows."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, RowProblem] = field(default_factory=dict)

    def add(self, problem: RowProblem, count: int = 1) -> None:
        """Add `count` rows with the kind of `problem`; `problem` is the first of these rows."""
        self.first.setdefault(problem.kind, problem)
        self.counts[problem.kind] = self.counts.get(problem.kind, 0) + count

    def describe(self) -> Iterator[str]:
        """Yield a line of text for each kind, such as `3 x notes and totals, first prices.csv:9`."""
        for kind, count in self.counts.items():
            first = self.first[kind]
            reason = "" if first.reason == kind else f": {first.reason}"
            yield f"{count} x {kind}, first {first.file}:{first.line}{reason}"


class FileReader:
    """Reads one file whose format is known, and collects facts about its rows, such as the skipped rows.

    `currencies` maps each currency code to its text in the file and the line where it occurs first. `remarks`
    maps each kind of correction to the number of corrected rows. `is_adjusted` says that the file has
    a column of splits, or an adjusted close that differs from the close.
    """

    def __init__(
        self, source: Source, file_format: FileFormat, options: ReadingOptions, now: datetime
    ) -> None:
        self.skipped = Tally()
        self.invalid = Tally()
        self.splits: list[Split] = []
        self.currencies: dict[str, tuple[str, int]] = {}
        self.remarks: dict[str, int] = {}
        self.is_zoned = False
        self.is_adjusted = "split" in file_format.shared
        self.format = file_format
        self._source = source
        self._options = options
        self._last_day = last_closed_day(now).toordinal()
        self._today = now.astimezone(UTC).date().toordinal()
        self._codes: dict[str, int] = {}
        self._where = {self._find_column(name): wanted for name, wanted in options.where.items()}
        self._is_lean = (
            not file_format.header_line and file_format.date_form == "YYYYMMDD" and options.scale is None
        )
        if " or " in file_format.date_form:
            self.format = replace(file_format, date_form=self._decide_date_form())

    def read(self, symbols: dict[str, int], progress: Callable[[int], None]) -> Iterator[Columns]:
        """Yield the valid rows in batches, and add each new symbol and its code to `symbols`.

        `progress` is called with the number of bytes that were read so far. Raises `PriceFileError` for an
        invalid row, except with the option `skip_invalid`; the message names the file and line.
        """
        for batch, position in read_batches(
            self._source, self.format.text, {0, *self.format.used, *self._where}
        ):
            problems = list(self._find_wrong_widths(batch))
            for series in self.format.series if len(batch.lines) else ():
                columns, found = self._read_series(batch, series, symbols)
                problems += found
                yield columns
            for problem in sorted(problems, key=lambda problem: problem.line):
                if problem.line in batch.lines[batch.spans]:
                    # refused even with `skip_invalid`: an unclosed quote may contain many rows
                    raise self._fail(problem.line, _OPEN_QUOTE)
                if not self._options.skip_invalid:
                    raise self._fail(problem.line, problem.reason)
                self.invalid.add(problem)
            progress(position)
        if self._is_lean:
            raise PriceFileError(
                f"{self._source.name}: no header, and whole prices at days with a time, as LEAN writes them:"
                " times 10,000; say so with --scale 10000, or --scale 1 for prices as they are"
            )

    def describe_zone(self) -> str:
        """Return a text that says in which time zone the days are, or "" if no time zone is known."""
        if self._options.timezone is not None:
            return f", days of {self._options.timezone}"
        if self.format.date_form == "Unix time":
            return ", days of UTC"
        return ", days as written, each in its zone" if self.is_zoned else ""

    def _fail(self, line: int, reason: str) -> PriceFileError:
        return PriceFileError(f"{self._source.name}:{line}: {reason}")

    def _find_column(self, name: str) -> int:
        names = [text.casefold() for text in self.format.names]
        column = self.format.shared.get(name.casefold())
        if column is None and names.count(name.casefold()) != 1:
            columns = ", ".join(map(repr, self.format.names))
            raise self._fail(
                self.format.header_line or 1, f"--where {name}: no such column; the columns are {columns}"
            )
        return names.index(name.casefold()) if column is None else column

    def _decide_date_form(self) -> str:
        """Read all dates of the file, and return the only date format that fits all of them.

        Called if several formats fit the first rows. Raises `PriceFileError` if several formats fit all rows,
        or if no format does.
        """
        forms = self.format.date_form.split(" or ")
        column, first = self.format.shared["date"], ""
        for batch, _ in read_batches(self._source, self.format.text, {column}):
            texts = pc.unique(batch.columns[column]) if batch.columns else to_column(())
            first = first or next((text for text in texts.to_pylist() if find_date_forms([text])), "")
            are_days = {form: parse_days(texts, form).days > 0 for form in forms}
            is_any = np.logical_or.reduce(list(are_days.values()))
            fitting = [form for form in forms if (are_days[form] == is_any).all()]
            if len(fitting) == 1:
                return fitting[0]
            if not fitting:
                raise self._fail(
                    int(batch.lines[0]),
                    f"from here on days are {' on some lines and '.join(forms)} on others",
                )
            forms = fitting
        raise self._fail(
            self.format.text.skipped_lines + 1,
            f"days such as {first!r} can be {' or '.join(forms)}; say which with --date-format {forms[0]}",
        )

    def _find_wrong_widths(self, batch: Batch) -> Iterator[RowProblem]:
        """Yield a problem for each line with a wrong number of fields.

        Lines that are notes or totals are not yielded, but counted as skipped.
        """
        wanted = "the header has" if self.format.header_line else "--columns names"
        for line, count, text in batch.wrong_width:
            plain = text.replace('"', "").strip(" \t\r\n" + self.format.text.separator)
            if "\n" in text.strip():
                raise self._fail(line, _OPEN_QUOTE)
            is_note = re.search(_NOTE, plain) and (count == 1 or not re.search(_DAY_LIKE, plain))
            if is_note or re.search(EVENT, plain) or (count == 1 and re.search(_SENTENCE, plain)):
                self.skipped.add(RowProblem(self._source.name, line, "notes and totals", repr(plain[:60])))
            elif plain:
                reason = f"{count} fields where {wanted} {self.format.text.width}"
                yield RowProblem(self._source.name, line, "wrong number of fields", reason)

    def _read_series(
        self, batch: Batch, series: Series, symbols: dict[str, int]
    ) -> tuple[Columns, list[RowProblem]]:
        """Return the valid rows with the prices of one series, and a problem for each invalid row."""
        columns = {**series.columns, **self.format.shared}
        texts = {meaning: batch.columns[column] for meaning, column in columns.items()}
        moments = self._parse_moments(batch, texts)
        bars = Bars(texts, len(batch.lines), self.format.decimal, self._options.scale or 1.0)
        skipped = self._skip_rows(batch, moments, bars)
        codes = self._parse_symbols(batch, series, skipped, symbols)
        checks = [*self._check_keys(codes, moments), *bars.check()]
        broken = np.logical_or.reduce([check.broken for check in checks]) & ~skipped
        self._refuse_two_date_forms(batch, texts["date"], broken & (moments.days == 0))
        problems = []
        for row in np.flatnonzero(broken).tolist():
            check = next(check for check in checks if check.broken[row])
            reason = check.reason.format_map({name: column[row].as_py() for name, column in texts.items()})
            problems.append(RowProblem(self._source.name, int(batch.lines[row]), check.kind, reason))
        valid = ~broken & ~skipped
        self._collect_facts(batch, texts, bars, moments, valid)
        if "split" in texts and bars.adjusted is None:
            ratios = np.array([parse_ratio(text) for text in texts["split"].to_pylist()])
            names = [*symbols]
            for row in np.flatnonzero((ratios > 0) & (ratios != 1) & valid).tolist():
                self.splits.append(Split(names[codes[row]], int(moments.days[row]), float(ratios[row])))
        values: Columns = {"code": codes, "day": moments.days, "second": moments.seconds}
        values |= zip(PRICES, bars.stored, strict=True)
        values |= {"volume": np.nan_to_num(bars.volume), "line": batch.lines.astype(np.int32)}
        return {name: column[valid] for name, column in values.items()}, problems

    def _parse_moments(self, batch: Batch, texts: dict[str, Any]) -> Moments:
        unique = pc.dictionary_encode(texts["date"])
        moments, places = parse_days(unique.dictionary, self.format.date_form), to_array(unique.indices)
        if self._options.timezone is not None:
            local = np.flatnonzero(np.isnan(moments.offsets) & (moments.days > 0))
            if len(local):
                text = unique.dictionary[int(local[0])].as_py()
                line = int(batch.lines[np.flatnonzero(places == local[0])[0]])
                raise self._fail(
                    line, f"--timezone: {text!r} names no zone; its day is that which is written"
                )
            moments = moments.move_to(self._options.timezone)
        moments = moments[places]
        if "time" in texts:
            seconds, is_time = parse_times(texts["time"])
            moments = replace(moments, seconds=np.where(is_time, seconds, -1).astype(np.int32))
        return moments

    def _skip_rows(self, batch: Batch, moments: Moments, bars: Bars) -> Mask:
        """Return a mask of the rows to skip, and add these rows to `self.skipped`.

        They are rows that are no trading day, and rows that --where leaves out.
        """
        names, date_column = self.format.names, self.format.shared["date"]
        dates, is_day = batch.columns[date_column], moments.days > 0
        is_note = matches(batch.columns[0], _NOTE) | matches(dates, _NOTE)
        skipped: Mask = np.logical_and.reduce([equals(column, "") for column in batch.columns.values()])
        for column, wanted in self._where.items():
            is_other = ~to_array(pc.is_in(batch.columns[column], value_set=to_column(wanted)))
            rows = np.flatnonzero(is_other & ~skipped)
            reason = (
                f"{names[column]} is {batch.columns[column][int(rows[0])].as_py()!r}" if len(rows) else ""
            )
            skipped = self._skip("rows that --where leaves out", is_other, skipped, batch, reason)
        kinds = {
            "notes and totals": (~is_day & is_note & ~matches(dates, r"\d")) | (is_day & bars.are_events()),
            "the header again": ~is_day & equals(dates, names[date_column]),
            "rows without prices": is_day & bars.are_without_trade(),
            "rows of today, which has not closed": (moments.days > self._last_day)
            & (moments.days == self._today),
        }
        for kind, found in kinds.items():
            skipped = self._skip(kind, found, skipped, batch, kind)
        return skipped

    def _skip(self, kind: str, found: Mask, skipped: Mask, batch: Batch, reason: str) -> Mask:
        rows = np.flatnonzero(found & ~skipped)
        if len(rows):
            self.skipped.add(
                RowProblem(self._source.name, int(batch.lines[rows[0]]), kind, reason), len(rows)
            )
        return np.asarray(skipped | found, np.bool_)

    def _parse_symbols(self, batch: Batch, series: Series, skipped: Mask, symbols: dict[str, int]) -> Any:
        """Return for each row the code of its symbol, or -1 if its text is not a symbol.

        `symbols` maps symbols to codes. Each new symbol is added to it.
        """
        column = self.format.shared.get("symbol")
        given = series.symbol or self.format.symbol
        if column is None:
            return np.full(len(skipped), symbols.setdefault(given or "", len(symbols)), np.int32)
        unique = pc.dictionary_encode(batch.columns[column])
        places = to_array(unique.indices)
        texts, used = unique.dictionary.to_pylist(), np.unique(places[~skipped]).tolist()
        for text in (texts[place] for place in used if texts[place] not in self._codes):
            symbol = given or parse_symbol(text)
            if given and self._codes:
                both = f"{next(iter(self._codes))!r} and {text!r}"
                raise self._fail(
                    int(batch.lines[0]),
                    f"{given} is one symbol, but the file holds {both}; say which column"
                    " tells them apart with --columns symbol=NAME",
                )
            self._codes[text] = -1 if symbol is None else symbols.setdefault(symbol, len(symbols))
        return np.array([self._codes.get(text, -1) for text in texts], np.int32)[places]

    def _check_keys(self, codes: Any, moments: Moments) -> Iterator[RowCheck]:
        days = moments.days
        yield RowCheck(
            "symbol is invalid",
            codes == -1,
            "symbol {symbol!r} is not 1 to 32 letters, digits and marks without spaces; choose the column"
            " with --columns symbol=NAME, or give --symbol",
        )
        reason = f"date {{date!r}} is not a day as {self.format.date_form}"
        yield RowCheck("date is invalid", days == 0, reason)
        yield RowCheck("time is invalid", moments.seconds < 0, "time {time!r} is not a time of day")
        is_old = (days > 0) & (days < FIRST_DAY.toordinal())
        yield RowCheck("date is too old", is_old, f"date {{date!r}} is before {FIRST_DAY}")
        is_early = days > self._last_day
        reason = "date {date!r} is no trading day that has closed yet"
        yield RowCheck("date is in the future", is_early, reason)

    def _refuse_two_date_forms(self, batch: Batch, dates: Any, broken: Mask) -> None:
        """Raise `PriceFileError` if an invalid date would be valid with day and month exchanged."""
        form = self.format.date_form
        if form in _OTHER_FORM and broken.any():
            rows = np.flatnonzero(broken & (parse_days(dates, _OTHER_FORM[form]).days > 0)).tolist()
            if rows:
                reason = f"date {dates[rows[0]].as_py()!r} is {_OTHER_FORM[form]}, but other lines are {form}"
                raise self._fail(int(batch.lines[rows[0]]), reason)

    def _collect_facts(
        self, batch: Batch, texts: dict[str, Any], bars: Bars, moments: Moments, valid: Mask
    ) -> None:
        """Record facts about the file, such as its currencies and the numbers of corrected rows."""
        self.is_zoned = self.is_zoned or bool((valid & ~np.isnan(moments.offsets)).any())
        if bars.adjusted is not None:
            self.is_adjusted = self.is_adjusted or bool((bars.adjusted != bars.prices["close"])[valid].any())
        for kind, found in bars.list_corrections():
            if count := int((found & valid).sum()):
                self.remarks[kind] = self.remarks.get(kind, 0) + count
        if self._is_lean:
            is_timed = matches(texts["date"], r"\d{8} \d\d:\d\d")
            self._is_lean = bool((is_timed & bars.are_whole())[valid].all())
        for text in filter(None, pc.unique(texts["currency"]).to_pylist() if "currency" in texts else ()):
            rows = np.flatnonzero(valid & equals(texts["currency"], text))
            if len(rows):
                self._record_currency(text, int(batch.lines[rows[0]]))

    def _record_currency(self, text: str, line: int) -> None:
        currency = parse_currency(text)
        if currency is None:
            self.remarks[f"currency {text!r} is no code, and not stored"] = 0
            return
        self.currencies.setdefault(currency, (text, line))
        for other, (written, first) in list(self.currencies.items())[:-1]:
            name = self.format.names[self.format.shared["currency"]]
            raise self._fail(
                line,
                f"prices in {currency}, but in {other} on line {first}; a file has one currency:"
                f" choose with --where {name}={written}",
            )
