"""The download of a leaderboard as a CSV file: its link and its route.

Rows are written while they are read, so a leaderboard of any size takes the memory of one batch.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import chain, islice
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from core.errors import EchoMarketsError, InvalidInput
from core.records import LeaderboardEntry
from dashboard import runtime

PATH = "/download/leaderboard.csv"
COLUMNS = ("rank", "username", "score", "user_id", "session_date", "category")
CHUNK_ROWS = 500


def build_link(category: str, day: date) -> str:
    """Return the address of a leaderboard's file, relative to any page."""
    return f"{PATH[1:]}?{urlencode({'category': category, 'day': day.isoformat()})}"


def get_leaderboard(request: Request) -> Response:
    """Answer with all entries; 400 for a wrong category or day, 503 without a database.

    Runs on a worker thread. A leaderboard without entries is a file with only the header.
    """
    category, day = request.query_params.get("category", ""), request.query_params.get("day", "")
    try:
        entries = runtime.get_service().stream_leaderboard(category, _parse_day(day))
        first = list(islice(entries, 1))
    except InvalidInput as error:
        return PlainTextResponse(f"{error}\n", status_code=400)
    except EchoMarketsError:
        return PlainTextResponse("the database does not answer; try again\n", status_code=503)
    return StreamingResponse(
        write_rows(chain(first, entries)),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="leaderboard-{category}-{day}.csv"',
            "Cache-Control": "no-store",
        },
    )


def write_rows(entries: Iterable[LeaderboardEntry]) -> Iterator[str]:
    """Yield a leaderboard as CSV (RFC 4180), the header first, some hundred rows at a time."""
    rows = iter(entries)
    chunk: Iterable[tuple[object, ...]] = [COLUMNS]
    while chunk:
        text = io.StringIO()
        csv.writer(text).writerows(chunk)
        yield text.getvalue()
        chunk = [_build_row(entry) for entry in islice(rows, CHUNK_ROWS)]


def _build_row(entry: LeaderboardEntry) -> tuple[object, ...]:
    name = _disarm(entry.username)
    return entry.rank, name, entry.score, entry.user_id, entry.session_date, entry.category


def _disarm(text: str) -> str:
    """Prevent spreadsheets from running a username as a formula."""
    return f"'{text}" if text[:1] in "=+-@" else text


def _parse_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"day is {text!r}; give a date such as 2013-03-01") from None
