"""CSV files: a spreadsheet runs no text as a formula, and reads numbers as numbers."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from uuid import UUID

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.downloads import escape_formulas, write_csv

ID = UUID(int=7)
PIECES = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\uff1dcmd", "\uff0b1", "\uff0d1", "\uff20x", "\ufe66A1", "\u22125",
    ";", "\t", "\r", "\n", ",", '"', "'", " ", "\x00", "\u00a0", "\u200b", "\u202e", "\ufeff", "a", "5",
)  # fmt: skip  # one text a line would make a long list
HOSTILE = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=8).map(
    "".join
)
NUMBERS = st.decimals(-(10**12), 10**12, places=2) | st.integers(-(2**63), 2**63)


def write_rows(*rows: tuple[object, ...]) -> str:
    """Return the text of a CSV file with these rows, without its header."""
    return "".join(write_csv(("a", "b", "c"), rows)).partition("\r\n")[2]


def split_cells(line: str) -> Iterator[str]:
    """Yield the cells of a line for each separator that a spreadsheet uses, with and without quoting."""
    for separator in ",;\t":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            for row in csv.reader(io.StringIO(line, newline=""), delimiter=separator, quoting=quoting):
                yield from row if separator != "," or quoting is csv.QUOTE_MINIMAL else ()


def is_skipped(letter: str) -> bool:
    """Return whether a spreadsheet may drop this character at the start of a cell."""
    return letter.isspace() or unicodedata.category(letter) == "Cc" or letter in '"\u200b\u202e\ufeff'


def is_formula(cell: str) -> bool:
    """Return whether the first visible character of a cell begins a formula."""
    first = next((letter for letter in cell if not is_skipped(letter)), "")
    return unicodedata.normalize("NFKC", first).startswith(("=", "+", "-", "@", "\u2212"))


@given(HOSTILE)
def test_no_text_becomes_a_formula(text: str) -> None:
    """No cell begins a formula, whichever separator and quoting the spreadsheet uses."""
    assert not [cell for cell in split_cells(write_rows(("row", text, "end"))) if is_formula(cell)]


@given(HOSTILE)
def test_only_apostrophes_are_added(text: str) -> None:
    """A text in the file differs only by added apostrophes, and a second `escape_formulas` adds none."""
    [[_, found, _]] = csv.reader(io.StringIO(write_rows(("row", text, "end")), newline=""))
    assert re.sub("'", "", found) == re.sub("'", "", text)
    assert escape_formulas(found) == found


@given(NUMBERS, st.dates())
def test_numbers_dates_and_ids_are_written_unchanged(number: Decimal | int, day: date) -> None:
    """Numbers, dates and ids get no apostrophe, so a spreadsheet can add up negative numbers."""
    [cells] = csv.reader(io.StringIO(write_rows((number, day, ID)), newline=""))
    assert (Decimal(cells[0]), cells[1:]) == (number, [day.isoformat(), str(ID)])


def test_a_column_of_numbers_is_read_as_numbers() -> None:
    """The CSV reader of pandas reads a column with negative and missing numbers as numbers."""
    text = "".join(write_csv(("score", "username"), [(Decimal("-1.50"), "=1"), (None, "bob"), (7, "-2")]))
    frame = pd.read_csv(io.StringIO(text))
    assert list(frame["score"].dropna()) == [-1.5, 7.0]
    assert list(frame["username"]) == ["'=1", "bob", "'-2"]


@pytest.mark.parametrize("text", ["", "a=1", "1-1", "a+b@example.com", "'=1", "one; two", "5 %", "a,=1"])
def test_a_harmless_text_is_unchanged(text: str) -> None:
    """A sign inside a word, or after a comma in a quoted cell, is not a formula."""
    assert escape_formulas(text) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        (" =1", "' =1"),
        ("bob;=1", "bob;'=1"),
        ('bob;"=1"', 'bob;\'"=1"'),
        ("a\t+1\n@b", "a\t'+1\n'@b"),
        ("\uff1d1", "'\uff1d1"),
        ("\ufeff-1", "'\ufeff-1"),
    ],
)
def test_an_apostrophe_stands_before_each_formula(text: str, written: str) -> None:
    """An apostrophe is added before each formula, also where a separator may begin a new cell."""
    assert escape_formulas(text) == written
