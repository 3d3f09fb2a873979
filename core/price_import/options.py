"""The options of the price import: symbol, columns, formats of dates and numbers, splits.

Parses the options of the command line. Refuses invalid options before a file is opened.
"""

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from core.errors import InvalidInput
from core.price_import.numbers_and_dates import DATE_FORMS
from core.price_import.vocabulary import parse_name
from core.service.argument_checks import check_symbol

MEANINGS: Final = (
    "symbol", "date", "time", "open", "high", "low", "close", "adjusted", "volume", "split", "currency",
    "series",
)  # fmt: skip  # with one name per line, the list would be hard to read


class Split(NamedTuple):
    """A stock split: at the open of `day`, one share became `ratio` shares; `day` is a `date.toordinal()`."""

    symbol: str
    day: int
    ratio: float


@dataclass(frozen=True)
class ReadingOptions:
    """Facts about files that the files do not contain, or that must not be guessed.

    `positions` has the meaning of each column of a file without a header, such as "close"; "-" is a column
    that is not used. `columns` maps meanings to column names; the name "-" says that no column has this
    meaning. `where` maps each column name to the values that are allowed in this column: a row with another
    value is not loaded. Prices are divided by `scale`. With `strict`, warnings are errors. With
    `skip_invalid`, invalid rows are skipped and valid rows are loaded.
    """

    symbol: str | None = None
    positions: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    date_format: str | None = None
    decimal: str | None = None
    timezone: ZoneInfo | None = None
    encoding: str | None = None
    scale: float | None = None
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)
    splits: tuple[Split, ...] = ()
    strict: bool = False
    skip_invalid: bool = False


def parse_options(
    *,
    symbol: str | None = None,
    columns: Sequence[str] = (),
    date_format: str | None = None,
    decimal: str | None = None,
    timezone: str | None = None,
    encoding: str | None = None,
    scale: float | None = None,
    where: Sequence[str] = (),
    splits: Sequence[str] = (),
    strict: bool = False,
    skip_invalid: bool = False,
) -> ReadingOptions:
    """Build the options from texts of the command line. Raises `InvalidInput` for an invalid text."""
    parts = [part.strip() for text in columns for part in text.split(",")]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    if named and len(named) < len(parts):
        raise InvalidInput(
            f"--columns {','.join(parts)}: give all columns in order, or only MEANING=NAME pairs"
        )
    values: dict[str, set[str]] = {}
    for text in where:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise InvalidInput(f"--where is {text!r}; give COLUMN=VALUE, such as series=EQ")
        values.setdefault(name, set()).add(value)
    if scale is not None and not 0 < scale < float("inf"):
        raise InvalidInput(f"--scale is {scale}; give a number above 0 by which prices are divided")
    return ReadingOptions(
        symbol=None if symbol is None else check_symbol(symbol.upper()),
        positions=() if named else tuple(map(_parse_meaning, parts)),
        columns={_parse_meaning(meaning): name.strip() for meaning, name in named.items()},
        date_format=None if date_format is None else _parse_date_form(date_format),
        decimal=decimal,
        timezone=None if timezone is None else _parse_zone(timezone),
        encoding=None if encoding is None else _parse_encoding(encoding),
        scale=scale,
        where={name: frozenset(found) for name, found in values.items()},
        splits=tuple(map(parse_split, splits)),
        strict=strict,
        skip_invalid=skip_invalid,
    )


def parse_split(text: str) -> Split:
    """Parse a split SYMBOL:DAY:NEW:OLD, such as AAPL:2014-06-09:7:1. Raises `InvalidInput` for other text."""
    try:
        symbol, day, new, old = text.rsplit(":", 3)
        return Split(
            check_symbol(symbol.upper()), date.fromisoformat(day).toordinal(), float(new) / float(old)
        )
    except (ValueError, ZeroDivisionError) as error:
        raise InvalidInput(
            f"--split is {text!r}; give SYMBOL:YYYY-MM-DD:NEW:OLD, such as AAPL:2014-06-09:7:1"
        ) from error


def _parse_meaning(text: str) -> str:
    if text in {"", "-"}:
        return "-"
    name = parse_name(text)
    if name is None or name.meaning not in MEANINGS:
        raise InvalidInput(
            f"--columns has {text!r}; give some of {', '.join(MEANINGS)}, or '-' for none of them"
        )
    return name.meaning


def _parse_date_form(text: str) -> str:
    form = next((name for name in DATE_FORMS if name.casefold() == text.strip().casefold()), text)
    if form not in DATE_FORMS and "%" not in form:
        raise InvalidInput(
            f"--date-format is {text!r}; give one of {'; '.join(DATE_FORMS)}, or such as %d.%m.%Y"
        )
    return form


def _parse_zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"--timezone is {text!r}; give a name such as America/New_York or UTC") from error


def _parse_encoding(text: str) -> str:
    try:
        return codecs.lookup(text).name
    except LookupError as error:
        raise InvalidInput(f"--encoding is {text!r}; give a name such as utf-8, cp1252 or gb18030") from error
