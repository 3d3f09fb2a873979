"""Reads the values of the Players page from the service, and holds the filters of its list.

The numbers of today are at most one minute out of date. The report on all players is at most 15 minutes out
of date, and the numbers of a finished day at most one hour. The list of silent players is read each time.
"""

from datetime import date, timedelta
from typing import Any

import msgspec

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import PlayerDay, PlayerReport, PlayerWindow, SilentPlayer

LOST_DAYS = 30
"""A player who was seen before, but not in the last LOST_DAYS days, is lost."""

DAYS_SHOWN = 30
WEEKS_OFFERED = 53
"""Number of weeks in the filter "Joined in the week of": one year and the current week."""
ROWS_SHOWN = 50
PLAYERS_COUNTED = 10_000
"""The service counts silent players only up to this number."""

ORDERS = {
    "Seen most recently": "last_active",
    "Silent longest": "-last_active",
    "Name, A to Z": "username",
}


class Silence(msgspec.Struct, frozen=True):
    """The filters of the list of silent players.

    `days` is the least number of days without activity, `sessions` the least number of sessions played, and
    `joined` the Monday of the week of joining.
    """

    days: int = LOST_DAYS
    sessions: int = 0
    joined: date | None = None
    prefix: str = ""
    order: str = "last_active"

    def list_filters(self) -> dict[str, Any]:
        """Return the filters as keyword arguments for the service, without the order."""
        return {"days": self.days, "sessions": self.sessions, "joined": self.joined, "prefix": self.prefix}


class Today(msgspec.Struct, frozen=True):
    """How many players were seen today so far, and how many played, traded and joined (`counts`)."""

    seen: int
    counts: PlayerDay


class SilentPage(msgspec.Struct, frozen=True):
    """One page of the list of silent players, and the length of the whole list, at most PLAYERS_COUNTED."""

    players: tuple[SilentPlayer, ...]
    total: int


class Comparison(msgspec.Struct, frozen=True):
    """A window of finished days, and the window of equal length before it.

    `lost` is the number of players who became lost in the window: their silence reached LOST_DAYS days in it.
    `lost_before` is the same number for the window before.
    """

    window: PlayerWindow
    before: PlayerWindow
    lost: int
    lost_before: int


class Losses(msgspec.Struct, frozen=True):
    """How many players were ever seen, how many of these are lost, and how many became lost in three windows.

    `week` is the window of the last 7 finished days, `before` the 7 days before it, and `today` is today so
    far.
    """

    seen: int
    lost: int
    week: int
    before: int
    today: int


def has_players(service: EnhancedDatabaseService) -> bool:
    """Return whether the game has any player."""
    return bool(service.list_users(limit=1))


def load_today(service: EnhancedDatabaseService) -> Today:
    """Return the numbers of today. This read is much faster than the report on all players."""
    return Today(service.get_seen_players(days=1).seen, service.list_player_days(days=1)[-1])


def list_weeks(today: date) -> list[date]:
    """Return the Mondays of the last WEEKS_OFFERED weeks, the current week first."""
    monday = today - timedelta(days=today.weekday())
    return [monday - timedelta(weeks=age) for age in range(WEEKS_OFFERED)]


def count_seen(report: PlayerReport, days: int) -> int:
    """Return how many players were seen in the last `days` days, including today."""
    first = report.today - timedelta(days=days - 1)
    return sum(row.players for row in report.last_seen if row.day >= first)


def count_lost(report: PlayerReport) -> int:
    """Return how many players are lost: seen before, but not in the last LOST_DAYS days."""
    return report.players - report.never_seen - count_seen(report, LOST_DAYS)


def count_earlier(report: PlayerReport) -> int:
    """Return how many players joined before the first week of joining in the report."""
    return report.players - sum(cohort.players for cohort in report.cohorts)


def find_window(report: PlayerReport, *, days: int, end: int) -> PlayerWindow:
    """Return the window of `days` days whose last day is `end` days ago; today is 0."""
    last = report.today - timedelta(days=end)
    first = last - timedelta(days=days - 1)
    return next(window for window in report.windows if (window.first, window.last) == (first, last))


def compare_windows(report: PlayerReport, days: int) -> Comparison:
    """Return the window of the last `days` finished days, and the window before it."""
    window = find_window(report, days=days, end=1)
    before = find_window(report, days=days, end=days + 1)
    return Comparison(window, before, _count_newly_lost(report, window), _count_newly_lost(report, before))


def count_losses(report: PlayerReport) -> Losses:
    """Return the numbers of lost and of newly lost players."""
    week = compare_windows(report, 7)
    return Losses(
        seen=report.players - report.never_seen,
        lost=count_lost(report),
        week=week.lost,
        before=week.lost_before,
        today=_count_newly_lost(report, find_window(report, days=1, end=0)),
    )


def _count_newly_lost(report: PlayerReport, window: PlayerWindow) -> int:
    silence = timedelta(days=LOST_DAYS)
    return sum(row.players for row in report.last_seen if window.first <= row.day + silence <= window.last)


def load_silent(service: EnhancedDatabaseService, silence: Silence, after: SilentPlayer | None) -> SilentPage:
    """Return the page of silent players that begins after the player `after`; None is the first page.

    If no username can have the prefix, the page is empty.
    """
    try:
        total = service.count_silent_players(**silence.list_filters())
        players = service.list_silent_players(
            **silence.list_filters(), order=silence.order, limit=ROWS_SHOWN, after=after
        )
    except InvalidInput:
        return SilentPage((), 0)
    return SilentPage(players, total)
