"""The download of a leaderboard as a CSV file: its link and its route.

The file has the players of all pages that the filters mean, in their order, or those of the period; the
compared session is not in it. Best first, rows are written while they are read, so a leaderboard of any size
takes the memory of one batch; in any other order its rows are sorted in memory.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from itertools import chain, islice
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError, InvalidInput
from core.records import LeaderboardEntry, PeriodLeaderboard
from dashboard import runtime, scores
from dashboard.downloads import CHUNK_ROWS, disarm, write_csv
from dashboard.formats import describe_category, format_count
from dashboard.pages.leaderboards import data
from dashboard.pages.leaderboards.data import Selection
from dashboard.pages.leaderboards.filters import PERIODS

PATH = "/download/leaderboard.csv"
COLUMNS = ("rank", "username", "score", "user_id", "session_date", "category")
PERIOD_COLUMNS = (
    "rank",
    "username",
    "mean_score",
    "sessions",
    "user_id",
    "first_session",
    "last_session",
    "category",
)
Row = tuple[object, ...]


def build_link(selection: Selection) -> str:
    """Return the address of the file of a selection, relative to any page."""
    wanted = {"category": selection.category.key, "day": selection.day.isoformat()}
    if selection.sessions > 1:
        wanted["sessions"] = str(selection.sessions)
    elif selection.order != "rank":
        wanted["order"] = selection.order
    if selection.prefix:
        wanted["find"] = selection.prefix
    return f"{PATH[1:]}?{urlencode(wanted)}"


def describe(selection: Selection) -> str:
    """Say what is in the file of a selection."""
    found = f" whose username starts with “{selection.prefix}”" if selection.prefix else ""
    if selection.sessions > 1:
        return f"The best {format_count(data.PERIOD_PLAYERS)} players of the period{found}, with mean scores"
    return f"All players of this session's leaderboard{found}, on all pages and in the chosen order"


def get_leaderboard(request: Request) -> Response:
    """Answer with all rows; 400 for a wrong parameter, 503 without a database.

    Runs on a worker thread. A leaderboard without entries is a file with only the header.
    """
    try:
        selection = _parse(request)
        lines = write_csv(*read(runtime.get_service(), selection))
        # the header and the first rows: errors of the first read get a status of their own
        first = list(islice(lines, 2))
    except InvalidInput as error:
        return PlainTextResponse(f"{error}\n", status_code=400)
    except EchoMarketsError:
        return PlainTextResponse("the database does not answer; try again\n", status_code=503)
    return StreamingResponse(
        chain(first, lines),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{_name(selection)}"',
            "Cache-Control": "no-store",
        },
    )


def list_rows(entries: Iterable[LeaderboardEntry], *, order: str = "rank", prefix: str = "") -> Iterable[Row]:
    """Return the rows of entries that are given best first, those of a prefix, in an order of the page."""
    wanted = prefix.lower()
    rows = (_build_row(entry) for entry in entries if entry.username.lower().startswith(wanted))
    if order == "rank":
        return rows
    if order == "-rank":
        return reversed(list(rows))
    return sorted(rows, key=lambda row: str(row[1]).lower(), reverse=order.startswith("-"))


def list_period_rows(period: PeriodLeaderboard, *, category: str, prefix: str = "") -> Iterator[Row]:
    """Yield the rows of a period, those of a prefix."""
    for entry in data.filter_by_name(period.entries, prefix):
        name = disarm(entry.username)
        days = period.days[-1], period.days[0]
        yield entry.rank, name, entry.score, entry.sessions, entry.user_id, *days, category


def read(service: EnhancedDatabaseService, selection: Selection) -> tuple[Row, Iterable[Row]]:
    """Return the header and the rows of the file of a selection."""
    category, prefix = selection.category.key, selection.prefix
    if selection.sessions > 1:
        period = data.load_period(service, selection)
        return PERIOD_COLUMNS, list_period_rows(period, category=category, prefix=prefix)
    source = scores.find_source(service, selection.category, selection.day)
    return COLUMNS, list_rows(source.stream(service), order=selection.order, prefix=prefix)


def _build_row(entry: LeaderboardEntry) -> Row:
    name = disarm(entry.username)
    return entry.rank, name, entry.score, entry.user_id, entry.session_date, entry.category


def _name(selection: Selection) -> str:
    period = f"-last-{selection.sessions}" if selection.sessions > 1 else ""
    return f"leaderboard-{selection.category.key}-{selection.day.isoformat()}{period}.csv"


def _parse(request: Request) -> Selection:
    wanted = request.query_params
    order, sessions = wanted.get("order", "rank"), wanted.get("sessions", "1")
    if order not in data.ORDERS.values():
        raise InvalidInput(f"order is {order!r}; give one of {', '.join(data.ORDERS.values())}")
    if sessions not in {str(count) for count in PERIODS.values()}:
        raise InvalidInput(f"sessions is {sessions!r}; give one of {', '.join(map(str, PERIODS.values()))}")
    return Selection(
        category=describe_category(wanted.get("category", "")),
        day=_parse_day(wanted.get("day", "")),
        sessions=int(sessions),
        compared_day=None,
        rows=CHUNK_ROWS,
        order=order,
        prefix=wanted.get("find", "").strip(),
    )


def _parse_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"day is {text!r}; give a date such as 2013-03-01") from None
