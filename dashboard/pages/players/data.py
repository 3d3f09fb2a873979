"""What the players page reads from the service, and the filter of its list.

Figures of all players are at most five minutes old, finished days an hour; the list of silent players is read
each time.
"""

from datetime import date, datetime, timedelta
from typing import Any

import msgspec

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import PlayerDay, PlayerReport, PlayerWindow, SilentPlayer
from core.service.players import MAX_DAYS

LOST_DAYS = 30
"""A player who was seen once, but not within so many days, is lost."""

DAYS_SHOWN = MAX_DAYS
ROWS_SHOWN = 50

ORDERS = {
    "Seen most recently": "last_active",
    "Silent longest": "-last_active",
    "Name, A to Z": "username",
}


class Silence(msgspec.Struct, frozen=True):
    """The filters of the list of silent players."""

    days: int = LOST_DAYS
    sessions: int = 0
    joined: date | None = None
    prefix: str = ""
    order: str = "last_active"

    def list_filters(self) -> dict[str, Any]:
        """Return the filters as arguments of the service's calls that do not order."""
        return {"days": self.days, "sessions": self.sessions, "joined": self.joined, "prefix": self.prefix}


class SilentPage(msgspec.Struct, frozen=True):
    """A page of silent players, and how many there are in all, counted up to 10,000."""

    players: tuple[SilentPlayer, ...]
    total: int


class Comparison(msgspec.Struct, frozen=True):
    """A finished window and the one before it; `lost` are players whose 30th silent day it was."""

    window: PlayerWindow
    before: PlayerWindow
    lost: int
    lost_before: int


def list_days(service: EnhancedDatabaseService) -> tuple[PlayerDay, ...]:
    """Return the last 90 days, oldest first."""
    return service.list_player_days(days=DAYS_SHOWN)


def count_seen(report: PlayerReport, days: int) -> int:
    """Return how many players were seen in the last days, today included."""
    first = report.today - timedelta(days=days - 1)
    return sum(row.players for row in report.last_seen if row.day >= first)


def count_lost(report: PlayerReport) -> int:
    """Return how many players were seen once, but not in the last LOST_DAYS days."""
    return report.players - report.never_seen - count_seen(report, LOST_DAYS)


def find_window(report: PlayerReport, *, days: int, end: int) -> PlayerWindow:
    """Return the window of `days` days up to the day `end` days ago."""
    last = report.today - timedelta(days=end)
    first = last - timedelta(days=days - 1)
    return next(window for window in report.windows if (window.first, window.last) == (first, last))


def compare_windows(report: PlayerReport, days: int) -> Comparison:
    """Return the finished window of `days` days, and as many days before it."""
    window = find_window(report, days=days, end=1)
    before = find_window(report, days=days, end=days + 1)
    return Comparison(window, before, _count_newly_lost(report, window), _count_newly_lost(report, before))


def _count_newly_lost(report: PlayerReport, window: PlayerWindow) -> int:
    silence = timedelta(days=LOST_DAYS)
    return sum(row.players for row in report.last_seen if window.first <= row.day + silence <= window.last)


def load_silent(service: EnhancedDatabaseService, silence: Silence, after: SilentPlayer | None) -> SilentPage:
    """Return the silent players that follow one; none for a prefix that cannot be a username."""
    try:
        total = service.count_silent_players(**silence.list_filters())
        players = service.list_silent_players(
            **silence.list_filters(), order=silence.order, limit=ROWS_SHOWN, after=after
        )
    except InvalidInput:
        return SilentPage((), 0)
    return SilentPage(players, total)


def find_last_seen(player: SilentPlayer) -> date | datetime | None:
    """Return when a player was active last; the last session when that is not known."""
    return player.last_active or player.last_session
