"""Replays imported trading days as sessions of the game.

Plays one session after the other, and writes their rows through the bulk loads of the service. Every row,
including its id, depends only on the prices, the number of players and sessions, and the seed of the random
numbers. Therefore a repeated replay changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.bulk_load import BATCH_ROWS, BatchWriter, Progress, ignore_progress
from core.database.read_consistency import reads_on_primary
from core.errors import InvalidInput
from core.records import Quest
from core.service import EnhancedDatabaseService
from core.simulation.amounts import Integers
from core.simulation.behaviour import (
    LOOKBACKS,
    RecentSessions,
    Traits,
    choose_attending,
    choose_join_sessions,
    choose_weights,
    draw_traits,
)
from core.simulation.history import NO_PRICES, PriceHistory, load_history
from core.simulation.identifiers import Hashes, hash_texts
from core.simulation.market_events import list_events
from core.simulation.players import ReplayPlayers, Survey, mark_finished, player_ids, replace_players, survey
from core.simulation.quests import ReplayQuests
from core.simulation.trading import (
    SessionResult,
    SessionRows,
    buy_shares,
    percent_hundredths,
    value_holdings,
)
from core.simulation.trading_hours import close_of, open_of

MAX_PLAYERS: Final = 100_000
MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True)
class SeedResult:
    """The result of a replay that was written: its sessions, and the number of rows in each table.

    `changed` is the number of rows that were new or different in the database. `removed` is the number of
    players of another replay that were removed.
    """

    players: int
    sessions: int
    first_day: date
    last_day: date
    portfolios: int
    positions: int
    leaderboard_entries: int
    quests: int
    market_events: int
    changed: int
    removed: int

    def __str__(self) -> str:
        replaced = f", {self.removed} players of another replay removed" if self.removed else ""
        return (
            f"{self.sessions} sessions from {self.first_day} to {self.last_day} with {self.players} players:"
            f" {self.portfolios} portfolios with {self.positions} positions,"
            f" {self.leaderboard_entries} leaderboard entries,"
            f" {self.quests} quests, {self.market_events} market events"
            f" ({self.changed} rows new or changed{replaced})"
        )


class SeedPlan:
    """A replay that has not run yet. `survey` shows the data that it would replace, `run` runs the replay."""

    def __init__(
        self, service: EnhancedDatabaseService, replay: "Replay", traits: Traits, *, seed: int, mark: str
    ) -> None:
        self._service = service
        self._replay = replay
        self._traits = traits
        self._seed = seed
        self._mark = mark

    def survey(self) -> Survey:
        """Count the players that `run` would keep or remove, the real players, and the live sessions."""
        players, history = len(self._replay.user_ids), self._replay.history
        with reads_on_primary():
            return survey(self._service, players=players, mark=self._mark, history=history)

    def run(self, progress: Progress = ignore_progress, *, now: datetime | None = None) -> SeedResult:
        """Replay the sessions, and write their rows.

        Removes the simulated players of other replays with all their data. Never changes other users or their
        data. `now` decides whether the last quests have expired; the default is the current time.
        """
        replay = self._replay
        joined_at = [open_of(day) for day in replay.join_days]
        with reads_on_primary():
            players = replace_players(
                self._service, self._traits, mark=self._mark, joined_at=joined_at, progress=progress
            )
        result = _write(
            self._service, replay, players, progress, seed=self._seed, now=now or datetime.now(UTC)
        )
        mark_finished(self._service, players)
        return result


def plan_seed(
    service: EnhancedDatabaseService, *, players: int, sessions: int | None = None, seed: int = 1
) -> SeedPlan:
    """Plan a replay of the last `sessions` trading days.

    If `sessions` is None, or fewer days were imported, the replay has all imported days.

    `seed` is the seed of the random numbers; another seed gives other strategies to the players. Raises
    `InvalidInput` for a number out of range, or when no prices were imported.
    """
    _check("players", players, 1, MAX_PLAYERS)
    _check("seed", seed, 0, MAX_SEED)
    if sessions is not None:
        _check("sessions", sessions, 1, None)
    # read from the primary: a replica may lack prices that were imported a moment ago
    with reads_on_primary():
        history = load_history(service)
    if not history.days:
        raise InvalidInput(NO_PRICES)
    first = max(0, len(history.days) - (sessions or len(history.days)))
    ids = player_ids(range(players))
    traits = draw_traits(seed, ids)
    mark = f"{players}x{len(history.days) - first}@{seed}/{history.digest}"
    replay = Replay(history, traits, tuple(ids), seed=seed, first=first)
    return SeedPlan(service, replay, traits, seed=seed, mark=mark)


class PlayedSession(NamedTuple):
    """A played session. `row` is its row in the history, `players` has the numbers of its players."""

    row: int
    day: date
    players: NDArray[np.intp]
    result: SessionResult
    quests: list[Quest]
    """The quests that ended in this session or before it."""
    completed: Integers
    """The number of quests that each of these players has completed so far."""


class Replay:
    """Plays sessions one after the other. Each row of the price history from `first` on is a session."""

    def __init__(
        self, history: PriceHistory, traits: Traits, user_ids: tuple[UUID, ...], *, seed: int, first: int
    ) -> None:
        self.history = history
        self.user_ids = user_ids
        self.first = first
        self.quests = ReplayQuests(user_ids, seed=seed)
        self.last_played: dict[UUID, date] = {}
        self._traits = traits
        self._symbols = hash_texts(history.symbols)
        self._joins = first + choose_join_sessions(traits.keys, len(history.days) - first)
        self._recent = RecentSessions(len(user_ids))

    @property
    def join_days(self) -> list[date]:
        """The day on which each player joins, in the order of the players' numbers."""
        return [self.history.days[row] for row in self._joins.tolist()]

    def play(self) -> Iterator[PlayedSession]:
        """Play the sessions in order, and yield each one. Can be called only once."""
        for row in range(self.first, len(self.history.days)):
            yield self._play(row)

    def _play(self, row: int) -> PlayedSession:
        day, joined = self.history.days[row], self._joins <= row
        players = choose_attending(self._traits.keys, joined, self._recent.recent(), day)
        result = play_day(self.history, row, self._traits.take(players), self._symbols)
        quests = self.quests.play(day, players, result)
        completed = self.quests.completed[players]
        self._recent.add(joined, players, percent_hundredths(result.change_cents), completed)
        self.last_played |= dict.fromkeys((self.user_ids[number] for number in players.tolist()), day)
        return PlayedSession(row, day, players, result, quests, completed)


