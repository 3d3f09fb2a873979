"""Replays imported trading days as sessions of the game.

Owns the order of a replay and what is written of it, always through the service's
bulk loads. Every row follows from the prices, the number of players and sessions and
the seed number, ids included, so that a repeated replay changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import repeat
from typing import Any, Final

import numpy as np

from core.errors import InvalidInput
from core.records import Portfolio
from core.service import EnhancedDatabaseService
from core.simulation.amounts import to_money, to_moneys
from core.simulation.boards import build_entries
from core.simulation.history import NO_PRICES, History, load_history
from core.simulation.identifiers import Hashes, Kind, hash_texts, make_ids
from core.simulation.price_moves import list_events
from core.simulation.progress import Progress, ignore_progress
from core.simulation.quest_book import QuestBook
from core.simulation.roster import ReplayName, Roster, enroll, mark_finished, player_ids
from core.simulation.sessions import (
    STARTING_CENTS,
    SessionResult,
    percent_hundredths,
    play_session,
)
from core.simulation.strategies import LOOKBACKS, Traits, choose_weights, draw_traits
from core.simulation.trading_day import close_of, open_of
from core.simulation.write_behind import BATCH_ROWS, WriteBehind

MAX_PLAYERS: Final = 100_000
MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True)
class SeedResult:
    """What a replay covers, the rows that it has, and how many of them were new or changed.

    `removed` players belonged to a replay with other numbers or prices.
    """

    players: int
    sessions: int
    first_day: date
    last_day: date
    portfolios: int
    leaderboard_entries: int
    quests: int
    market_events: int
    changed: int
    removed: int

    def __str__(self) -> str:
        replaced = f", {self.removed} players of another replay removed" if self.removed else ""
        return (
            f"{self.sessions} sessions from {self.first_day} to {self.last_day} with {self.players} players:"
            f" {self.portfolios} portfolios, {self.leaderboard_entries} leaderboard entries,"
            f" {self.quests} quests, {self.market_events} market events"
            f" ({self.changed} rows new or changed{replaced})"
        )


def seed(
    service: EnhancedDatabaseService,
    *,
    players: int,
    sessions: int | None = None,
    seed: int = 1,
    progress: Progress = ignore_progress,
    now: datetime | None = None,
) -> SeedResult:
    """Replay the last `sessions` trading days (None, or more than there are: all of them).

    Simulated players of an earlier replay are removed when it had other numbers or
    prices; other users and their data are never touched.
    Raises `InvalidInput` for numbers out of range and when no prices are imported.
    """
    _check("players", players, 1, MAX_PLAYERS)
    _check("seed", seed, 0, MAX_SEED)
    if sessions is not None:
        _check("sessions", sessions, 1, None)
    history = load_history(service)
    if not history.days:
        raise InvalidInput(NO_PRICES)
    traits = draw_traits(seed, player_ids(range(players)))
    first = max(0, len(history.days) - (sessions or len(history.days)))
    name = ReplayName(
        mark=f"{players}x{len(history.days) - first}@{seed}/{history.digest}",
        begins=open_of(history.days[first]),
        ends=close_of(history.days[-1]),
    )
    roster = enroll(service, traits, replay=name, progress=progress)
    replay = Replay(history, traits, roster, seed=seed, first=first)
    result = _write(service, replay, progress, now or datetime.now(UTC))
    mark_finished(service, roster)
    return result


class Replay:
    """Plays the sessions from row `first` of the history on, one after the other."""

    def __init__(self, history: History, traits: Traits, roster: Roster, *, seed: int, first: int) -> None:
        self.history = history
        self.roster = roster
        self.seed = seed
        self.first = first
        self.quests = QuestBook(roster.user_ids, seed=seed, first_day=history.days[first])
        self._traits = traits
        self._symbols = hash_texts(history.symbols)
        self._numbers = np.arange(len(roster.user_ids))

    def play(self, row: int) -> SessionResult:
        """Return how the players finish the session of one day."""
        return play_day(self.history, row, self._traits, self._symbols)

    def build_portfolios(self, day: date, result: SessionResult) -> Iterator[Portfolio]:
        """Return the portfolios of a session."""
        change = result.change_cents
        # in the order of the record's fields: keyword arguments double the cost of a row
        return map(
            Portfolio,
            make_ids(Kind.PORTFOLIO, seed=self.seed, when=open_of(day), numbers=self._numbers),
            self.roster.user_ids,
            repeat(day),
            repeat(to_money(STARTING_CENTS)),
            to_moneys(result.cash_cents),
            to_moneys(result.value_cents),
            to_moneys(change),
            to_moneys(percent_hundredths(change)),
            repeat(open_of(day)),
            repeat(close_of(day)),
        )


def play_day(history: History, row: int, traits: Traits, symbols: Hashes) -> SessionResult:
    """Play one day of a history; `symbols` are the hashes of its symbols.

    What players buy depends on the closes before the day, how many of it on its opening
    prices, and only what it is worth in the end on its closes.
    """
    opens = history.opens[row]
    before = history.carried[max(0, row - LOOKBACKS[-1] - 1) : row]
    weights = choose_weights(traits, before, opens > 0, symbols)
    return play_session(weights, traits.invested_percent, opens, history.closes[row])


class _Buffer:
    """Rows of one table that wait until there are enough for a batch."""

    def __init__(self, writes: WriteBehind, load: Any) -> None:
        self.rows = 0
        self._writes = writes
        self._load = load
        self._waiting: list[Any] = []

    def add(self, rows: Any) -> None:
        before = len(self._waiting)
        self._waiting.extend(rows)
        self.rows += len(self._waiting) - before
        if len(self._waiting) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._writes.write(self._load, self._waiting)
            self._waiting = []


class _Output:
    """What a replay writes, table by table."""

    def __init__(self, service: EnhancedDatabaseService, scores: WriteBehind, others: WriteBehind) -> None:
        self.portfolios = _Buffer(others, service.load_portfolios)
        self.entries = _Buffer(scores, service.load_leaderboard_entries)
        self.quests = _Buffer(others, service.load_quests)
        self.events = _Buffer(others, service.load_market_events)
        self.quests_left_alone = 0

    def add_session(self, replay: Replay, row: int) -> None:
        """Play one day and add what follows."""
        day, result = replay.history.days[row], replay.play(row)
        self.portfolios.add(replay.build_portfolios(day, result))
        self.quests.add(replay.quests.play(day, result))
        self.entries.add(build_entries(replay.roster, day, result, replay.quests.completed, seed=replay.seed))
        self.events.add(list_events(replay.history, row))

    def finish(self, replay: Replay, now: datetime) -> None:
        """Add what is open after the last session, and write what still waits."""
        # an open quest of a settled player may have been played since
        settled, left = replay.roster.settled, replay.quests.finish(now)
        new = [quest for quest in left if quest.status != "ACTIVE" or quest.user_id not in settled]
        self.quests.add(new)
        self.quests_left_alone = len(left) - len(new)
        for buffer in (self.portfolios, self.entries, self.quests, self.events):
            buffer.flush()


def _write(service: EnhancedDatabaseService, replay: Replay, progress: Progress, now: datetime) -> SeedResult:
    days = replay.history.days[replay.first :]
    # leaderboard entries take as long as all the rest, so they get a connection of their own
    with WriteBehind() as scores, WriteBehind() as others:
        output = _Output(service, scores, others)
        for place in range(len(days)):
            output.add_session(replay, replay.first + place)
            progress("replaying sessions", place + 1, len(days))
        output.finish(replay, now)
    return SeedResult(
        players=len(replay.roster.user_ids),
        sessions=len(days),
        first_day=days[0],
        last_day=days[-1],
        portfolios=output.portfolios.rows,
        leaderboard_entries=output.entries.rows,
        quests=output.quests.rows + output.quests_left_alone,
        market_events=output.events.rows,
        changed=scores.rows + others.rows,
        removed=replay.roster.removed,
    )


def _check(name: str, value: Any, least: int, most: int | None) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        allowed = f"from {least} to {most}" if most is not None else f"from {least}"
        raise InvalidInput(f"{name} is {value!r}; give a whole number {allowed}")
