"""Finds the header of a price file: its separator, the names of its columns, the first rows below.

Owns what counts as a header, one line or several. Never concludes what a file means as a whole.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from core.errors import PriceFileError
from core.simulation.price_names import PRICES, Name, read_name, to_symbol
from core.simulation.price_options import ReadingOptions
from core.simulation.price_source import Text

SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_GUESSES: Final = ("gb18030", "cp932", "cp949", "cp1251")
"""Tried in this order when a file is not UTF-8 and its header makes no sense in Windows-1252."""

_HEADER_LINES: Final = 60
_SAMPLE_ROWS: Final = 200


class _Record(NamedTuple):
    line: int
    fields: list[str]


@dataclass(frozen=True)
class Header:
    """The header of a file; `line` is 0 without one, `last_line` the one above the first row.

    `names` has a name for each column, "" for one without; `affixes` are the symbols that a
    second line names. `has_index` says that the first column is the index of the others, the
    days. `rows` are the first ones, without those that have another number of fields.
    """

    encoding: str
    separator: str
    line: int
    last_line: int
    names: list[str]
    affixes: tuple[str, ...] = ()
    has_index: bool = False
    rows: Sequence[list[str]] = ()

    def cells(self, place: int) -> list[str]:
        """Return what the first rows have in a column, without empty cells."""
        return [row[place] for row in self.rows if row[place]]


def find_header(name: str, text: Text, options: ReadingOptions) -> Header:
    """Return the header of a file. Raises `PriceFileError` when there is none and none is given."""
    for encoding in (text.encoding, *(_GUESSES if text.is_guess else ())):
        lines = re.split(r"\r\n|\n|\r", text.decode(encoding))[: _HEADER_LINES + _SAMPLE_ROWS]
        given = re.fullmatch(r"\ufeff?\"?sep=(.)\"?", lines[0].strip(" "), re.IGNORECASE)
        head = "".join(lines[:20])
        for separator in [given[1]] if given else sorted(SEPARATORS, key=head.count, reverse=True):
            records = list(_split(lines, separator))
            for place, record in enumerate(records[:_HEADER_LINES]):
                if options.positions and len(record.fields) == len(options.positions):
                    names = [f"field {n + 1}" for n in range(len(record.fields))]
                    header = Header(encoding, separator, line=0, last_line=record.line - 1, names=names)
                    return _fit_rows(header, records[place:])
                if not options.positions and _is_header(record.fields, options):
                    header = Header(encoding, separator, record.line, record.line, record.fields)
                    return _read_lines(header, records, place)
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
    except csv.Error:  # the rows will be refused with their line
        return


def _is_header(fields: Sequence[str], options: ReadingOptions) -> bool:
    meanings = {found.meaning for found in map(read_name, fields) if found}
    meanings |= {meaning for meaning, name in options.columns.items() if name in fields}
    if not meanings & {"close", "adjusted"} or len(fields) < 2:
        return False
    is_dated = not fields[0] or bool(meanings & {"date", "time"})
    return len(meanings) > 2 or (is_dated and (len(meanings) == 2 or len(fields) == 2))


def _read_lines(header: Header, records: list[_Record], place: int) -> Header:
    """Read the lines around a header, which name the symbols of its columns and the index."""
    names, below = header.names, 0
    affixes: tuple[str, ...] = ()
    for other in (place + 1, place - 1):
        if 0 <= other < len(records) and _are_symbols(records[other].fields, names):
            affixes, below = tuple(records[other].fields), int(other > place)
            break
    index = records[place + 1 + below].fields if place + 1 + below < len(records) else []
    is_named = len(index) == len(names) and not any(index[1:]) and not re.search(r"\d", index[0])
    if affixes or is_named:
        names = [index[0] if is_named else "", *names[1:]]
        header = replace(header, names=names, affixes=affixes, has_index=True)
    rows = records[place + 1 + below + is_named :]
    last_line = rows[0].line - 1 if rows else records[-1].line
    return _fit_rows(replace(header, last_line=last_line), rows)


def _are_symbols(fields: list[str], names: list[str]) -> bool:
    """Say whether a line has a symbol for each price of the header: all but the first, which is the index."""
    if len(fields) != len(names):
        return False
    beside = [value for value, name in zip(fields[1:], names[1:], strict=True) if is_price(read_name(name))]
    return bool(beside) and all(to_symbol(value) and not re.fullmatch(r"[\d.,]+", value) for value in beside)


def _fit_rows(header: Header, records: list[_Record]) -> Header:
    """Add the first rows; make as many names as they have fields, where what differs is empty."""
    names, rows = header.names, [record.fields for record in records[:_SAMPLE_ROWS]]
    widths = Counter(map(len, rows)).most_common(1)
    width = widths[0][0] if widths else len(names)
    if width == len(names) + 1 and not any(row[-1] for row in rows if len(row) == width):
        names = [*names, ""]
    elif width == len(names) - 1 and not names[-1]:
        names = names[:-1]
    return replace(header, names=names, rows=[row for row in rows if len(row) == len(names)])


def is_price(name: Name | None) -> bool:
    """Say whether a column is one of a series of prices."""
    return name is not None and name.meaning in {*PRICES, "adjusted", "volume", "ignored"}
