"""Turns the lines of one price file into rows of checked, adjusted numbers.

Owns what a valid row is, and what is no trading day and is skipped. Works by column: a row is
looked at on its own only when a column holds something wrong.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow.compute as pc

from core.errors import PriceFileError
from core.simulation.price_bars import EVENT, Bars, Check
from core.simulation.price_layout import Group, Layout
from core.simulation.price_lines import Batch, read_batches
from core.simulation.price_names import PRICES, read_currency, to_symbol
from core.simulation.price_options import ReadingOptions, Split
from core.simulation.price_source import Source
from core.simulation.price_table import Columns
from core.simulation.price_values import (
    Mask,
    Stamps,
    equals,
    find_forms,
    matches,
    parse_days,
    parse_times,
    to_array,
    to_column,
)

FIRST_DAY: Final = date(1900, 1, 1)
"""Older days are typing errors; it also keeps days some way from the first that a date can have."""

_NOTE: Final = (
    r"(?i)^\W*(?:total|sum|average|avg|mean|median|count|min|max|std|source|note|data|downloaded|copyright)\b"
    r"|^[\s\"]*(?:#|//|;|\*|--|©)"
)
_SENTENCE: Final = r"^[^\d\W]\w*\s+\S+\s+\S"
_DAY_LIKE: Final = r"\d[-/.]\d\d?[-/.]\d|\d{8}"
_SPLIT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?::|/|-?\s?for\s?-?)\s*(\d+(?:\.\d+)?)")


class Problem(NamedTuple):
    """A row that was not loaded: its file, its line, and why; `kind` is the reason without its figures."""

    file: str
    line: int
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass
class Tally:
    """Rows that were left out, by kind: how many, and the first of each."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, Problem] = field(default_factory=dict)

    def add(self, problem: Problem, count: int = 1) -> None:
        """Count rows of one kind."""
        self.first.setdefault(problem.kind, problem)
        self.counts[problem.kind] = self.counts.get(problem.kind, 0) + count

    def describe(self) -> Iterator[str]:
        """Yield a line for each kind."""
        for kind, count in self.counts.items():
            first = self.first[kind]
            reason = "" if first.reason == kind else f": {first.reason}"
            yield f"{count} x {kind}, first {first.file}:{first.line}{reason}"

    def total(self) -> int:
        """Return how many rows there are of all kinds."""
        return sum(self.counts.values())


