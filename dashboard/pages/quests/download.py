"""The CSV download of the stuck quests: its link and its HTTP route."""

from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from core.records import StuckQuest
from core.service.quest_reports import MAX_STUCK
from dashboard import runtime
from dashboard.downloads import Cells, CsvFile, answer_csv
from dashboard.pages.quests.tables import describe_reasons

PATH = "/download/stuck-quests.csv"
COLUMNS = (
    "username",
    "last_active",
    "reasons",
    "type",
    "title",
    "current_progress",
    "target_value",
    "created_at",
    "expires_at",
    "user_id",
    "quest_id",
)


def build_link(quest_type: str | None) -> str:
    """Return the address of the file of stuck quests, relative to any page; None selects all types."""
    return PATH[1:] if quest_type is None else f"{PATH[1:]}?{urlencode({'type': quest_type})}"


def get_stuck(request: Request) -> Response:
    """HTTP route: return the CSV file of at most MAX_STUCK stuck quests, in the order of the page.

    Runs in a worker thread.
    """

    def read() -> CsvFile:
        quest_type = request.query_params.get("type")
        stuck = runtime.get_service().list_stuck_quests(type=quest_type, limit=MAX_STUCK)
        return CsvFile("stuck-quests.csv", COLUMNS, map(build_row, stuck.first))

    return answer_csv(read)


def build_row(item: StuckQuest) -> Cells:
    """Return the cells of a stuck quest. Amounts have all decimals, and times all digits."""
    quest = item.quest
    return (
        item.username,
        _format_time(item.last_active),
        describe_reasons(item),
        quest.type,
        quest.title,
        quest.current_progress,
        quest.target_value,
        _format_time(quest.created_at),
        _format_time(quest.expires_at),
        quest.user_id,
        quest.id,
    )


def _format_time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).isoformat()
