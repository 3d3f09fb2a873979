"""The CSV download of a leaderboard: its link and its HTTP route.

The file lists all players that match the filters, in the order of the table. For a period, it lists the best
players of the period. It does not contain the compared session. In the order "best first", rows are sent
while they are read, and only one batch is in memory. For any other order, all rows are sorted in memory.
"""

from collections.abc import Iterable, Iterator
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import LeaderboardEntry, PeriodLeaderboard
from core.service.argument_checks import show
from dashboard import exact_ranks, runtime
from dashboard.categories import describe_category
from dashboard.downloads import CHUNK_ROWS, CsvFile, answer_csv, parse_day
from dashboard.formats import format_count
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
    """Return the address of the CSV file for the selected filters, relative to any page."""
    wanted = {"category": selection.category.key, "day": selection.day.isoformat()}
    if selection.sessions > 1:
        wanted["sessions"] = str(selection.sessions)
    elif selection.order != "rank":
        wanted["order"] = selection.order
    if selection.prefix:
        wanted["find"] = selection.prefix
    return f"{PATH[1:]}?{urlencode(wanted)}"


def describe(selection: Selection) -> str:
    """Return the help text of the download button: which players the file lists."""
    found = f" whose username starts with “{selection.prefix}”" if selection.prefix else ""
    if selection.sessions > 1:
        return f"The best {format_count(data.PERIOD_PLAYERS)} players of the period{found}, with mean scores"
    return f"All players of this session's leaderboard{found}, on all pages and in the chosen order"


def get_leaderboard(request: Request) -> Response:
    """HTTP route: return the CSV file. The status is 400 for a wrong parameter, and 503 without a database.

    Runs in a worker thread. For a leaderboard without entries, the file has only the header.
    """
    return answer_csv(lambda: read(runtime.get_service(), _parse(request)))


def list_rows(entries: Iterable[LeaderboardEntry], *, order: str = "rank", prefix: str = "") -> Iterable[Row]:
    """Return rows for the entries whose username starts with the prefix, sorted by `order`.

    `entries` are best first. `order` is a value of `data.ORDERS`.
    """
    rows = map(_build_row, data.filter_by_name(entries, prefix))
    if order == "rank":
        return rows
    if order == "-rank":
        return reversed(list(rows))
    return sorted(rows, key=lambda row: str(row[1]).lower(), reverse=order.startswith("-"))


def list_period_rows(period: PeriodLeaderboard, *, category: str, prefix: str = "") -> Iterator[Row]:
    """Yield a row for each player of the period whose username starts with the prefix."""
    for entry in data.filter_by_name(period.entries, prefix):
        days = period.days[-1], period.days[0]
        yield entry.rank, entry.username, entry.score, entry.sessions, entry.user_id, *days, category


def read(service: EnhancedDatabaseService, selection: Selection) -> CsvFile:
    """Return the CSV file for the selected filters."""
    name, category, prefix = _name(selection), selection.category.key, selection.prefix
    if selection.sessions > 1:
        period = data.load_period(service, selection)
        return CsvFile(name, PERIOD_COLUMNS, list_period_rows(period, category=category, prefix=prefix))
    source = exact_ranks.find_source(service, selection.category, selection.day)
    rows = list_rows(source.stream(service), order=selection.order, prefix=prefix)
    return CsvFile(name, COLUMNS, rows)


def _build_row(entry: LeaderboardEntry) -> Row:
    return entry.rank, entry.username, entry.score, entry.user_id, entry.session_date, entry.category


def _name(selection: Selection) -> str:
    period = f"-last-{selection.sessions}" if selection.sessions > 1 else ""
    return f"leaderboard-{selection.category.key}-{selection.day.isoformat()}{period}.csv"


def _parse(request: Request) -> Selection:
    wanted = request.query_params
    order, sessions = wanted.get("order", "rank"), wanted.get("sessions", "1")
    if order not in data.ORDERS.values():
        raise InvalidInput(f"order is {show(order)}; give one of {', '.join(data.ORDERS.values())}")
    if sessions not in {str(count) for count in PERIODS.values()}:
        raise InvalidInput(
            f"sessions is {show(sessions)}; give one of {', '.join(map(str, PERIODS.values()))}"
        )
    category = describe_category(wanted.get("category", ""))
    if category.is_running_total and sessions != "1":
        raise InvalidInput(
            f"sessions is {show(sessions)}, but {category.key} is a running total without a mean; give 1"
        )
    return Selection(
        category=category,
        day=parse_day(wanted.get("day", ""), "day"),
        sessions=int(sessions),
        compared_day=None,
        rows=CHUNK_ROWS,
        order=order,
        prefix=wanted.get("find", "").strip(),
    )
