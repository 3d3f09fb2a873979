"""The reads of the players page, from the service, and the filters of its list.

Figures of all players are at most 15 minutes old, figures of finished days an hour, figures of today a
minute; the list of silent players is read each time.
"""

from datetime import date, timedelta
from typing import Any

import msgspec

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import PlayerDay, PlayerReport, PlayerWindow, SilentPlayer

LOST_DAYS = 30
"""Days without activity after which a player who was seen at least once counts as lost."""

DAYS_SHOWN = 30
WEEKS_OFFERED = 53
"""Weeks of joining that the list of silent players can be narrowed to: a year and the running week."""
ROWS_SHOWN = 50
PLAYERS_COUNTED = 10_000
"""Silent players are counted up to this number."""

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
        """Return the filters, without the order, as keyword arguments for calls of the service."""
        return {"days": self.days, "sessions": self.sessions, "joined": self.joined, "prefix": self.prefix}


class Today(msgspec.Struct, frozen=True):
    """The players of today so far: how many were seen, played, traded and joined."""

    seen: int
    counts: PlayerDay


class SilentPage(msgspec.Struct, frozen=True):
    """A page of silent players, and their total number, counted up to 10,000."""

    players: tuple[SilentPlayer, ...]
    total: int


class Comparison(msgspec.Struct, frozen=True):
    """A finished window and the one before; `lost` counts players whose 30th silent day was in the window."""

    window: PlayerWindow
    before: PlayerWindow
    lost: int
    lost_before: int


class Losses(msgspec.Struct, frozen=True):
    """How many of the players who were `seen` at least once are `lost`, and how many of them newly.

    `week` are the last 7 finished days, `before` the 7 days before those.
    """

    seen: int
    lost: int
    week: int
    before: int
    today: int


def has_players(service: EnhancedDatabaseService) -> bool:
    """Return whether anybody has ever joined."""
    return bool(service.list_users(limit=1))


def load_today(service: EnhancedDatabaseService) -> Today:
    """Return the figures of today; reading them is much faster than reading those of all players."""
    return Today(service.get_seen_players(days=1).seen, service.list_player_days(days=1)[-1])


def list_weeks(today: date) -> list[date]:
    """Return the Mondays of the weeks that the list can be narrowed to, the running one first."""
    monday = today - timedelta(days=today.weekday())
    return [monday - timedelta(weeks=age) for age in range(WEEKS_OFFERED)]


def list_days(service: EnhancedDatabaseService) -> tuple[PlayerDay, ...]:
    """Return the last 30 days, oldest first."""
    return service.list_player_days(days=DAYS_SHOWN)


def count_seen(report: PlayerReport, days: int) -> int:
    """Return how many players were seen in the last `days` days, today included."""
    first = report.today - timedelta(days=days - 1)
    return sum(row.players for row in report.last_seen if row.day >= first)


def count_lost(report: PlayerReport) -> int:
    """Return how many players were seen once, but not in the last LOST_DAYS days."""
    return report.players - report.never_seen - count_seen(report, LOST_DAYS)


def count_earlier(report: PlayerReport) -> int:
    """Return how many players joined before the weeks of the report's cohorts."""
    return report.players - sum(cohort.players for cohort in report.cohorts)


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


def count_losses(report: PlayerReport) -> Losses:
    """Return the lost players: all, and those of a week, of the week before and of today."""
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
    """Return the page of silent players after `after`; empty for a prefix that cannot be a username."""
    try:
        total = service.count_silent_players(**silence.list_filters())
        players = service.list_silent_players(
            **silence.list_filters(), order=silence.order, limit=ROWS_SHOWN, after=after
        )
    except InvalidInput:
        return SilentPage((), 0)
    return SilentPage(players, total)
