"""The CSV downloads of the Players page: the retention, and the full list of silent players."""

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from core.errors import InvalidInput
from core.records import SilentPlayer
from core.service.argument_checks import show
from dashboard import runtime
from dashboard.downloads import Cells, CsvFile, answer_csv, parse_day
from dashboard.pages.players.data import Silence
from dashboard.pages.players.tables import list_retention

SILENT_PATH = "/download/silent-players.csv"
RETENTION_PATH = "/download/retention.csv"
SILENT_COLUMNS = (
    "username",
    "days_silent",
    "last_active",
    "last_session",
    "sessions",
    "rank",
    "ranked",
    "return_percent",
    "quest_title",
    "quest_status",
    "joined_at",
    "user_id",
)
RETENTION_COLUMNS = ("joined_week", "players", "weeks_since", "played", "percent")


def build_silent_link(silence: Silence) -> str:
    """Return the address of the file with all silent players for these filters, relative to any page."""
    given = {**silence.list_filters(), "joined": silence.joined or "", "order": silence.order}
    return f"{SILENT_PATH[1:]}?{urlencode(given)}"


def get_silent(request: Request) -> Response:
    """HTTP route: return the CSV file of all silent players for the filters in the address.

    Runs in a worker thread.
    """
    given = request.query_params

    def read() -> CsvFile:
        players = runtime.get_service().stream_silent_players(
            days=_parse_int(given.get("days", "30"), "days"),
            sessions=_parse_int(given.get("sessions", "0"), "sessions"),
            joined=parse_day(joined, "joined") if (joined := given.get("joined", "")) else None,
            prefix=given.get("prefix", ""),
            order=given.get("order", "last_active"),
        )
        return CsvFile("silent-players.csv", SILENT_COLUMNS, map(_build_row, players))

    return answer_csv(read)


def get_retention(_: Request) -> Response:
    """HTTP route: return the CSV file of the retention, one row per cohort and week.

    Runs in a worker thread.
    """

    def read() -> CsvFile:
        cells = list_retention(runtime.get_service().get_player_report())
        rows = ((cell.week, cell.players, cell.since, cell.played, f"{cell.percent:.2f}") for cell in cells)
        return CsvFile("retention.csv", RETENTION_COLUMNS, rows)

    return answer_csv(read)


def _build_row(player: SilentPlayer) -> Cells:
    row = player.asdict()
    return tuple(row[name] for name in SILENT_COLUMNS)


def _parse_int(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"{name} is {show(text)}; give a whole number") from None
