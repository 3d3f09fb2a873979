"""CSV files: no text runs as a formula in a spreadsheet, and numbers stay what they are."""

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

from dashboard.downloads import disarm, write_csv

ID = UUID(int=7)
PIECES = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\uff1dcmd", "\uff0b1", "\uff0d1", "\uff20x", "\ufe66A1", "\u22125",
    ";", "\t", "\r", "\n", ",", '"', "'", " ", "\x00", "\u00a0", "\u200b", "\u202e", "\ufeff", "a", "5",
)  # fmt: skip  # one piece a line would hide that they are put together
HOSTILE = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=8).map(
    "".join
)
NUMBERS = st.decimals(-(10**12), 10**12, places=2) | st.integers(-(2**63), 2**63)


def write(*rows: tuple[object, ...]) -> str:
    """Return a file without its header."""
    return "".join(write_csv(("a", "b", "c"), rows)).partition("\r\n")[2]


def split(line: str) -> Iterator[str]:
    """Yield the cells of a text for a spreadsheet of any language, with and without respect for quotes."""
    for separator in ",;\t":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            for row in csv.reader(io.StringIO(line, newline=""), delimiter=separator, quoting=quoting):
                yield from row if separator != "," or quoting is csv.QUOTE_MINIMAL else ()


def is_skipped(letter: str) -> bool:
    """Say whether a spreadsheet may drop a character at the start of a cell: spaces, controls, quotes."""
    return letter.isspace() or unicodedata.category(letter) == "Cc" or letter in '"\u200b\u202e\ufeff'


def is_formula(cell: str) -> bool:
    """Say whether the first visible character of a cell begins a formula."""
    first = next((letter for letter in cell if not is_skipped(letter)), "")
    return unicodedata.normalize("NFKC", first).startswith(("=", "+", "-", "@", "\u2212"))


@given(HOSTILE)
def test_no_text_becomes_a_formula_in_any_language(text: str) -> None:
    """This holds for every separator of cells, and for spreadsheets with and without quotes."""
    assert not [cell for cell in split(write(("row", text, "end"))) if is_formula(cell)]


@given(HOSTILE)
def test_only_apostrophes_are_added(text: str) -> None:
    """A program that reads the file gets the text; a second call adds nothing."""
    [[_, found, _]] = csv.reader(io.StringIO(write(("row", text, "end")), newline=""))
    assert re.sub("'", "", found) == re.sub("'", "", text)
    assert disarm(found) == found


@given(NUMBERS, st.dates())
def test_numbers_dates_and_ids_are_written_as_they_are(number: Decimal | int, day: date) -> None:
    """Negative numbers stay numbers, so that a spreadsheet can add them up."""
    [cells] = csv.reader(io.StringIO(write((number, day, ID)), newline=""))
    assert (Decimal(cells[0]), cells[1:]) == (number, [day.isoformat(), str(ID)])


def test_a_column_of_numbers_is_read_as_numbers() -> None:
    """Negative and missing numbers are read by pandas as numbers."""
    text = "".join(write_csv(("score", "username"), [(Decimal("-1.50"), "=1"), (None, "bob"), (7, "-2")]))
    frame = pd.read_csv(io.StringIO(text))
    assert list(frame["score"].dropna()) == [-1.5, 7.0]
    assert list(frame["username"]) == ["'=1", "bob", "'-2"]


@pytest.mark.parametrize("text", ["", "a=1", "1-1", "a+b@example.com", "'=1", "one; two", "5 %", "a,=1"])
def test_a_harmless_text_stays_as_it_is(text: str) -> None:
    """Signs inside a word, or after a comma in quotes, run nothing."""
    assert disarm(text) == text


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
    """It stands at the start of the cell, and of each part that a spreadsheet may take for a cell."""
    assert disarm(text) == written
