"""The tables, the retention and the distributions of the Players page. Pure functions."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date

import msgspec
import pandas as pd

from core.records import PlayerDay, PlayerReport, SilentPlayer
from dashboard.formats import (
    build_player_link,
    format_count,
    format_key,
    format_percent,
    format_quantity,
    format_rank_of,
    format_share,
)
from dashboard.pages.players.data import LOST_DAYS, Losses

SILENT_BUCKETS = (
    ("Today", 0, 0),
    ("1 day", 1, 1),
    ("2 to 6 days", 2, 6),
    ("7 to 13 days", 7, 13),
    ("14 to 29 days", 14, 29),
    ("30 to 59 days", 30, 59),
    ("60 to 90 days", 60, 90),
)
EARLIER = "Over 90 days"
STREAK_BUCKETS = (
    ("1", 1, 1),
    ("2", 2, 2),
    ("3 to 4", 3, 4),
    ("5 to 9", 5, 9),
    ("10 to 19", 10, 19),
    ("20 to 29", 20, 29),
    ("30 or more", 30, 30),
)


SMALL_COHORT = 10
"""A cohort with fewer players is shown as counts, not in percent: each player is more than 10 % of it."""


class RetentionCell(msgspec.Struct, frozen=True):
    """One cell of the retention: how many players of a cohort played in one week.

    The cohort is the `players` who joined in the week that begins on `week`. `since` is the number of weeks
    from then to the week of the cell, and `played` the number of players who played in it. `is_open` is true
    for the current week.
    """

    week: date
    players: int
    since: int
    played: int
    is_open: bool

    @property
    def percent(self) -> float:
        """The players who played, in percent of the cohort."""
        return self.played / self.players * 100

    def describe(self) -> str:
        """Return the text of the cell: `40%`, or `2/3` if the cohort is smaller than SMALL_COHORT."""
        if self.players < SMALL_COHORT:
            return f"{self.played}/{self.players}"
        return format_share(self.played, self.players)


class Bucket(msgspec.Struct, frozen=True):
    """A bar of a distribution: the number of players in a range of values, and the name of the range."""

    label: str
    players: int


def describe_losses(losses: Losses) -> str:
    """Return a text that says how many players are lost and newly lost, as Markdown."""
    if not losses.lost:
        return f"**No player is lost**: everybody ever seen was seen in the last {LOST_DAYS} days."
    verb = "is" if losses.lost == 1 else "are"
    return (
        f"**{format_count(losses.lost)} of {format_quantity(losses.seen, 'player')} ever seen {verb} lost**: "
        f"not seen for {LOST_DAYS} days. Newly lost: {format_count(losses.week)} in the last 7 finished "
        f"days, {format_count(losses.before)} in the 7 days before, "
        f"{format_count(losses.today)} today so far."
    )


def list_retention(report: PlayerReport) -> Iterator[RetentionCell]:
    """Yield a cell for each cohort and week, oldest first. Weeks without a session have no cell."""
    for cohort in report.cohorts:
        for since, played in enumerate(cohort.played):
            if played is not None:
                is_open = since == len(cohort.played) - 1
                yield RetentionCell(cohort.week, cohort.players, since, played, is_open)


def build_retention_table(report: PlayerReport) -> pd.DataFrame:
    """Return one row per cohort and one column per week since joining; None for a week without a cell."""
    weeks = max((len(cohort.played) for cohort in report.cohorts), default=0)
    rows: dict[date, dict[str, object]] = {
        cohort.week: {"week": cohort.week, "players": cohort.players} for cohort in report.cohorts
    }
    for cell in list_retention(report):
        so_far = ", so far" if cell.is_open else ""
        share = format_share(cell.played, cell.players, places=1)
        rows[cell.week][f"week {cell.since}"] = f"{format_count(cell.played)} ({share}{so_far})"
    columns = ["week", "players", *(f"week {since}" for since in range(weeks))]
    return pd.DataFrame(list(rows.values()), columns=columns)


def group_silence(report: PlayerReport) -> list[Bucket]:
    """Return the number of players by days since they were last seen."""
    days = {(report.today - row.day).days: row.players for row in report.last_seen}
    buckets = [
        Bucket(label, sum(players for day, players in days.items() if low <= day <= high))
        for label, low, high in SILENT_BUCKETS
    ]
    return [*buckets, Bucket(EARLIER, report.seen_earlier)]


def group_streaks(report: PlayerReport) -> list[Bucket]:
    """Return the number of players by the length of their current streak."""
    return [
        Bucket(label, sum(row.players for row in report.streaks if low <= row.sessions <= high))
        for label, low, high in STREAK_BUCKETS
    ]


def build_days_table(days: Sequence[PlayerDay]) -> pd.DataFrame:
    """Return one row per day, newest first. The first row is today, marked "so far"."""
    newest_first = list(reversed(days))

    def describe(row: PlayerDay) -> str:
        if row is days[-1]:
            return "so far"
        return "finished" if row.played else "no session"

    return pd.DataFrame(
        {
            "day": [row.day for row in newest_first],
            "state": [describe(row) for row in newest_first],
            "played": [row.played for row in newest_first],
            "traded": [row.traded for row in newest_first],
            "joined": [row.joined for row in newest_first],
        }
    )


def build_silent_table(players: Sequence[SilentPlayer]) -> pd.DataFrame:
    """Return one row per silent player, in the given order."""
    return pd.DataFrame(
        {
            "player": [build_player_link(player.username) for player in players],
            "days": [player.days_silent for player in players],
            "rank": [
                format_rank_of(player.rank, player.ranked) if player.rank and player.ranked else None
                for player in players
            ],
            "return": [
                None if player.return_percent is None else format_percent(player.return_percent)
                for player in players
            ],
            "quest": [
                f"{player.quest_title} ({_describe_status(player.quest_status)})"
                if player.quest_title
                else None
                for player in players
            ],
            "session": [player.last_session for player in players],
            "seen": [_find_last_seen(player) for player in players],
            "sessions": [player.sessions for player in players],
            "joined": [player.joined_at.date() for player in players],
        }
    )


def _find_last_seen(player: SilentPlayer) -> date | None:
    """Return the last day on which the player was active or played a session; None if there is none."""
    active = player.last_active and player.last_active.astimezone(UTC).date()
    return max(filter(None, (active, player.last_session)), default=None)


def _describe_status(status: str | None) -> str:
    return "running" if status == "ACTIVE" else format_key(status or "").lower()
