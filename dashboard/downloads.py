"""CSV files that are sent while their rows are read: a file of any size takes the memory of one batch.

Owns the file format (RFC 4180) and the HTTP responses, and prevents a spreadsheet from running a text of the
file as a formula. Reads nothing itself.
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
from core.service.inputs import show

FORMULA = re.compile(
    r"""(?P<start>^|[;\t\r\n])"""
    r"""(?=[\s"\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*"""
    r"""[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212])"""
)
"""Where a formula begins: at the start of a text, or after a semicolon, a tab or a line end, because in many
languages spreadsheets also split cells at semicolons or tabs. A formula begins with =, +, - or @, or with the
wide or small form of one; spaces, quotes and invisible characters before this sign are skipped."""
CHUNK_ROWS = 500

Cells = Sequence[object]


class CsvFile(NamedTuple):
    """A file: its name, its header, and its rows, which are read while the file is sent."""

    name: str
    columns: Cells
    rows: Iterable[Cells]


def answer_csv(read: Callable[[], CsvFile]) -> Response:
    """Return the response with a file; status 400 for a wrong filter, 503 without a database.

    The first row is read before the response begins. Without rows the file has only the header.
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
    """Yield the text of a file, the header first, some hundred rows at a time.

    Texts go through `disarm`, so that none is run as a formula; numbers, dates and ids are written unchanged.
    """
    rest = iter(rows)
    chunk: Iterable[Cells] = [columns]
    while chunk:
        text = io.StringIO()
        csv.writer(text).writerows(map(_disarm_row, chunk))
        yield text.getvalue()
        chunk = list(islice(rest, CHUNK_ROWS))


def parse_day(text: str, name: str) -> date:
    """Return the date in the query parameter `name`; raises `InvalidInput` if it is no date."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{name} is {show(text)}; give a date such as 2013-03-01") from None


def disarm(text: str) -> str:
    """Put an apostrophe before each place of a text where a spreadsheet would begin a formula."""
    return FORMULA.sub(r"\g<start>'", text)


def _disarm_row(cells: Cells) -> Cells:
    return [disarm(cell) if isinstance(cell, str) else cell for cell in cells]
