"""Detects the format of a price file: separator, header, columns, symbol, date format and decimal mark.

Uses only the first lines of a file. Raises `PriceFileError` for an ambiguous file; the message names the
option with which the user can choose.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from core.errors import PriceFileError
from core.price_import.numbers_and_dates import find_date_forms, find_decimal, parse_times, to_column
from core.price_import.options import ReadingOptions
from core.price_import.sources import Text, TextFormat
from core.price_import.vocabulary import (
    PRICES,
    Name,
    guess_symbol,
    is_price,
    parse_name,
    parse_substitute,
    parse_symbol,
)

SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_ENCODINGS: Final = ("gb18030", "cp932", "cp949", "cp1251")
"""The encodings to try, in this order, if a file is not UTF-8 and Windows-1252 gives no known header."""

_HEADER_LINES: Final = 60
_SAMPLE_ROWS: Final = 200
_NAMED_BY_OPTION: Final = -1
"""The rank of a column that --columns names. It is below all other ranks, and the lowest rank is chosen."""

_UNDECIDED: Final = -1
"""The number of the volume column while several columns are possible; `choose_volume` replaces it."""


@dataclass(frozen=True)
class Series:
    """The columns with the prices of one symbol; `symbol` is None if the header does not name the symbol.

    `columns` has the number of each column by the column's meaning, such as "close".
    """

    symbol: str | None
    columns: Mapping[str, int]


@dataclass(frozen=True)
class FileFormat:
    """The format of a file. Columns are numbered from 0, lines from 1; `header_line` is 0 without a header.

    `series` has the price columns. `shared` has the numbers of the other columns by meaning, such as "date".
    `symbol` is the symbol of a file without a symbol column. `symbol_from` says where symbols come from, such
    as "the file's name". If several date formats fit the first rows, `date_form` has all of them, joined by
    " or ".
    """

    text: TextFormat
    header_line: int
    names: tuple[str, ...]
    shared: Mapping[str, int]
    series: tuple[Series, ...]
    symbol: str | None
    symbol_from: str
    date_form: str
    decimal: str
    currency: str | None

    @property
    def used(self) -> set[int]:
        """The numbers of all columns in `shared` and `series`."""
        return {*self.shared.values(), *(n for series in self.series for n in series.columns.values())}

    def describe(self, column: int) -> str:
        """Return the name of a column for messages: its name in the header, or its number."""
        return repr(self.names[column]) if self.names[column] else f"column {column + 1}, without a name,"


def detect_format(name: str, text: Text, options: ReadingOptions) -> FileFormat:
    """Detect the format of a file from its first lines; `name` is the file's name.

    Raises `PriceFileError` when the file has no price columns, or when several formats are possible.
    """
    header = _find_header(name, text, options)
    columns = _Columns(name, header, options)
    series = columns.find_series()
    symbol, symbol_from = columns.find_symbol(series)
    return FileFormat(
        TextFormat(header.encoding, header.separator, header.last_line, len(header.names), text.has_quotes),
        header.line,
        tuple(header.names),
        columns.shared,
        tuple(columns.choose_volume(one, symbol) for one in series),
        symbol,
        symbol_from,
        date_form=columns.find_date_form(),
        decimal=columns.find_decimal(series),
        currency=columns.find_currency(series),
    )


class _Record(NamedTuple):
    line: int
    fields: list[str]


@dataclass(frozen=True)
class _Header:
    """The header and the first rows of a file; `last_line` is the number of the line above the first row.

    `names` has "" for a column without a name. `symbols` has the symbol of each column, if a second header
    line names them. `has_index` says that the first column has the dates, whatever its name is. `rows` has
    the rows with as many fields as `names`.
    """

    encoding: str
    separator: str
    line: int
    last_line: int
    names: list[str]
    symbols: tuple[str, ...] = ()
    has_index: bool = False
    rows: Sequence[list[str]] = ()

    def cells(self, column: int) -> list[str]:
        """Return the cells of a column in the first rows; empty cells are left out."""
        return [row[column] for row in self.rows if row[column]]


def _find_header(name: str, text: Text, options: ReadingOptions) -> _Header:
    """Try encodings and separators, the likeliest first, and return the first header that is found.

    Raises `PriceFileError` when there is no header.
    """
    for encoding in (text.encoding, *(_ENCODINGS if text.is_guess else ())):
        lines = re.split(r"\r\n|\n|\r", text.decode(encoding))[: _HEADER_LINES + _SAMPLE_ROWS]
        given = re.fullmatch(r"\ufeff?\"?sep=(.)\"?", lines[0].strip(" "), re.IGNORECASE)
        head = "".join(lines[:20])
        for separator in [given[1]] if given else sorted(SEPARATORS, key=head.count, reverse=True):
            records = list(_split(lines, separator))
            for place, (line, fields) in enumerate(records[:_HEADER_LINES]):
                if options.positions and len(fields) == len(options.positions):
                    names = [f"field {n + 1}" for n in range(len(fields))]
                    header = _Header(encoding, separator, 0, line - 1, names)
                    return _add_rows(header, records[place:])
                if not options.positions and _is_header(fields, options):
                    return _add_second_lines(_Header(encoding, separator, line, line, fields), records, place)
    first = next(line.strip() for line in re.split(r"[\r\n]+", text.decode(text.encoding)) if line.strip())
    if options.positions:
        raise PriceFileError(
            f"{name}:1: no line has the {len(options.positions)} fields of --columns;"
            f" the first is {first[:120]!r} (give '-' for a column that is not needed)"
        )
    raise PriceFileError(
        f"{name}:1: no header with a date and a close among the first lines; the first is {first[:120]!r}."
        " Name the columns with --columns date,open,high,low,close,volume when there is none,"
        " or with --columns close=NAME one that has another name"
    )


def _split(lines: Sequence[str], separator: str) -> Iterator[_Record]:
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator)
    before = 0
    try:
        for fields in reader:
            plain = [value.strip().removeprefix("\ufeff").strip() for value in fields]
            if any(plain):
                yield _Record(before + 1, plain)
            before = reader.line_num
    except csv.Error:  # ignored here: `read_batches` reads all rows later, and reports this error
        return


def _is_header(fields: Sequence[str], options: ReadingOptions) -> bool:
    meanings = {found.meaning for found in map(parse_name, fields) if found}
    meanings |= {meaning for meaning, name in options.columns.items() if name in fields}
    if not meanings & {"close", "adjusted"} or len(fields) < 2:
        return False
    is_dated = not fields[0] or bool(meanings & {"date", "time"})
    return len(meanings) > 2 or (is_dated and (len(meanings) == 2 or len(fields) == 2))


def _add_second_lines(header: _Header, records: list[_Record], place: int) -> _Header:
    """Return the header, completed with the lines above and below it. Also add the first rows to it.

    In files of yfinance, a line above or below the header has the symbols of the columns, and another line
    below has the name of the date column. `place` is the index of the header in `records`.
    """
    names, below = header.names, 0
    symbols: tuple[str, ...] = ()
    for other in (place + 1, place - 1):
        if 0 <= other < len(records) and _are_symbols_of(records[other].fields, names):
            symbols, below = tuple(records[other].fields), int(other > place)
            break
    index = records[place + 1 + below].fields if place + 1 + below < len(records) else []
    is_named = len(index) == len(names) and not any(index[1:]) and not re.search(r"\d", index[0])
    if symbols or is_named:
        names = [index[0] if is_named else "", *names[1:]]
        header = replace(header, names=names, symbols=symbols, has_index=True)
    rows = records[place + 1 + below + is_named :]
    return _add_rows(replace(header, last_line=rows[0].line - 1 if rows else records[-1].line), rows)


def _are_symbols_of(fields: list[str], names: list[str]) -> bool:
    """Return whether a line has a symbol in every price column. The first column is not checked."""
    if len(fields) != len(names):
        return False
    beside = [value for value, name in zip(fields[1:], names[1:], strict=True) if is_price(parse_name(name))]
    # require a letter: a price such as $1.50 is also a valid symbol
    return bool(beside) and all(parse_symbol(value) and re.search(r"[^\W\d_]", value) for value in beside)


def _add_rows(header: _Header, records: list[_Record]) -> _Header:
    """Return the header, completed with the first rows.

    If most rows end in an additional empty field, the header gets another column without a name. If most rows
    have one field less than the header, and the last name in the header is empty, that column is removed.
    """
    names, rows = header.names, [record.fields for record in records[:_SAMPLE_ROWS]]
    widths = Counter(map(len, rows)).most_common(1)
    width = widths[0][0] if widths else len(names)
    if width == len(names) + 1 and not any(row[-1] for row in rows if len(row) == width):
        names = [*names, ""]
    elif width == len(names) - 1 and not names[-1]:
        names = names[:-1]
    return replace(header, names=names, rows=[row for row in rows if len(row) == len(names)])


class _Columns:
    """Finds the meaning of each column of a file, such as "close", from its name and its first cells."""

    def __init__(self, name: str, header: _Header, options: ReadingOptions) -> None:
        self._file, self._header, self._options = name, header, options
        self._columns = f"the columns are {', '.join(map(repr, header.names))}"
        self._names = self._parse_names()
        self._date_forms: dict[int, list[str]] = {}
        optional = {meaning: self._list(meaning) for meaning in ("split", "currency", "series")}
        self.shared = {meaning: columns[0] for meaning, columns in optional.items() if columns}
        date = self.shared["date"] = self._find_date()
        times = [column for column in self._list("time") if column != date]
        if times and not any(":" in cell for cell in header.cells(date)):
            cells = header.cells(times[0])
            if cells and parse_times(to_column(cells))[1].mean() > 0.5:
                self.shared["time"] = times[0]

    def _fail(self, reason: str) -> PriceFileError:
        return PriceFileError(f"{self._file}:{self._header.line or 1}: {reason}")

    def _parse_names(self) -> list[Name | None]:
        header, options = self._header, self._options
        if options.positions:
            return [
                None if meaning == "-" else Name(meaning, _NAMED_BY_OPTION) for meaning in options.positions
            ]
        names = [parse_name(name) if name else None for name in header.names]
        if header.symbols:
            pairs = zip(names[1:], header.symbols[1:], strict=True)
            names = [None, *(name and name._replace(affix=symbol.upper()) for name, symbol in pairs)]
        for meaning, wanted in options.columns.items():
            names = [None if name and name.meaning == meaning else name for name in names]
            columns = [n for n, text in enumerate(header.names) if text.casefold() == wanted.casefold()]
            if len(columns) != 1 and wanted != "-":
                raise self._fail(
                    f"--columns {meaning}={wanted}: {len(columns)} columns have this name; {self._columns}"
                )
            for column in columns:
                names[column] = Name(meaning, _NAMED_BY_OPTION)
        return names

    def _list(self, meaning: str) -> list[int]:
        """Return the numbers of the columns that have this meaning, the most preferred name first."""
        found = [(name.rank, n) for n, name in enumerate(self._names) if name and name.meaning == meaning]
        return [column for _, column in sorted(found)]

    def _choose(self, meaning: str, columns: Sequence[int]) -> int:
        """Return the column with the preferred name. Raises `PriceFileError` if two are equally preferred.

        There are two exceptions. Of symbol columns with equal cells, the first is returned. For volumes in
        different units, such as BTC and USD, `_UNDECIDED` is returned.
        """
        ranks = {column: name.rank for column in columns if (name := self._names[column])}
        best = [column for column in columns if ranks[column] == min(ranks.values())]
        if len(best) == 1 or (
            meaning == "symbol" and all(len({row[n] for n in best}) == 1 for row in self._header.rows)
        ):
            return best[0]
        if meaning == "volume" and all(name.affix for n in best if (name := self._names[n])):
            return _UNDECIDED
        names = [self._header.names[column] for column in best]
        raise self._fail(
            f"the columns {' and '.join(map(repr, names))} both mean {meaning}; choose with"
            f" --columns {meaning}={names[0]}"
        )

    def find_series(self) -> list[Series]:
        """Return one series of price columns, or one series for each symbol that the header names.

        Raises `PriceFileError` if there is no close. Also raises it if the header has only some of open, high
        and low, unless `--columns` leaves the missing ones out, for example with `open=-`.
        """
        by_affix: dict[str, dict[str, list[int]]] = {}
        for column, name in enumerate(self._names):
            if name and is_price(name):
                # in `Volume BTC`, BTC is a unit and no symbol, unless a second header line has the symbols
                affix = name.affix if self._header.symbols or name.meaning != "volume" else ""
                by_affix.setdefault(affix, {}).setdefault(name.meaning, []).append(column)
        alone = [affix for affix, columns in by_affix.items() if affix and [*columns] == ["adjusted"]]
        if len(alone) == 1 and "close" in by_affix.get("", ()):
            by_affix[""].setdefault("adjusted", by_affix.pop(alone[0])["adjusted"])
        found = {affix: self._choose_columns(columns) for affix, columns in by_affix.items()}
        plain = found.pop("", {})
        if "close" in plain:
            series = [Series(None, plain)]
        else:
            series = [Series(affix, columns) for affix, columns in found.items() if "close" in columns]
        if not series:
            raise self._fail(f"no column close; {self._columns}; name one with --columns close=NAME")
        if len(series) == 1 and "volume" in plain:
            series = [replace(series[0], columns={"volume": plain["volume"], **series[0].columns})]
        without = {meaning for meaning, name in self._options.columns.items() if name == "-"}
        for one in series:
            missing = [price for price in PRICES if price not in one.columns]
            if missing and len(missing) < 3 and set(missing) - without and self._header.line:
                raise self._fail(
                    f"no column {', '.join(missing)}; {self._columns}; name it with"
                    f" --columns {missing[0]}=NAME, or go without with --columns {missing[0]}=-"
                )
        return series

    def _choose_columns(self, columns: dict[str, list[int]]) -> dict[str, int]:
        """Return one column for each meaning. Adjusted columns, such as `Adj Open`, replace missing ones."""
        chosen = {
            meaning: self._choose(meaning, found)
            for meaning, found in columns.items()
            if meaning != "ignored"
        }
        if "close" not in chosen and "adjusted" in chosen:
            chosen["close"] = chosen.pop("adjusted")
        for column in columns.get("ignored", ()):
            substitute = parse_substitute(self._header.names[column])
            if substitute and substitute not in self._options.columns:
                chosen.setdefault(substitute, column)
        return chosen

    def _find_date(self) -> int:
        """Return the date column: found by its name, or because it is first and unnamed, or by its cells."""
        header = self._header
        named = self._list("date") or self._list("time")
        if header.has_index or (not named and not header.names[0]):
            named = [0, *named]
        for column in named:
            if self._options.date_format or not header.rows or self._find_date_forms(column):
                return column
        unknown = [n for n, name in enumerate(self._names) if name is None and header.cells(n)]
        dated = [n for n in unknown if self._find_date_forms(n) and not header.cells(n)[0].isdigit()]
        if len(dated) == 1 or (named and not dated):
            # if no column has dates, return the column whose name means a date: its rows are refused later
            return (dated or named)[0]
        raise self._fail(f"no column date; {self._columns}; name one with --columns date=NAME")

    def _find_date_forms(self, column: int) -> list[str]:
        if column not in self._date_forms:
            self._date_forms[column] = find_date_forms(self._header.cells(column))
        return self._date_forms[column]

    def find_symbol(self, series: list[Series]) -> tuple[str | None, str]:
        """Return the symbol of the file, and where it was found, such as "the file's name".

        The symbol is None if a symbol column or the header names the symbols. Raises `PriceFileError` when no
        symbol is found.
        """
        ranks = {column: name.rank for column in self._list("symbol") if (name := self._names[column])}
        usable = [column for column, rank in ranks.items() if _are_symbols(rank, self._header.cells(column))]
        if ranks:
            # also choose a column of company names: it shows whether the file has several companies
            self.shared["symbol"] = self._choose("symbol", usable or [*ranks])
        if self._options.symbol:
            return self._options.symbol.upper(), "--symbol"
        if usable or min(ranks.values(), default=1) <= 0:
            return None, f"column {self._header.names[self.shared['symbol']]!r}"
        if series[0].symbol:
            return None, "the header"
        symbol = guess_symbol(self._file)
        if symbol is None:
            raise self._fail(
                f"no column symbol, and the file's name is no symbol; {self._columns};"
                " give --symbol, or --columns symbol=NAME"
            )
        return symbol, "the file's name"

    def choose_volume(self, series: Series, symbol: str | None) -> Series:
        """Return the series with its volume column, chosen if the file has volumes in different units.

        The chosen volume counts shares or coins, and not money. Raises `PriceFileError` when the names of the
        columns do not show which volume that is.
        """
        column = series.columns.get("volume")
        units = {n: name.affix for n in self._list("volume") if (name := self._names[n]) and name.affix}
        if column is None or self._header.symbols or (column != _UNDECIDED and column not in units):
            return series
        if series.symbol is None and symbol is None:
            symbol = (self._header.cells(self.shared["symbol"]) or [""])[0]
        base = re.sub(r"^.*:", "", (series.symbol or symbol or "").upper())
        found = [
            n
            for n, unit in units.items()
            if unit == series.symbol or (base.startswith(unit) and base != unit)
        ]
        if len(found) != 1:
            names = [repr(self._header.names[n]) for n in units]
            raise self._fail(
                f"{' and '.join(names)}: whether it counts {base or 'the symbol'} or money is not clear;"
                f" choose with --columns volume={names[0][1:-1]}, or go without with --columns volume=-"
            )
        return replace(series, columns={**series.columns, "volume": found[0]})

    def find_date_form(self) -> str:
        """Return the date format. If several formats fit the first rows, they are joined by " or "."""
        column = self.shared["date"]
        cells = self._header.cells(column)
        if self._options.date_format or not cells:
            return self._options.date_format or "YYYY-MM-DD"
        forms = self._find_date_forms(column) or find_date_forms(cells, min_share=0)
        if not forms:
            raise self._fail(
                f"{self._header.names[column] or 'the first column'} has no dates, but values"
                f" such as {cells[0]!r}; give their format with --date-format, or the column with"
                " the dates with --columns date=NAME"
            )
        return " or ".join(forms)

    def find_decimal(self, series: list[Series]) -> str:
        """Return the decimal mark, "." or ",". Raises `PriceFileError` when it could be either."""
        if self._options.decimal:
            return self._options.decimal
        columns = {n for one in series for n in one.columns.values() if n != _UNDECIDED}
        cells = [row[column] for row in self._header.rows for column in columns]
        found = find_decimal(cells, is_european=self._header.separator == ";")
        if found is None:
            example = next(cell for cell in cells if re.search(r"[.,]\d", cell))
            raise self._fail(
                f"{example!r} can be a decimal or thousands; say which with --decimal . or --decimal ,"
            )
        return found

    def find_currency(self, series: list[Series]) -> str | None:
        """Return the currency that the header names, or None. Raises `PriceFileError` for two currencies."""
        columns = {n for one in series for meaning, n in one.columns.items() if meaning != "volume"}
        found = {name.currency for n in columns if (name := self._names[n]) and name.currency}
        if len(found) > 1:
            raise self._fail(f"prices in {' and '.join(sorted(found))}; choose columns of one with --columns")
        return next(iter(found), None)


def _are_symbols(rank: int, cells: list[str]) -> bool:
    """Return whether the cells of a column are symbols, and not company names or plain numbers.

    Company names have spaces or mixed case. `rank` is the rank of the column's name. A name of rank 0 or
    less, such as "ticker", certainly means symbols: then mixed case and plain numbers are accepted. For a
    name of rank 1, such as "code", plain numbers are accepted, but mixed case is not.
    """
    if not all(map(parse_symbol, cells)):
        return False
    is_mixed = any(cell not in {cell.upper(), cell.lower()} for cell in cells)
    return rank <= 0 or not (is_mixed or (rank > 1 and all(map(str.isdigit, cells))))
