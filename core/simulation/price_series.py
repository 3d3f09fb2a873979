"""What the rows of price files say together: one bar a day, splits, and how far days are apart.

Owns the checks that need more than one row. Never reads a file and never talks to the service.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, Final

import numpy as np

from core.errors import PriceFileError
from core.simulation.amounts import Floats
from core.simulation.price_options import Split
from core.simulation.price_table import KEY, PRICE_COLUMNS, VALUES, PriceTable, round_adjusted

RATIOS: Final = (1.5, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 100)
"""How many shares become of one in a split; the other way round in a reverse one."""

_LEAST_JUMP: Final = 0.25
_NEAR: Final = 0.14  # of the logarithm: prices also move on the day of a split
_LOOKED_AT: Final = 500  # days of a symbol are enough to tell how far they are apart
_INTERVALS: Final = ((300, "year"), (80, "quarter"), (25, "month"), (6, "week"))


def drop_repeats(table: PriceTable) -> tuple[PriceTable, int]:
    """Return a sorted table without rows that say the same twice, and how many there were.

    Raises `PriceFileError` for two rows of one symbol and time that differ, naming both.
    """
    same = np.logical_and.reduce([np.diff(table[name]) == 0 for name in KEY])
    if not same.any():
        return table, 0
    equal = [
        (table[name][1:] == table[name][:-1]) | (np.isnan(table[name][1:]) & np.isnan(table[name][:-1]))
        for name in VALUES
    ]
    different = np.flatnonzero(same & ~np.logical_and.reduce(equal))
    if len(different):
        raise _fail_on_two(table, int(different[0]), "differ")
    kept = np.ones(len(table), np.bool_)
    kept[1:] = ~same
    return table.select(kept), int(same.sum())


def _fail_on_two(table: PriceTable, row: int, reason: str) -> PriceFileError:
    day = date.fromordinal(int(table["day"][row]))
    return PriceFileError(
        f"{table.symbols[table['code'][row]]} on {day}: the rows {table.find_place(row)} and"
        f" {table.find_place(row + 1)} {reason}; choose with --where COLUMN=VALUE, such as --where series=EQ,"
        " or leave one out"
    )


def join_days(table: PriceTable) -> tuple[PriceTable, int]:
    """Make one bar of the bars of each day, in order of time; return the most that a day has.

    Raises `PriceFileError` when a day has several rows in a file that has one on most days.
    """
    is_new = np.ones(len(table), np.bool_)
    is_new[1:] = (np.diff(table["code"]) != 0) | (np.diff(table["day"]) != 0)
    if is_new.all():
        return table, 1
    starts = np.flatnonzero(is_new)
    counts = np.diff(np.append(starts, len(table)))
    most = int(counts.max())
    days = np.cumsum(is_new) - 1
    # of each file: on how many days has it several rows, on how many one
    pairs, sizes = np.unique(table["file"].astype(np.int64) * len(starts) + days, return_counts=True)
    files = pairs // len(starts)
    many = np.bincount(files, sizes > 1, minlength=len(table.files))
    is_intraday = many * 2 > np.bincount(files, minlength=len(table.files))
    stray = np.flatnonzero((counts[days] > 1) & ~is_intraday[table["file"]])
    if len(stray):
        row = min(int(stray[0]), int(starts[days[stray[0]]]) + int(counts[days[stray[0]]]) - 2)
        raise _fail_on_two(table, row, "are both of this day, where most days have one")
    opens = _opens(table, slice(None))
    high, low = np.fmax(table["high"], table["close"]), np.fmin(table["low"], table["close"])
    joined = table.select(starts)
    joined.columns.update(
        open=opens[starts],
        high=np.maximum.reduceat(np.fmax(high, opens), starts),
        low=np.minimum.reduceat(np.fmin(low, opens), starts),
        close=table["close"][starts + counts - 1],
        volume=np.add.reduceat(table["volume"], starts),
    )
    return joined, most


def describe_intervals(table: PriceTable) -> list[str]:
    """Return a sentence for symbols whose rows are weeks, months or more apart."""
    found: dict[str, list[str]] = {}
    for code, symbol in enumerate(table.symbols):
        gaps = np.diff(table["day"][table.rows_of(code)][:_LOOKED_AT])
        few, half = np.quantile(gaps, (0.1, 0.5)) if len(gaps) > 1 else (0, 0)
        unit = next((unit for least, unit in _INTERVALS if half >= least and few >= 0.75 * least), None)
        if unit:
            found.setdefault(unit, []).append(symbol)
    return [
        f"one row a {unit}, not a day: {_list_some(symbols)}; changes are from {unit} to {unit}"
        for unit, symbols in found.items()
    ]


def is_shifted(table: PriceTable) -> bool:
    """Say whether days run from Sunday to Thursday, as midnights of a zone east of UTC do."""
    weekdays = np.bincount((table["day"] - 1) % 7, minlength=7)
    return bool(weekdays.sum() >= 5 and weekdays[6] and not weekdays[4])


def adjust_splits(table: PriceTable, found: Sequence[Split], given: Sequence[Split]) -> list[str]:
    """Divide the prices before each split by its ratio; return what was done, in sentences.

    `found` are those that files name: they count where the prices show them. `given` always count.
    Raises `PriceFileError` for a given one that no row is of, and when prices show some only.
    """
    notes = []
    named = {(split.symbol, split.day) for split in given}
    for split in given:
        if split.symbol not in table.symbols or split.day not in table["day"][_rows_of(table, split.symbol)]:
            raise PriceFileError(f"--split {_describe(split)}: no row is of this symbol and day")
    for symbol in dict.fromkeys(split.symbol for split in (*found, *given)):
        of_files = dict.fromkeys(
            split for split in found if split.symbol == symbol and (symbol, split.day) not in named
        )
        splits = list(of_files) if _is_in_prices(table, of_files) else []
        if of_files and not splits:
            notes.append(
                f"{symbol}: already adjusted for {_list_some([_describe(split) for split in of_files])}"
            )
        for split in (*splits, *(split for split in given if split.symbol == symbol and split.ratio != 1)):
            rows = _rows_of(table, symbol)
            before = slice(rows.start, rows.start + int(np.searchsorted(table["day"][rows], split.day)))
            for name in PRICE_COLUMNS:
                table[name][before] = round_adjusted(table[name][before] / split.ratio)
            notes.append(f"{_describe(split)}: prices before it are divided by {split.ratio:g}")
    return notes


def _is_in_prices(table: PriceTable, splits: dict[Split, None]) -> bool:
    """Say whether the prices of one symbol jump at its splits; small ones are too small to tell."""
    votes = {}
    for split in splits:
        rows = _rows_of(table, split.symbol)
        opens, closes = _opens(table, rows), table["close"][rows]
        place = int(np.searchsorted(table["day"][rows], split.day))
        if place:
            jump, ratio = np.log(closes[place - 1] / opens[place]), np.log(split.ratio)
            votes[split] = (abs(jump - ratio) < abs(jump), abs(ratio))
    if not votes:
        return False
    large = {split: vote for split, (vote, size) in votes.items() if size > 0.2} or {
        max(votes, key=lambda split: votes[split][1]): max(votes.values(), key=lambda vote: vote[1])[0]
    }
    if len(set(large.values())) > 1:
        some = _list_some([_describe(split) for split, vote in large.items() if vote])
        others = _list_some([_describe(split) for split, vote in large.items() if not vote])
        raise PriceFileError(
            f"prices jump at {some}, but not at {others}; say which to adjust for with --split SYMBOL:DAY:4:1"
            " (1:1 for none)"
        )
    return bool(next(iter(large.values())))


def find_jumps(table: PriceTable, files: Sequence[bool]) -> Iterator[Split]:
    """Yield where a price of some files jumps overnight as far as in a split, the next open as well."""
    is_looked_at = np.array(files)
    for code, symbol in enumerate(table.symbols):
        rows = table.rows_of(code)  # one after the other: logarithms of all rows take much memory
        opens, closes = _opens(table, rows), table["close"][rows]
        jumps = np.log([closes[:-1] / opens[1:], closes[:-1] / closes[1:]])
        is_jump = (np.abs(jumps) > _LEAST_JUMP).all(axis=0) & is_looked_at[table["file"][rows][1:]]
        for row in np.flatnonzero(is_jump).tolist():
            if ratio := find_ratio(*jumps[:, row].tolist()):
                yield Split(symbol, int(table["day"][rows][row + 1]), ratio)


def find_ratio(*jumps: float) -> float | None:
    """Return the ratio of the split that logarithms of price changes look like, None for none."""
    ratios = [*RATIOS, *(1 / size for size in RATIOS[1:])]
    best = min(ratios, key=lambda ratio: abs(jumps[0] - np.log(ratio)))
    return best if all(abs(jump - np.log(best)) < _NEAR for jump in jumps) else None


def describe_jump(split: Split) -> str:
    """Return a sentence on a jump that looks like a split."""
    return (
        f"{split.symbol} jumps on {date.fromordinal(split.day)} as in a split of"
        f" {_describe_ratio(split.ratio)}; if it is one: --split {_describe(split)},"
        f" if not: --split {_describe(split._replace(ratio=1))}"
    )


def _describe(split: Split) -> str:
    return f"{split.symbol}:{date.fromordinal(split.day)}:{_describe_ratio(split.ratio)}"


def _describe_ratio(ratio: float) -> str:
    if ratio < 1:
        return ":".join(reversed(_describe_ratio(1 / ratio).split(":")))
    for size in range(1, 11):
        if abs(ratio * size - round(ratio * size)) < 1e-6:
            return f"{round(ratio * size)}:{size}"
    return f"{ratio:g}:1"


def _opens(table: PriceTable, rows: slice) -> Floats:
    return np.where(np.isnan(table["open"][rows]), table["close"][rows], table["open"][rows])


def _rows_of(table: PriceTable, symbol: str) -> slice:
    return table.rows_of(table.symbols.index(symbol))


def _list_some(names: Sequence[Any], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest
