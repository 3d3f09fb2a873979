"""What is added up over many rows: boards, sessions, quests, prices.

Owns shapes only; how old a figure can be is said by the call that returns it.
"""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from core.records.game import Quest
from core.records.record import Record


class PlayerScore(Record, frozen=True):
    """A player's score on a board in one session; `rank` is None where it was not asked for."""

    user_id: UUID
    session_date: date
    score: Decimal
    rank: int | None


class ScoreBin(Record, frozen=True):
    """How many scores of a board lie in [low, high)."""

    low: Decimal
    high: Decimal
    players: int


class BoardSummary(Record, frozen=True):
    """A board of at least one entry in figures; `leaders` counts who shares the best score."""

    session_date: date
    category: str
    players: int
    leader: str
    leaders: int
    best: Decimal
    median: Decimal
    worst: Decimal
    bins: tuple[ScoreBin, ...]


class PeriodEntry(Record, frozen=True):
    """A player over several sessions; `score` is the mean, a session without one being nothing.

    `sessions` are those with a score; equal sums share `rank`.
    """

    user_id: UUID
    username: str
    score: Decimal
    sessions: int
    rank: int


class PeriodBoard(Record, frozen=True):
    """The best players of several sessions, of all `players` who have a score in any of them."""

    days: tuple[date, ...]
    players: int
    entries: tuple[PeriodEntry, ...]


class MarketReturn(Record, frozen=True):
    """What the symbols gained in one day, in percent of its first price; the mean of `symbols`."""

    day: date
    percent: Decimal
    symbols: int


class Sparkline(Record, frozen=True):
    """The course of a symbol's price, oldest first; `times` and `prices` are equally long."""

    symbol: str
    times: tuple[datetime, ...]
    prices: tuple[Decimal, ...]


class SessionSummary(Record, frozen=True):
    """One session in figures.

    `signed_up` counts the players there were by the end of the day, `players` those on its
    board of returns. Returns are in percent, None without a board. `quests_completed` is
    the sum over its players of what each has completed in all so far, None without a board.
    """

    session_date: date
    signed_up: int
    players: int
    best_return: Decimal | None
    median_return: Decimal | None
    quests_completed: int | None
    events: int


class QuestTotals(Record, frozen=True):
    """All quests of one type and kind of reward.

    `started`, `halfway` and `completed` are parts of `given`, each of the one before;
    `active` can still be completed, of which `expiring` end within the time asked for.
    Rewards are sums: `earned` of the completed ones, `open` of the active ones.
    """

    type: str
    reward_type: str | None
    given: int
    started: int
    halfway: int
    completed: int
    active: int
    expiring: int
    earned: Decimal
    open: Decimal


class QuestPace(Record, frozen=True):
    """How fast players get on with the active quests of one title; means of them all."""

    type: str
    title: str
    players: int
    progress_percent: Decimal
    age_days: Decimal


class PlayerQuest(Record, frozen=True):
    """A quest with the name of its player."""

    username: str
    quest: Quest