class FileReader:
    """Reads one file of a known layout; knows afterwards what was found in it and what was skipped.

    `currencies` are those that its rows name, each as it is written and its first line; `remarks`
    count what was completed or rounded; `is_adjusted` says that it knows of splits and dividends.
    """

    def __init__(
        self,
        source: Source,
        layout: Layout,
        options: ReadingOptions,
        *,
        last_day: date,
        today: date,
        skip_invalid: bool,
    ) -> None:
        self.skipped = Tally()
        self.invalid = Tally()
        self.splits: list[Split] = []
        self.currencies: dict[str, tuple[str, int]] = {}
        self.remarks: dict[str, int] = {}
        self.is_zoned = False
        self.is_adjusted = "split" in layout.shared
        self.layout = layout
        self._source = source
        self._options = options
        self._last_day, self._today = last_day.toordinal(), today.toordinal()
        self._skip_invalid = skip_invalid
        self._codes: dict[str, int] = {}
        self._where = {self._find_column(name): wanted for name, wanted in options.where.items()}
        self._is_lean = not layout.header_line and layout.date_form == "YYYYMMDD" and options.scale is None
        self._used = {0, *layout.shared.values(), *self._where}
        self._used.update(place for group in layout.groups for place in group.places.values())
        if " or " in layout.date_form:
            self.layout = replace(layout, date_form=self._decide_form())

    def read(self, symbols: dict[str, int], progress: Callable[[int], None]) -> Iterator[Columns]:
        """Yield the valid rows; `symbols` numbers the symbols and learns new ones.

        Raises `PriceFileError`, naming file and line, for a row that is malformed unless those are skipped.
        """
        for batch, position in read_batches(self._source, self.layout, self._used):
            problems = self._check_misfits(batch)
            for group in self.layout.groups if len(batch.lines) else ():
                columns, found = self._read_group(batch, group, symbols)
                problems += found
                yield columns
            for problem in sorted(problems, key=lambda problem: problem.line):
                self._refuse(problem, batch)
            progress(position)
        if self._is_lean:
            raise PriceFileError(
                f"{self._source.name}: no header, and whole prices at days with a time, as LEAN writes them:"
                " times 10,000; say so with --scale 10000, or --scale 1 for prices as they are"
            )

    def describe_zone(self) -> str:
        """Say in which zone a day of the file is, "" when its times name none."""
        if self._options.timezone is not None:
            return f", days of {self._options.timezone}"
        if self.layout.date_form == "Unix time":
            return ", days of UTC"
        return ", days as written, each in its zone" if self.is_zoned else ""

    def fail(self, line: int, reason: str) -> PriceFileError:
        """Return the error for one line of this file."""
        return PriceFileError(f"{self._source.name}:{line}: {reason}")

    def _find_column(self, name: str) -> int:
        if name.casefold() in self.layout.shared:
            return self.layout.shared[name.casefold()]
        places = [n for n, text in enumerate(self.layout.names) if text.casefold() == name.casefold()]
        if len(places) != 1:
            columns = ", ".join(map(repr, self.layout.names))
            raise self.fail(
                self.layout.header_line or 1, f"--where {name}: no such column; the columns are {columns}"
            )
        return places[0]

    def _decide_form(self) -> str:
        """Decide the form of days that the first lines leave open by all lines of the file."""
        forms = self.layout.date_form.split(" or ")
        place, first = self.layout.shared["date"], ""
        for batch, _ in read_batches(self._source, self.layout, {place}):
            texts = pc.unique(batch.columns[place]) if batch.columns else to_column(())
            first = first or next((text for text in texts.to_pylist() if find_forms([text])), "")
            is_day = {form: parse_days(texts, form).days > 0 for form in forms}
            any_day = np.logical_or.reduce(list(is_day.values()))
            fitting = [form for form in forms if (is_day[form] == any_day).all()]
            if len(fitting) == 1:
                return fitting[0]
            if not fitting:
                line = int(batch.lines[0])
                raise self.fail(line, f"from here on days are {' on some lines and '.join(forms)} on others")
            forms = fitting
        raise self.fail(
            self.layout.skipped_lines + 1,
            f"days such as {first!r} can be {' or '.join(forms)}; say which with --date-format {forms[0]}",
        )

    def _check_misfits(self, batch: Batch) -> list[Problem]:
        """Skip notes and totals of people; return the other lines with another number of fields."""
        problems = []
        width = len(self.layout.names)
        wanted = "the header has" if self.layout.header_line else "--columns names"
        for line, count, text in batch.misfits:
            plain = text.replace('"', "").strip(" \t\r\n" + self.layout.separator)
            if "\n" in text.strip():
                raise self.fail(line, "a quote that is opened here is not closed on the line")
            is_note = re.search(_NOTE, plain) and (count == 1 or not re.search(_DAY_LIKE, plain))
            if is_note or re.search(EVENT, plain) or (count == 1 and re.search(_SENTENCE, plain)):
                self.skipped.add(Problem(self._source.name, line, "notes and totals", repr(plain[:60])))
            elif plain:
                reason = f"{count} fields where {wanted} {width}"
                problems.append(Problem(self._source.name, line, "another number of fields", reason))
        return problems

    def _refuse(self, problem: Problem, batch: Batch) -> None:
        if problem.line in batch.lines[batch.spans]:
            # never skipped: how many rows the quote swallowed is not known
            raise self.fail(problem.line, "a quote that is opened here is not closed on the line")
        if not self._skip_invalid:
            raise self.fail(problem.line, problem.reason)
        self.invalid.add(problem)

    def _read_group(
        self, batch: Batch, group: Group, symbols: dict[str, int]
    ) -> tuple[Columns, list[Problem]]:
        """Return the valid rows of one series of prices, and the problem of each other row."""
        stamps = self._read_stamps(batch)
        bars = Bars.read(batch, group, self.layout.decimal, self._options.scale or 1.0)
        skipped = self._skip_rows(batch, stamps, bars)
        codes = self._read_symbols(batch, group, skipped, symbols)
        checks = [*self._check_keys(codes, stamps), *bars.checks()]
        broken = np.logical_or.reduce([check.broken for check in checks]) & ~skipped
        self._refuse_two_forms(batch, broken & (stamps.days == 0))
        texts = {**bars.texts, **{name: batch.columns[place] for name, place in self.layout.shared.items()}}
        problems = []
        for row in np.flatnonzero(broken).tolist():
            check = next(check for check in checks if check.broken[row])
            reason = check.reason.format_map({name: column[row].as_py() for name, column in texts.items()})
            problems.append(Problem(self._source.name, int(batch.lines[row]), check.kind, reason))
        valid = ~broken & ~skipped
        self._note(batch, bars, stamps, valid)
        if "split" in texts and bars.adjusted is None:
            names = np.array([*symbols, ""])[codes]
            self._note_splits(texts["split"].to_pylist(), names, stamps.days, valid)
        columns = {"code": codes, "day": stamps.days, "second": stamps.seconds}
        columns |= dict(zip(PRICES, bars.stored, strict=True))
        columns["volume"] = np.nan_to_num(bars.volume)
        columns["line"] = batch.lines.astype(np.int32)
        return {name: column[valid] for name, column in columns.items()}, problems

    def _read_stamps(self, batch: Batch) -> Stamps:
        shared = self.layout.shared
        unique = pc.dictionary_encode(batch.columns[shared["date"]])
        stamps, places = parse_days(unique.dictionary, self.layout.date_form), to_array(unique.indices)
        if self._options.timezone is not None:
            local = np.flatnonzero(np.isnan(stamps.offsets) & (stamps.days > 0))
            if len(local):
                text = unique.dictionary[int(local[0])].as_py()
                line = int(batch.lines[np.flatnonzero(places == local[0])[0]])
                raise self.fail(line, f"--timezone: {text!r} names no zone; its day is that which is written")
            stamps = stamps.move_to(self._options.timezone)
        stamps = stamps[places]
        if "time" in shared:
            seconds, is_time = parse_times(batch.columns[shared["time"]])
            stamps = replace(stamps, seconds=np.where(is_time, seconds, -1).astype(np.int32))
        return stamps

    def _skip_rows(self, batch: Batch, stamps: Stamps, bars: Bars) -> Mask:
        """Return which rows are no trading day, and count them by what they are."""
        dates = batch.columns[self.layout.shared["date"]]
        skipped = np.logical_and.reduce([equals(column, "") for column in batch.columns.values()])
        is_day = stamps.days > 0
        is_note = matches(batch.columns[0], _NOTE) | matches(dates, _NOTE)
        for place, wanted in self._where.items():
            left_out = ~to_array(pc.is_in(batch.columns[place], value_set=to_column(wanted)))
            skipped = self._skip("rows that --where leaves out", left_out, skipped, batch, place)
        kinds = {
            "notes and totals": (~is_day & is_note & ~matches(dates, r"\d")) | (is_day & bars.are_events()),
            "the header again": ~is_day & equals(dates, self.layout.names[self.layout.shared["date"]]),
            "rows without prices": is_day & bars.are_without_trade(),
            "rows of today, which has not closed": (stamps.days > self._last_day)
            & (stamps.days == self._today),
        }
        for kind, found in kinds.items():
            skipped = self._skip(kind, found, skipped, batch)
        return np.asarray(skipped, np.bool_)

    def _skip(self, kind: str, found: Mask, skipped: Mask, batch: Batch, place: int | None = None) -> Mask:
        """Count rows that were not skipped yet; `place` is the column that says why."""
        rows = np.flatnonzero(found & ~skipped)
        if len(rows):
            first = int(rows[0])
            reason = (
                kind
                if place is None
                else f"{self.layout.names[place]} is {batch.columns[place][first].as_py()!r}"
            )
            self.skipped.add(Problem(self._source.name, int(batch.lines[first]), kind, reason), len(rows))
        return np.asarray(skipped | found, np.bool_)

    def _read_symbols(self, batch: Batch, group: Group, skipped: Mask, symbols: dict[str, int]) -> Any:
        """Return the code of each row's symbol, -1 for what is none."""
        place = self.layout.shared.get("symbol")
        given = group.symbol or self.layout.symbol
        if place is None:
            return np.full(len(skipped), symbols.setdefault(given or "", len(symbols)), np.int32)
        unique = pc.dictionary_encode(batch.columns[place])
        places = to_array(unique.indices)
        texts, used = unique.dictionary.to_pylist(), np.unique(places[~skipped]).tolist()
        for text in (texts[place] for place in used if texts[place] not in self._codes):
            symbol = given or to_symbol(text)
            if given and self._codes:
                both = f"{next(iter(self._codes))!r} and {text!r}"
                raise self.fail(
                    int(batch.lines[0]),
                    f"{given} is one symbol, but the file holds {both}; say which column"
                    " tells them apart with --columns symbol=NAME",
                )
            self._codes[text] = -1 if symbol is None else symbols.setdefault(symbol, len(symbols))
        return np.array([self._codes.get(text, -1) for text in texts], np.int32)[places]

    def _check_keys(self, codes: Any, stamps: Stamps) -> Iterator[Check]:
        days = stamps.days
        yield Check(
            "symbol is none",
            codes == -1,
            "symbol {symbol!r} is not 1 to 32 letters, digits and marks without spaces; choose the column"
            " with --columns symbol=NAME, or give --symbol",
        )
        yield Check("date is no day", days == 0, f"date {{date!r}} is not a day as {self.layout.date_form}")
        yield Check("time is none", stamps.seconds < 0, "time {time!r} is not a time of day")
        is_old = (days > 0) & (days < FIRST_DAY.toordinal())
        yield Check("date is too old", is_old, f"date {{date!r}} is before {FIRST_DAY}")
        yield Check(
            "date is in the future",
            days > self._last_day,
            "date {date!r} is no trading day that has closed yet",
        )

    def _refuse_two_forms(self, batch: Batch, broken: Mask) -> None:
        """Refuse a file whose days are DD/MM on one line and MM/DD on another: neither can be trusted."""
        others = {"DD/MM/YYYY": "MM/DD/YYYY", "MM/DD/YYYY": "DD/MM/YYYY"}
        other = others.get(self.layout.date_form)
        if other is None or not broken.any():
            return
        dates = batch.columns[self.layout.shared["date"]]
        rows = np.flatnonzero(broken & (parse_days(dates, other).days > 0))
        if len(rows):
            text = dates[int(rows[0])].as_py()
            raise self.fail(
                int(batch.lines[rows[0]]),
                f"date {text!r} is {other}, but other lines are {self.layout.date_form}",
            )

    def _note(self, batch: Batch, bars: Bars, stamps: Stamps, valid: Mask) -> None:
        """Remember what is no row: zones, currencies, and what was mended."""
        self.is_zoned = self.is_zoned or bool((valid & ~np.isnan(stamps.offsets)).any())
        if bars.adjusted is not None:
            self.is_adjusted = self.is_adjusted or bool((bars.adjusted != bars.prices[3])[valid].any())
        for kind, found in bars.list_mended():
            if count := int((found & valid).sum()):
                self.remarks[kind] = self.remarks.get(kind, 0) + count
        if self._is_lean:
            is_timed = matches(batch.columns[self.layout.shared["date"]], r"\d{8} \d\d:\d\d")
            self._is_lean = bool((is_timed & bars.are_whole())[valid].all())
        if "currency" in self.layout.shared:
            self._note_currencies(batch, batch.columns[self.layout.shared["currency"]], valid)

    def _note_currencies(self, batch: Batch, texts: Any, valid: Mask) -> None:
        for text in filter(None, pc.unique(texts).to_pylist()):
            rows = np.flatnonzero(valid & equals(texts, text))
            currency = read_currency(text)
            if not len(rows) or currency in self.currencies:
                continue
            if currency is None:
                self.remarks[f"currency {text!r} is no code, and not stored"] = 0
                continue
            for other, (written, line) in self.currencies.items():
                name = self.layout.names[self.layout.shared["currency"]]
                raise self.fail(
                    int(batch.lines[rows[0]]),
                    f"prices in {currency}, but in {other} on line {line}; a file has one currency:"
                    f" choose with --where {name}={written}",
                )
            self.currencies[currency] = (text, int(batch.lines[rows[0]]))

    def _note_splits(self, texts: list[str], names: Any, days: Any, valid: Mask) -> None:
        ratios = np.array([_read_ratio(text) for text in texts])
        for row in np.flatnonzero((ratios > 0) & (ratios != 1) & valid).tolist():
            self.splits.append(Split(str(names[row]), int(days[row]), float(ratios[row])))


def _read_ratio(text: str) -> float:
    """Return how many shares one became: 4 of "4", "4.0", "4:1" and "4-for-1"; 1 of what says nothing."""
    if found := _SPLIT.fullmatch(text):
        return float(found[1]) / float(found[2]) if float(found[2]) else 1.0
    try:
        return float(text)
    except ValueError:
        return 1.0