def play_day(history: PriceHistory, row: int, traits: Traits, symbols: Hashes) -> SessionResult:
    """Play the day in row `row` of a history, and return its result; `symbols` has hashes of all symbols.

    The closes of earlier days decide which symbols a player buys. The opening prices of the day decide how
    many shares, and its closes decide the final value.
    """
    opens = history.opens[row]
    before = history.carried[max(0, row - LOOKBACKS[-1] - 1) : row]
    weights = choose_weights(traits, before, opens > 0, symbols)
    holdings = buy_shares(weights, traits.invested_percent, opens, history.price_units)
    return value_holdings(holdings, history.closes[row])


class _Buffer:
    """Collects the rows of one table into batches.

    The rows of the buffer `after` are written first, because the rows of this table refer to them.
    """

    def __init__(self, writes: BatchWriter, load: Any, *, after: "_Buffer | None" = None) -> None:
        self.rows = 0
        self._after = after
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
            if self._after is not None:
                self._after.flush()
            self._writes.write(self._load, self._waiting)
            self._waiting = []


class _Output:
    """The rows that a replay writes, by table."""

    def __init__(
        self,
        service: EnhancedDatabaseService,
        players: ReplayPlayers,
        seed: int,
        *,
        scores: BatchWriter,
        others: BatchWriter,
    ) -> None:
        self._service = service
        self._players = players
        self._seed = seed
        self.portfolios = _Buffer(others, service.load_portfolios)
        self.positions = _Buffer(others, service.load_positions, after=self.portfolios)
        self.trades = _Buffer(others, service.load_trades, after=self.portfolios)
        self.entries = _Buffer(scores, service.load_leaderboard_entries)
        self.quests = _Buffer(others, service.load_quests)
        self.events = _Buffer(others, service.load_market_events)
        self.quests_left_alone = 0

    def add_session(self, replay: Replay, session: PlayedSession) -> None:
        numbers = session.players.tolist()
        rows = SessionRows(
            [(self._players.user_ids[number], self._players.usernames[number]) for number in numbers],
            session.day,
            session.result,
            seed=self._seed,
            opened=open_of(session.day),
            closed=close_of(session.day),
        )
        self.portfolios.add(rows.build_portfolios())
        self.positions.add(rows.build_positions(replay.history.symbols))
        self.trades.add(rows.build_trades(replay.history.symbols))
        self.entries.add(rows.build_entries(session.completed))
        self.quests.add(session.quests)
        self.events.add(list_events(replay.history, session.row))

    def finish(self, replay: Replay, now: datetime) -> None:
        """Add the quests that did not end in a session, and write all collected rows."""
        # An earlier run created the `settled` players. Do not overwrite their open quests: the simulator may
        # have changed them since.
        settled, left = self._players.settled, replay.quests.finish(now)
        new = [quest for quest in left if quest.status != "ACTIVE" or quest.user_id not in settled]
        self.quests.add(new)
        self.quests_left_alone = len(left) - len(new)
        for buffer in (self.portfolios, self.positions, self.trades, self.entries, self.quests, self.events):
            buffer.flush()
        self._service.batch_touch_last_active(
            {user_id: close_of(day) for user_id, day in replay.last_played.items()}
        )


def _write(
    service: EnhancedDatabaseService,
    replay: Replay,
    players: ReplayPlayers,
    progress: Progress,
    *,
    seed: int,
    now: datetime,
) -> SeedResult:
    days = replay.history.days[replay.first :]
    # leaderboard entries take as long as all other rows together, so they get a separate connection
    with BatchWriter() as scores, BatchWriter() as others:
        output = _Output(service, players, seed, scores=scores, others=others)
        for number, session in enumerate(replay.play(), 1):
            output.add_session(replay, session)
            progress("replaying sessions", number, len(days))
        output.finish(replay, now)
    return SeedResult(
        players=len(players.user_ids),
        sessions=len(days),
        first_day=days[0],
        last_day=days[-1],
        portfolios=output.portfolios.rows,
        positions=output.positions.rows,
        leaderboard_entries=output.entries.rows,
        quests=output.quests.rows + output.quests_left_alone,
        market_events=output.events.rows,
        changed=scores.rows + others.rows,
        removed=players.removed,
    )


def _check(name: str, value: Any, minimum: int, maximum: int | None) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < minimum or (maximum is not None and value > maximum):
        allowed = f"from {minimum} to {maximum}" if maximum is not None else f"from {minimum}"
        raise InvalidInput(f"{name} is {value!r}; give a whole number {allowed}")
