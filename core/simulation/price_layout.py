"""What a price file means as a whole: its columns, its symbol, how it writes days and numbers.

Owns what is concluded from the header and the first rows, and refuses what they leave open, with
the option that decides it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from core.errors import PriceFileError
from core.simulation.price_header import Header, find_header, is_price
from core.simulation.price_names import PRICES, Name, guess_symbol, read_name, read_substitute, to_symbol
from core.simulation.price_options import ReadingOptions
from core.simulation.price_source import Text
from core.simulation.price_values import find_decimal, find_forms, parse_times, to_column

_GIVEN: Final = -1
"""The rank of what --columns says."""

_UNDECIDED: Final = -1
"""The place of a volume of which several are equally good: which one counts is told by the symbol."""


@dataclass(frozen=True)
class Group:
    """The columns of one series of prices by meaning; `symbol` when the header names it."""

    symbol: str | None
    places: Mapping[str, int]


@dataclass(frozen=True)
class Layout:
    """How a file is laid out; places are numbers of columns, lines are numbered from 1.

    `shared` are the columns that all groups have in common. `symbol` is that of a file without a
    symbol column, and `symbol_from` says where it comes from. `date_form` holds several forms,
    joined by " or ", when the first rows leave it open.
    """

    encoding: str
    separator: str
    header_line: int
    skipped_lines: int
    names: tuple[str, ...]
    shared: Mapping[str, int]
    groups: tuple[Group, ...]
    symbol: str | None
    symbol_from: str
    date_form: str
    decimal: str
    currency: str | None
    has_quotes: bool

    def describe(self, place: int) -> str:
        """Name a column for people."""
        return repr(self.names[place]) if self.names[place] else f"column {place + 1}, without a name,"


def understand(name: str, text: Text, options: ReadingOptions) -> Layout:
    """Return the layout of a file.

    Raises `PriceFileError` when it has no columns of prices, or could be read in two ways.
    """
    reader = _Reader(name, find_header(name, text, options), options)
    header, shared = reader.header, reader.shared
    groups = reader.find_groups()
    symbol, symbol_from = reader.find_symbol(groups)
    return Layout(
        encoding=header.encoding,
        separator=header.separator,
        header_line=header.line,
        skipped_lines=header.last_line,
        names=tuple(header.names),
        shared=shared,
        groups=tuple(reader.choose_volume(group, symbol) for group in groups),
        symbol=symbol,
        symbol_from=symbol_from,
        date_form=reader.find_form(),
        decimal=reader.find_decimal(groups),
        currency=reader.find_currency(groups),
        has_quotes=text.has_quotes,
    )


class _Reader:
    """Concludes the layout of one file from its header, one part after the other."""

    def __init__(self, name: str, header: Header, options: ReadingOptions) -> None:
        self.header = header
        self._name = name
        self._options = options
        self._columns = f"the columns are {', '.join(map(repr, header.names))}"
        self._meanings = self._read_names()
        self._forms: dict[int, list[str]] = {}
        self.shared = {
            meaning: found[0] for meaning in ("split", "currency", "series") if (found := self._list(meaning))
        }
        self.shared["date"] = self._find_date()
        times = [place for place in self._list("time") if place != self.shared["date"]]
        if times and not any(":" in cell for cell in header.cells(self.shared["date"])):
            cells = header.cells(times[0])
            if cells and parse_times(to_column(cells))[1].mean() > 0.5:
                self.shared["time"] = times[0]

    def _fail(self, reason: str) -> PriceFileError:
        return PriceFileError(f"{self._name}:{self.header.line or 1}: {reason}")

    def _read_names(self) -> list[Name | None]:
        header, options = self.header, self._options
        if options.positions:
            return [None if meaning == "-" else Name(meaning, _GIVEN) for meaning in options.positions]
        meanings = [read_name(name) if name else None for name in header.names]
        if header.affixes:
            pairs = zip(meanings[1:], header.affixes[1:], strict=True)
            meanings = [None, *(found and found._replace(affix=affix.upper()) for found, affix in pairs)]
        for meaning, name in options.columns.items():
            meanings = [None if found and found.meaning == meaning else found for found in meanings]
            places = [n for n, text in enumerate(header.names) if text.casefold() == name.casefold()]
            if len(places) != 1 and name != "-":
                raise self._fail(
                    f"--columns {meaning}={name}: {len(places)} columns are called so; {self._columns}"
                )
            for place in places:
                meanings[place] = Name(meaning, _GIVEN)
        return meanings

    def _list(self, meaning: str) -> list[int]:
        """Return the columns with a meaning, the best first."""
        found = [(name.rank, n) for n, name in enumerate(self._meanings) if name and name.meaning == meaning]
        return [place for _, place in sorted(found)]

    def _choose(self, meaning: str, found: list[tuple[int, int]]) -> int:
        """Return the best of some columns by rank and place; refuse two that are equally good."""
        best = [place for rank, place in found if rank == min(found)[0]]
        if len(best) == 1 or (
            meaning == "symbol" and all(len({row[n] for n in best}) == 1 for row in self.header.rows)
        ):
            return best[0]
        if meaning == "volume" and all(name.affix for n in best if (name := self._meanings[n])):
            return _UNDECIDED
        names = [repr(self.header.names[place]) for place in best]
        raise self._fail(
            f"the columns {' and '.join(names)} both mean {meaning}; choose with"
            f" --columns {meaning}={self.header.names[best[0]]}"
        )

    def find_groups(self) -> list[Group]:
        """Return the series of prices: one, or one for each symbol that the header names."""
        by_affix: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for place, name in enumerate(self._meanings):
            if name and is_price(name):
                # the affix of a volume is what it counts, unless a line of the header names symbols
                affix = name.affix if self.header.affixes or name.meaning != "volume" else ""
                by_affix.setdefault(affix, {}).setdefault(name.meaning, []).append((name.rank, place))
        found = {affix: self._choose_columns(columns) for affix, columns in by_affix.items()}
        plain = found.pop("", {})
        if "close" in plain:
            groups = [Group(None, plain)]
        else:
            groups = [Group(affix, places) for affix, places in found.items() if "close" in places]
        if not groups:
            raise self._fail(f"no column close; {self._columns}; name one with --columns close=NAME")
        if len(groups) == 1 and "volume" in plain:
            groups = [replace(groups[0], places={"volume": plain["volume"], **groups[0].places})]
        for group in groups:
            self._refuse_incomplete(group)
        return groups

    def _choose_columns(self, columns: dict[str, list[tuple[int, int]]]) -> dict[str, int]:
        """Return the column of each meaning; adjusted prices stand for those that a file does not have."""
        places = {
            meaning: self._choose(meaning, found)
            for meaning, found in columns.items()
            if meaning != "ignored"
        }
        if "close" not in places and "adjusted" in places:
            places["close"] = places.pop("adjusted")
        for _, place in columns.get("ignored", ()):
            substitute = read_substitute(self.header.names[place])
            if substitute and substitute not in self._options.columns:
                places.setdefault(substitute, place)
        return places

    def _refuse_incomplete(self, group: Group) -> None:
        missing = [price for price in PRICES if price not in group.places]
        given_up = {meaning for meaning, name in self._options.columns.items() if name == "-"}
        if missing and len(missing) < 3 and set(missing) - given_up and self.header.line:
            raise self._fail(
                f"no column {', '.join(missing)}; {self._columns}; name it with --columns {missing[0]}=NAME,"
                f" or go without with --columns {missing[0]}=-"
            )

    def _find_date(self) -> int:
        """Return the column of days: by name, else the first one without a name, else by what it holds."""
        header = self.header
        places = self._list("date") or self._list("time")
        if header.has_index or (not places and not header.names[0]):
            places = [0, *places]
        for place in places:
            if self._options.date_format or not header.rows or self._find_forms(place):
                return place
        unknown = [place for place, name in enumerate(self._meanings) if name is None and header.cells(place)]
        dated = [
            place for place in unknown if self._find_forms(place) and not header.cells(place)[0].isdigit()
        ]
        if len(dated) == 1 or (places and not dated):
            return (dated or places)[0]  # what a named one holds instead of days will be refused
        raise self._fail(f"no column date; {self._columns}; name one with --columns date=NAME")

    def _find_forms(self, place: int) -> list[str]:
        if place not in self._forms:
            self._forms[place] = find_forms(self.header.cells(place))
        return self._forms[place]

    def find_symbol(self, groups: list[Group]) -> tuple[str | None, str]:
        """Return the symbol of a file without a symbol column, and where the symbol comes from."""
        ranks = [(name.rank, n) for n in self._list("symbol") if (name := self._meanings[n])]
        usable = [(rank, place) for rank, place in ranks if _are_symbols(rank, self.header.cells(place))]
        is_named = bool(usable) or (bool(ranks) and min(ranks)[0] <= 0)
        if ranks:
            # names of companies are no symbols, but they must not be several either
            self.shared["symbol"] = self._choose("symbol", usable or ranks)
        if self._options.symbol:
            return self._options.symbol.upper(), "--symbol"
        if is_named:
            return None, f"column {self.header.names[self.shared['symbol']]!r}"
        if groups[0].symbol:
            return None, "the header"
        symbol = guess_symbol(self._name)
        if symbol is None:
            raise self._fail(
                f"no column symbol, and the file's name is no symbol; {self._columns};"
                " give --symbol, or --columns symbol=NAME"
            )
        return symbol, "the file's name"

    def choose_volume(self, group: Group, symbol: str | None) -> Group:
        """Choose the volume that counts shares or coins; refuse one in money when it cannot be told."""
        place = group.places.get("volume")
        named = {n: name.affix for n in self._list("volume") if (name := self._meanings[n]) and name.affix}
        if place is None or self.header.affixes or (place != _UNDECIDED and place not in named):
            return group
        if group.symbol is None and symbol is None:
            symbol = (self.header.cells(self.shared["symbol"]) or [""])[0]
        base = re.sub(r"^.*:", "", (group.symbol or symbol or "").upper())
        found = [
            n
            for n, affix in named.items()
            if affix == group.symbol or (base.startswith(affix) and base != affix)
        ]
        if len(found) != 1:
            names = [repr(self.header.names[n]) for n in named]
            raise self._fail(
                f"{' and '.join(names)}: whether it counts {base or 'the symbol'} or money is not clear;"
                f" choose with --columns volume={names[0][1:-1]}, or go without with --columns volume=-"
            )
        return replace(group, places={**group.places, "volume": found[0]})

    def find_form(self) -> str:
        """Return the form of the days, or several when the first rows leave it open."""
        if self._options.date_format:
            return self._options.date_format
        cells = self.header.cells(self.shared["date"])
        forms = (
            self._find_forms(self.shared["date"]) or find_forms(cells, least=0) if cells else ["YYYY-MM-DD"]
        )
        if not forms:
            name = self.header.names[self.shared["date"]] or "the first column"
            raise self._fail(
                f"{name} holds no days, such as {cells[0]!r}; say how they are written with --date-format,"
                " or where they are with --columns date=NAME"
            )
        return " or ".join(forms)

    def find_decimal(self, groups: list[Group]) -> str:
        """Return the decimal mark."""
        if self._options.decimal:
            return self._options.decimal
        places = {place for group in groups for place in group.places.values() if place != _UNDECIDED}
        cells = [row[place] for row in self.header.rows for place in places]
        found = find_decimal(cells, is_european=self.header.separator == ";")
        if found is None:
            example = next(cell for cell in cells if re.search(r"[.,]\d", cell))
            raise self._fail(
                f"{example!r} can be a decimal or thousands; say which with --decimal . or --decimal ,"
            )
        return found

    def find_currency(self, groups: list[Group]) -> str | None:
        """Return the currency that the header names."""
        places = {n for group in groups for meaning, n in group.places.items() if meaning != "volume"}
        found = {name.currency for n in places if (name := self._meanings[n]) and name.currency}
        if len(found) > 1:
            raise self._fail(f"prices in {' and '.join(sorted(found))}; choose columns of one with --columns")
        return next(iter(found), None)


def _are_symbols(rank: int, cells: list[str]) -> bool:
    """Say whether a column holds symbols: names of companies have spaces and small letters."""
    if not all(map(to_symbol, cells)):
        return False
    is_mixed = any(cell not in {cell.upper(), cell.lower()} for cell in cells)
    return rank <= 0 or not (is_mixed or (rank > 1 and all(map(str.isdigit, cells))))
