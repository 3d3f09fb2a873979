"""Records about all players: attendance, returns, streaks, cohorts, and silent players.

A player played a session if they have a portfolio of this session. A player was seen on a day if they were
active on this day (`last_active`) or played its session. All periods are whole UTC days. Never touches a
server.
"""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from core.records.record import Record


class PlayerDay(Record, frozen=True):
    """One day: how many players played its session, how many traded in it, and how many joined on the day."""

    day: date
    played: int
    traded: int
    joined: int


class SeenPlayers(Record, frozen=True):
    """The number of players who were seen in a range of days (`seen`), and of all players (`players`).

    Both are counted at the same moment.
    """

    seen: int
    players: int


class LastSeen(Record, frozen=True):
    """The number of players who were last seen on one day."""

    day: date
    players: int


class Streak(Record, frozen=True):
    """The number of players who played the last `sessions` sessions, but not the session before these."""

    sessions: int
    players: int


class Cohort(Record, frozen=True):
    """The players who joined in one week, and how many of them played in this week and in each later week.

    `week` is a Monday. `played` has one number for each week up to the current week. The number is None for a
    week without any session.
    """

    week: date
    players: int
    played: tuple[int | None, ...]


class PlayerWindow(Record, frozen=True):
    """The days from `first` to `last`: how many players played, how many joined, and how many returned.

    `returned` counts the players who played a session in these days after at least 7 days without a session.
    """

    first: date
    last: date
    played: int
    joined: int
    returned: int


class PlayerReport(Record, frozen=True):
    """A report on all players on the day `today`.

    `last_seen` has the number of players by the day on which they were last seen, newest day first. It covers
    the last 91 days, without days on which no player was last seen. `seen_earlier` and `never_seen` count the
    other players.

    `windows` are five periods: today, the last 7 finished days, the 7 days before those, the last 30 finished
    days, and the 30 days before those.

    `streaks` has the number of players for each length of a streak. A streak is the number of sessions that a
    player has played without missing one, counted back from today. Today's session counts if the player has
    played it. If the player has not played it yet, the streak does not end. A day without a session of the
    game does not end a streak either. Only the sessions of the last 62 days are examined, and a streak of
    more than 30 sessions counts as 30.

    `cohorts` are ordered by week, oldest first.
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

    `last_active` is the time at which the player was last active, and `last_session` is the last session that
    the player played. At least one of them is not None. `sessions` counts all sessions that the player
    played.

    `rank` and `return_percent` are the rank on the leaderboard of daily returns and the daily return in the
    last session. `ranked` is the number of players on this leaderboard. `rank` and `ranked` are None without
    a score. `quest_status` is EXPIRED if the time of the quest is over.
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
