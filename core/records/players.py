"""Figures of all players: attendance, returns, streaks, cohorts, and the silent players.

Every window is of whole UTC days. A player played a session if they have a portfolio of it. A player was seen
on a day if they were active on that day (`last_active`) or played its session. Never touches a server.
"""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from core.records.record import Record


class PlayerDay(Record, frozen=True):
    """One day: players who played its session, who traded in it, and who joined on it."""

    day: date
    played: int
    traded: int
    joined: int


class SeenPlayers(Record, frozen=True):
    """How many of all `players` were `seen` in some days, counted at one moment."""

    seen: int
    players: int


class LastSeen(Record, frozen=True):
    """Number of players who were seen last on one day."""

    day: date
    players: int


class Streak(Record, frozen=True):
    """Number of players who have played the last `sessions` sessions and not the one before."""

    sessions: int
    players: int


class Cohort(Record, frozen=True):
    """The players who joined in one week, and how many of them played in that week and in each later one.

    `week` is a Monday. `played` ends with the running week, and has None for a week without any session.
    """

    week: date
    players: int
    played: tuple[int | None, ...]


class PlayerWindow(Record, frozen=True):
    """Players in the days from `first` to `last`: who played, who joined, and who returned.

    `returned` counts the players who played a session of the window after at least 7 days without one.
    """

    first: date
    last: date
    played: int
    joined: int
    returned: int


class PlayerReport(Record, frozen=True):
    """The players of the game on one day, `today`.

    `last_seen` has a row for each of the last 91 days on which somebody was seen last, newest first;
    `seen_earlier` and `never_seen` count the other players. `windows` are today, the last 7 finished days,
    the 7 days before those, the last 30 finished days, and the 30 days before those. `streaks` count
    consecutive sessions of the last 62 days, 30 at most, of players who played the last finished session or
    today's; days without a session of the game do not end a streak. `cohorts` are oldest first.
    """

    today: date
    players: int
    last_seen: tuple[LastSeen, ...]
    seen_earlier: int
    never_seen: int
    windows: tuple[PlayerWindow, ...]
    streaks: tuple[Streak, ...]
    cohorts: tuple[Cohort, ...]


class SilentPlayer(Record, frozen=True):
    """A player who was not seen for some days, with their last session and their last quest.

    `last_active` is when they were active last and `last_session` the last session that they played; at
    least one of the two is known. `sessions` counts all sessions they played. `rank`, `ranked` (the number of
    ranked players) and `return_percent` are those of daily returns in the last session; `rank` is None
    without a score. `quest_status` is EXPIRED for a quest whose time is over.
    """

    user_id: UUID
    username: str
    joined_at: datetime
    last_active: datetime | None
    last_session: date | None
    days_silent: int
    sessions: int
    rank: int | None
    ranked: int | None
    return_percent: Decimal | None
    quest_title: str | None
    quest_status: str | None
