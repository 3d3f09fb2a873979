"""CSV files that are written while their rows are read: a file of any size takes the memory of one batch.

Owns the form of the files (RFC 4180) and the answers of their routes. Reads nothing itself.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from itertools import chain, islice
from typing import NamedTuple

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from core.errors import EchoMarketsError, InvalidInput

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a formula begins with; some spreadsheets skip a tab or a line break before it."""
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
    """Yield a file, the header first, some hundred rows at a time."""
    rest = iter(rows)
    chunk: Iterable[Cells] = [columns]
    while chunk:
        text = io.StringIO()
        csv.writer(text).writerows(chunk)
        yield text.getvalue()
        chunk = list(islice(rest, CHUNK_ROWS))


def parse_day(text: str, name: str) -> date:
    """Return the date that a filter `name` of the address has; raises `InvalidInput`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{name} is {text!r}; give a date such as 2013-03-01") from None


def disarm(text: str) -> str:
    """Prevent spreadsheets from running a text of somebody else, such as a username, as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
