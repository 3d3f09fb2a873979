"""CSV downloads. A file is sent while its rows are read, so at most 500 rows are in memory at a time.

Owns the file format (RFC 4180) and the HTTP responses. Changes cells that a spreadsheet would run as
formulas. Reads nothing from the service itself.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from itertools import chain, islice
from typing import NamedTuple

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from core.errors import EchoMarketsError, InvalidInput
from core.service.argument_checks import show

FORMULA = re.compile(
    r"""(?P<start>^|[;\t\r\n])"""
    r"""(?=[\s"\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*"""
    r"""[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212])"""
)
"""Matches every position in a text where a spreadsheet could begin a formula.

A formula can begin at the start of the text, or after a semicolon, a tab or a line end: in many languages,
spreadsheets also split cells at semicolons or tabs. Its first character is =, +, - or @, or the full-width or
small form of one of these. Spaces, quotes and invisible characters may stand before that character.
"""
CHUNK_ROWS = 500

Cells = Sequence[object]


class CsvFile(NamedTuple):
    """The name, the header and the rows of a CSV file; `rows` is consumed while the file is sent."""

    name: str
    columns: Cells
    rows: Iterable[Cells]


def answer_csv(read: Callable[[], CsvFile]) -> Response:
    """Return the response that sends the CSV file that `read` returns.

    The status is 400 if `read` raises InvalidInput, and 503 if it raises another error of the service. The
    first row is read before the response begins, because the status cannot change later. A file without rows
    has only the header.
    """
    try:
        file = read()
        rows = iter(file.rows)
        first = list(islice(rows, 1))
    except InvalidInput as error:
        return PlainTextResponse(f"{error}\n", status_code=400)
    except EchoMarketsError:
        return PlainTextResponse("the database does not answer; try again\n", status_code=503)
    return StreamingResponse(
        write_csv(file.columns, chain(first, rows)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{file.name}"', "Cache-Control": "no-store"},
    )


def write_csv(columns: Cells, rows: Iterable[Cells]) -> Iterator[str]:
    """Yield the text of a CSV file in pieces: first the header, then up to CHUNK_ROWS rows each.

    Text cells go through `escape_formulas`. Numbers, dates and ids are written unchanged.
    """
    rest = iter(rows)
    chunk: Iterable[Cells] = [columns]
    while chunk:
        text = io.StringIO()
        csv.writer(text).writerows(map(_disarm_row, chunk))
        yield text.getvalue()
        chunk = list(islice(rest, CHUNK_ROWS))


def parse_day(text: str, name: str) -> date:
    """Return the date that the query parameter `name` holds. Raises `InvalidInput` if it is not a date."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{name} is {show(text)}; give a date such as 2013-03-01") from None


def escape_formulas(text: str) -> str:
    """Return the text with an apostrophe before each possible formula: `=1+1` becomes `'=1+1`."""
    return FORMULA.sub(r"\g<start>'", text)


def _disarm_row(cells: Cells) -> Cells:
    return [escape_formulas(cell) if isinstance(cell, str) else cell for cell in cells]
