"""CSV files that are written while their rows are read: a file of any size takes the memory of one batch.

Owns the form of the files (RFC 4180) and the answers of their routes. Reads nothing itself.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from core.errors import EchoMarketsError, InvalidInput

CHUNK_ROWS = 500

Cells = Sequence[object]


def answer_csv(name: str, columns: Cells, read: Callable[[], Iterator[Cells]]) -> Response:
    """Answer with all rows as the file `name`; 400 for a wrong filter, 503 without a database.

    The first row is read before the answer begins. Without rows the file has only the header.
    """
    try:
        rows = read()
        first = list(islice(rows, 1))
    except InvalidInput as error:
        return PlainTextResponse(f"{error}\n", status_code=400)
    except EchoMarketsError:
        return PlainTextResponse("the database does not answer; try again\n", status_code=503)
    return StreamingResponse(
        write_csv(columns, chain(first, rows)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
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


def disarm(text: str) -> str:
    """Prevent spreadsheets from running a username or a title as a formula."""
    return f"'{text}" if text[:1] in "=+-@" else text
