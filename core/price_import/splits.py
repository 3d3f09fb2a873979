"""Adjusts prices for stock splits, and finds price jumps that look like a split.

After a split of 4:1 one share has become four, and the price is a quarter of the price before.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Final

import numpy as np

from core.errors import PriceFileError
from core.price_import.options import Split
from core.price_import.table import PriceTable, round_adjusted, shorten_list
from core.price_import.vocabulary import PRICES

RATIOS: Final = (1.5, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 100)
"""The usual split ratios: one share becomes this number of shares. In a reverse split, 1 / ratio is used."""

_MIN_JUMP: Final = 0.25
"""The prices of a symbol jump if their logarithm changes by more than this from one day to the next."""

_SPLIT_TOLERANCE: Final = 0.14
"""A jump looks like a split if it differs from log(ratio) by less than this: prices also move on that day."""

_LARGE_SPLIT: Final = 0.2
"""A split can be recognized in the prices if the logarithm of its ratio is larger than this."""


def adjust_splits(table: PriceTable, found: Sequence[Split], given: Sequence[Split]) -> list[str]:
    """Divide the prices before each split by its ratio; return sentences that describe the changes.

    `given` has the splits in the options, which are always applied. `found` has the splits in the files,
    which are applied only if the prices of the symbol jump on their days. Raises `PriceFileError` if a symbol
    has no row on the day of a given split, or if its prices jump at only some of its found splits.
    """
    notes = []
    named = {(split.symbol, split.day) for split in given}
    for split in given:
        if split.symbol not in table.symbols or split.day not in table["day"][table.find_day(*split[:2])[0]]:
            raise PriceFileError(f"--split {_describe(split)}: no row is of this symbol and day")
    for symbol in dict.fromkeys(split.symbol for split in (*found, *given)):
        in_files = [
            split
            for split in dict.fromkeys(found)
            if split.symbol == symbol and (symbol, split.day) not in named
        ]
        splits = in_files if _are_in_prices(table, in_files) else []
        if in_files and not splits:
            notes.append(f"{symbol}: already adjusted for {shorten_list(list(map(_describe, in_files)), 5)}")
        for split in (*splits, *(split for split in given if split.symbol == symbol and split.ratio != 1)):
            rows, row = table.find_day(symbol, split.day)
            for name in PRICES:
                before = table[name][rows.start : row]
                before[:] = round_adjusted(before / split.ratio)
            notes.append(f"{_describe(split)}: prices before it are divided by {split.ratio:g}")
    return notes


def _are_in_prices(table: PriceTable, splits: Sequence[Split]) -> bool:
    """Return whether the prices of one symbol jump at its splits.

    Checks the splits larger than `_LARGE_SPLIT`, or if there is none, only the largest split. Raises
    `PriceFileError` if the prices jump at only some of the checked splits.
    """
    votes = {}
    for split in splits:
        rows, row = table.find_day(split.symbol, split.day)
        if row > rows.start:
            jump = np.log(table["close"][row - 1] / table.opens(slice(row, row + 1))[0])
            votes[split] = bool(abs(jump - np.log(split.ratio)) < abs(jump))
    if not votes:
        return False
    sizes = {split: abs(np.log(split.ratio)) for split in votes}
    large = [split for split in votes if sizes[split] > _LARGE_SPLIT] or [max(votes, key=sizes.__getitem__)]
    shown = [_describe(split) for split in large if votes[split]]
    others = [_describe(split) for split in large if not votes[split]]
    if shown and others:
        raise PriceFileError(
            f"prices jump at {shorten_list(shown, 5)}, but not at {shorten_list(others, 5)};"
            " say which to adjust for with --split SYMBOL:DAY:4:1 (1:1 for none)"
        )
    return bool(shown)


def find_jumps(table: PriceTable, files: Sequence[bool]) -> Iterator[Split]:
    """Yield a possible split for each day on which the prices jump by the ratio of a usual split.

    Both the open and the close of the day must differ from the previous close by this ratio. `files` says for
    each file whether its rows are checked.
    """
    is_looked_at = np.array(files)
    for code, symbol in enumerate(table.symbols):
        rows = table.rows_of(code)  # one symbol at a time: logarithms of all rows would need much memory
        opens, closes = table.opens(rows), table["close"][rows]
        jumps = np.log([closes[:-1] / opens[1:], closes[:-1] / closes[1:]])
        is_jump = (np.abs(jumps) > _MIN_JUMP).all(axis=0) & is_looked_at[table["file"][rows][1:]]
        for row in np.flatnonzero(is_jump).tolist():
            if ratio := find_ratio(*jumps[:, row].tolist()):
                yield Split(symbol, int(table["day"][rows][row + 1]), ratio)


def find_ratio(*jumps: float) -> float | None:
    """Return the usual split ratio that fits all jumps, or None. A jump is the logarithm of a price ratio."""
    ratios = [*RATIOS, *(1 / size for size in RATIOS[1:])]
    best = min(ratios, key=lambda ratio: abs(jumps[0] - np.log(ratio)))
    return best if all(abs(jump - np.log(best)) < _SPLIT_TOLERANCE for jump in jumps) else None


def describe_jump(split: Split) -> str:
    """Return a warning about a price jump that looks like this split."""
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
