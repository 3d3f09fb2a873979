"""CSV files that are written while their rows are read: a file of any size takes the memory of one batch.

Owns the form of the files (RFC 4180) and the answers of their routes, and prevents that a spreadsheet runs a
text in them as a formula. Reads nothing itself.
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
"""Where a formula begins: at the start of a cell, or of what becomes one when a spreadsheet separates cells
at semicolons or tabs, as it does in many languages. Spaces, quotes and invisible characters before it do not
count, and the wide and small forms of the signs do."""
CHUNK_ROWS = 500

Cells = Sequence[object]


class CsvFile(NamedTuple):
    """A file: its name, its header and its rows, which are read while they are written."""

    name: str
    columns: Cells
    rows: Iterable[Cells]


def answer_csv(read: Callable[[], CsvFile]) -> Response:
    """Answer with a file; 400 for a wrong filter, 503 without a database.

    The first row is read before the answer begins. Without rows the file has only the header.
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
    """Yield a file, the header first, some hundred rows at a time.

    Every text in it is disarmed; numbers, dates and ids are written as they are.
    """
    rest = iter(rows)
    chunk: Iterable[Cells] = [columns]
    while chunk:
        text = io.StringIO()
        csv.writer(text).writerows(map(_disarm_row, chunk))
        yield text.getvalue()
        chunk = list(islice(rest, CHUNK_ROWS))


def parse_day(text: str, name: str) -> date:
    """Return the date that a filter `name` of the address has; raises `InvalidInput`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{name} is {show(text)}; give a date such as 2013-03-01") from None


def disarm(text: str) -> str:
    """Put an apostrophe before each place of a text where a spreadsheet would begin a formula."""
    return FORMULA.sub(r"\g<start>'", text)


def _disarm_row(cells: Cells) -> Cells:
    return [disarm(cell) if isinstance(cell, str) else cell for cell in cells]
