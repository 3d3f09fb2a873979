"""Which column of a price file holds what.

Owns the accepted names; never reads a row.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import PriceFileError

# Compared in lower case, with '_', '.', '-' and runs of spaces as one space.
_NAMES = {
    "symbol": ("symbol", "ticker"),
    "date": ("date", "day", "trading day"),
    "open": ("open", "open price"),
    "high": ("high", "high price"),
    "low": ("low", "low price"),
    "close": ("close", "close price"),
    "volume": ("volume", "vol"),
    "adjusted close": ("adj close", "adjusted close", "adjclose", "close adjusted", "close adj"),
}
_OPTIONAL = "adjusted close"


@dataclass(frozen=True)
class PriceColumns:
    """Positions of the fields in a record of `width` fields."""

    width: int
    symbol: int
    date: int
    prices: tuple[int, int, int, int]
    volume: int
    adjusted_close: int | None


def find_columns(header: Sequence[str], source: object) -> PriceColumns:
    """Find the columns by their names, in any order; other columns are ignored.

    Raises `PriceFileError` naming the missing column and those that were found,
    or two columns that mean the same.
    """
    found = {meaning: _find(header, meaning, source) for meaning in _NAMES}
    missing = [name for name in _NAMES if found[name] is None and name != _OPTIONAL]
    if missing:
        raise PriceFileError(
            f"{source}:1: no column {', '.join(missing)}; the columns are {', '.join(map(repr, header))}"
        )
    position = {name: place for name, place in found.items() if place is not None}
    return PriceColumns(
        width=len(header),
        symbol=position["symbol"],
        date=position["date"],
        prices=(position["open"], position["high"], position["low"], position["close"]),
        volume=position["volume"],
        adjusted_close=position.get(_OPTIONAL),
    )


def _find(header: Sequence[str], meaning: str, source: object) -> int | None:
    places = [place for place, name in enumerate(header) if _normalize(name) in _NAMES[meaning]]
    if len(places) > 1:
        both = " and ".join(repr(header[place]) for place in places)
        raise PriceFileError(f"{source}:1: the columns {both} both mean {meaning}; keep one")
    return places[0] if places else None


def _normalize(name: str) -> str:
    return re.sub(r"[\s_.\-]+", " ", name.strip().lower()).strip()
