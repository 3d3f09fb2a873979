"""Says in a few lines how price files were understood.

Owns the sentences; decides nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from core.simulation.price_header import SEPARATORS
from core.simulation.price_layout import Layout
from core.simulation.price_names import PRICES
from core.simulation.price_rows import FileReader, Tally
from core.simulation.price_table import PriceTable

SHOWN_FILES: Final = 10
SHOWN_ROWS: Final = 5
SHOWN_LINES: Final = 20


@dataclass
class Plan:
    """How files were understood, and what was found in them; warnings are what `--strict` refuses."""

    files: dict[str, FileReader] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bars_a_day: int = 1
    repeated: int = 0

    def tally(self, kind: str) -> Tally:
        """Add up the rows that were "skipped", or "invalid", over all files."""
        total = Tally()
        for reader in self.files.values():
            tally: Tally = getattr(reader, kind)
            for name, problem in tally.first.items():
                total.add(problem, tally.counts[name])
        return total

    def describe(self, table: PriceTable) -> Iterator[str]:
        """Yield the lines: each layout once, then the rows of all."""
        alike: dict[tuple[str, ...], list[str]] = {}
        for name, reader in self.files.items():
            alike.setdefault(tuple(_describe_layout(reader)), []).append(name)
        for lines, names in list(alike.items())[:SHOWN_FILES]:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"{names[0]}{more}: {lines[0]}"
            symbol = self.files[names[0]].layout.symbol if len(names) == 1 else None
            for line in lines[1:]:
                yield f"  {line.replace('symbol: from', f'symbol: {symbol}, from') if symbol else line}"
        if len(alike) > SHOWN_FILES:
            yield f"and {len(alike) - SHOWN_FILES} more layouts"
        first, last = (date.fromordinal(int(day)) for day in (table["day"].min(), table["day"].max()))
        symbols = _list_some(table.symbols, 3)
        yield f"rows: {len(table)} days of {symbols}, from {first} to {last}"
        if self.bars_a_day > 1:
            yield f"several bars a day, up to {self.bars_a_day}: made into one, in order of time"
        if self.repeated:
            yield f"repeated rows that say the same: {self.repeated}"
        if self.left_out:
            yield f"left out, no tables: {_list_some(self.left_out)}"
        yield from (f"skipped: {line}" for line in self.tally("skipped").describe())
        yield from (f"INVALID, skipped: {line}" for line in self.tally("invalid").describe())
        yield from _shorten(self.notes, "note")
        yield from _shorten(self.warnings, "warning")


def describe_rows(table: PriceTable) -> Iterator[str]:
    """Yield the first rows as they would be loaded."""
    yield f"{'symbol':12} {'day':10} " + " ".join(f"{name:>14}" for name in (*PRICES, "volume"))
    for row in range(min(SHOWN_ROWS, len(table))):
        values = [f"{table[name][row]:>14.10g}".replace("nan", "  -") for name in PRICES]
        day = date.fromordinal(int(table["day"][row]))
        volume = f"{table['volume'][row]:>14.0f}"
        yield f"{table.symbols[table['code'][row]]:12} {day} {' '.join(values)} {volume}"


def _describe_layout(reader: FileReader) -> Iterator[str]:
    layout = reader.layout
    separator = SEPARATORS.get(layout.separator, repr(layout.separator))
    header = f"header on line {layout.header_line}" if layout.header_line else "no header"
    guess = " (a guess)" if layout.encoding not in {"utf-8", "utf-8-sig", "utf-16", "utf-32"} else ""
    mark = "point" if layout.decimal == "." else "comma"
    yield f"{layout.encoding}{guess}, {separator}, {header}, decimal {mark}"
    preamble = layout.skipped_lines - (1 if layout.header_line else 0)
    if preamble:
        yield f"{preamble} more lines above the first row"
    # without the symbol itself, so that files that differ by it alone are alike
    yield f"symbol: from {layout.symbol_from}"
    time = f", time {layout.describe(layout.shared['time'])}" if "time" in layout.shared else ""
    date_name = layout.describe(layout.shared["date"])
    yield f"date: {date_name} as {layout.date_form}{time}{reader.describe_zone()}"
    for group in layout.groups[:3]:
        yield from _describe_group(layout, group.symbol, group.places)
    if len(layout.groups) > 3:
        yield f"and {len(layout.groups) - 3} more symbols side by side"
    currency = layout.currency or next(iter(reader.currencies), None)
    if currency:
        yield f"currency: {currency}"
    used = {*layout.shared.values(), *(place for group in layout.groups for place in group.places.values())}
    ignored = [name for place, name in enumerate(layout.names) if place not in used and name]
    if ignored:
        yield f"not used: {_list_some(ignored)}"
    for remark, count in reader.remarks.items():
        yield f"{remark}{f' ({count} rows)' if count else ''}"


def _describe_group(layout: Layout, symbol: str | None, places: Mapping[str, int]) -> Iterator[str]:
    prices = [f"{name} {layout.describe(places[name])}" for name in PRICES if name in places]
    label = f"prices of {symbol}" if symbol else "prices"
    alone = "; it stands for open, high and low" if len(prices) == 1 else ""
    yield f"{label}: {', '.join(prices)}{alone}"
    if "adjusted" in places:
        yield f"adjusted by {layout.describe(places['adjusted'])}"
    elif "split" in layout.shared:
        yield f"adjusted by splits in {layout.describe(layout.shared['split'])}, where the prices are not yet"
    else:
        yield "adjusted by nothing: prices as they are"
    yield f"volume: {layout.describe(places['volume'])}" if "volume" in places else "volume: none, 0"


def _list_some(names: Sequence[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _shorten(lines: Sequence[str], label: str) -> Iterator[str]:
    yield from (f"{label}: {line}" for line in lines[:SHOWN_LINES])
    if len(lines) > SHOWN_LINES:
        yield f"{label}: and {len(lines) - SHOWN_LINES} more"
