"""Scenarios: data sets of a game, which differ in the players of each session, the dates and the quests.

Owns the rows from which tests recompute figures, and reads them as data frames. The rows are written with
the bulk loads and depend only on the scenario and the time `now`. Each scenario has an open session (today)
unless its name says otherwise.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import count
from random import Random
from typing import Final, NamedTuple
from uuid import UUID

import pandas as pd
from frozendict import frozendict

from core import EnhancedDatabaseService
from core.records import LeaderboardEntry, MarketEvent, Portfolio, Position, Quest, Tick, Trade, User
from tests.conftest import Execute

CENT: Final = Decimal("0.01")
STARTING_CASH: Final = Decimal(10_000)
SYMBOLS: Final = ("AAPL", "FB", "IBM")
SILENT_SYMBOL: Final = "OLD"
"""The symbol whose last price is older than that of every other symbol."""

CAST: Final = (
    "alice",
    "bob",
    "charlie",
    "dave",
    "erin",
    "frank",
    "grace",
    "heidi",
    "ivan",
    "judy",
    "ken",
    "lea",
)
QUEST_TYPES: Final = ("DAILY_GAIN", "MILESTONE", "TRADES")
TICK_TIMES: Final = (Decimal("0.6"), Decimal("0.7"), Decimal("0.85"))
"""Times of prices in a session, as a share of the day; in an open session, of the elapsed part."""


class Scenario(NamedTuple):
    """Players and sessions. `attends(player, age)` says whether a player plays the session `age` days ago."""

    players: int
    ages: tuple[int, ...]
    attends: Callable[[int, int], bool]
    shares: Decimal | None = None
    """Number of shares that every player buys, so that all tie; None for different numbers."""


def _comes_and_goes(player: int, age: int) -> bool:
    """Return whether a player of "players come and go" plays a session; the last player plays none."""
    plays = (
        True,  # alice: every session
        age % 2 == 0,  # bob: every other day
        age >= 35,  # charlie: stopped more than a month ago
        age >= 8,  # dave: stopped a week ago
        age <= 3,  # erin: joined three days ago
        age == 0,  # frank: only today's session
        age >= 20 or age <= 2,  # grace: came back two days ago
        age in {40, 21, 1},  # heidi: three sessions
        age != 0,  # ivan: every session except today's
        age % 7 in {2, 3},  # judy: twice a week
        age == 30,  # ken: one session
    )
    return player < len(plays) and plays[player]


_SESSION_AGES: Final = tuple(age for age in range(45) if age not in {4, 5, 6, 11, 12, 25})
"""Ages of the sessions in days, with gaps of three, two and one days; they cover seven weeks."""

SCENARIOS: Final = {
    "players come and go": Scenario(12, _SESSION_AGES, _comes_and_goes),
    "no open session": Scenario(8, _SESSION_AGES[1:], _comes_and_goes),
    "only an open session": Scenario(5, (0,), lambda player, _: player < 4),
    "ties": Scenario(6, (0, 1, 2, 9), lambda player, _: player < 5, Decimal(7)),
    "one player": Scenario(1, (0, 1, 3, 8), lambda _, age: age != 1),
    "nobody played": Scenario(3, (), lambda *_: False),
    "nobody": Scenario(0, (), lambda *_: False),
}


def write_scenario(service: EnhancedDatabaseService, name: str, now: datetime) -> None:
    """Write the rows of a scenario at the time `now`; the database must be empty."""
    _Writer(name, now).write(service)


def read_table(execute: Execute, table: str) -> pd.DataFrame:
    """Read all rows of a table without the service: numbers as Decimal, times with zone, ids as text."""
    columns = [
        name
        for (name,) in execute(
            "SELECT attname FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (table,),
        )
    ]
    return pd.DataFrame(execute(f"SELECT * FROM {table}"), columns=columns, dtype=object)


class _Writer:
    """Builds the records of one scenario; its name is the random seed, so every run has the same records."""

    def __init__(self, name: str, now: datetime) -> None:
        self._scenario = SCENARIOS[name]
        self._random = Random(name)
        self._now = now
        self._today = now.date()
        self._ids = (UUID(int=number, version=4) for number in count(self._random.getrandbits(120)))
        self._users = [self._build_user(player) for player in range(self._scenario.players)]
        self._prices: dict[tuple[date, str], list[Tick]] = {}
        self._completed = dict.fromkeys(range(self._scenario.players), 0)

    def write(self, service: EnhancedDatabaseService) -> None:
        service.load_users(self._users)
        service.load_market_ticks(self._build_ticks())
        played = [self._play(player, age) for player, age in self._list_sessions()]
        service.load_portfolios(portfolio for portfolio, _, _ in played)
        service.load_positions(position for _, positions, _ in played for position in positions)
        service.load_trades(trade for _, _, trades in played for trade in trades)
        service.load_quests(self._build_quests())
        service.load_leaderboard_entries(
            entry for portfolio, _, _ in played for entry in self._build_entries(portfolio)
        )
        service.load_market_events(self._build_events())

    def _list_sessions(self) -> Iterator[tuple[int, int]]:
        for age in sorted(self._scenario.ages, reverse=True):
            for player in range(self._scenario.players):
                if self._scenario.attends(player, age):
                    yield player, age

    def _day(self, age: int) -> date:
        return self._today - timedelta(days=age)

    def _time(self, day: date, share: Decimal) -> datetime:
        start = datetime.combine(day, time(0), UTC)
        length = self._now - start if day == self._today else timedelta(days=1)
        return start + timedelta(seconds=int(length.total_seconds() * float(share)))

    def _build_user(self, player: int) -> User:
        ages = [age for age in self._scenario.ages if self._scenario.attends(player, age)]
        joined = self._time(self._day(max(ages, default=2)), Decimal("0.5"))
        seen = self._time(self._day(min(ages)), Decimal("0.9")) if ages else None
        return User(
            id=next(self._ids),
            username=CAST[player],
            name=None if player % 3 == 2 else f"{CAST[player].capitalize()} Example",
            email=None,
            last_active=seen,
            preferences=frozendict(),
            created_at=joined,
            updated_at=joined,
        )

    def _build_ticks(self) -> Iterator[Tick]:
        for symbol in SYMBOLS:
            price = Decimal(self._random.randint(2_000, 20_000)) / 100
            for age in sorted(self._scenario.ages, reverse=True):
                day, first = self._day(age), None
                for share in TICK_TIMES:
                    price = max(
                        (price * Decimal(self._random.randint(960, 1_042)) / 1_000).quantize(CENT), CENT
                    )
                    first = first or price
                    tick = Tick(
                        symbol, self._time(day, share), price, volume=self._random.randint(1, 90) * 100
                    )
                    self._prices.setdefault((day, symbol), []).append(tick)
                    yield tick
        if self._scenario.ages:
            yield Tick(
                SILENT_SYMBOL,
                self._time(self._day(max(self._scenario.ages)), TICK_TIMES[0]),
                Decimal("3.07"),
            )

    def _play(self, player: int, age: int) -> tuple[Portfolio, list[Position], list[Trade]]:
        """Return what a player does in a session: buy at the first price, perhaps sell some at the second."""
        user, day = self._users[player], self._day(age)
        cash, positions, trades = STARTING_CASH, [], []
        # with equal shares all players hold the same; otherwise one player in four does not trade at all
        same = self._scenario.shares
        chosen = SYMBOLS if same else self._random.sample(SYMBOLS, self._random.choice((0, 1, 2, 3)))
        for symbol in chosen:
            first, second, _ = self._prices[day, symbol]
            bought = same or Decimal(self._random.randint(1, 12))
            sold = Decimal(0) if same else Decimal(self._random.choice((0, 0, 1, int(bought))))
            trades.append(self._build_trade(user, day, "BUY", bought, first))
            if sold:
                trades.append(self._build_trade(user, day, "SELL", sold, second))
            cash += sold * second.price - bought * first.price
            if held := bought - sold:
                positions.append(Position(user.id, day, symbol, held, first.price))
        value = cash + sum(p.quantity * self._prices[day, p.symbol][-1].price for p in positions)
        change, opened = value - STARTING_CASH, self._time(day, Decimal("0.5"))
        return (
            Portfolio(
                id=next(self._ids),
                user_id=user.id,
                session_date=day,
                starting_cash=STARTING_CASH,
                current_cash=cash,
                total_value=value,
                day_change=change,
                day_change_percent=(change / 100).quantize(CENT),
                created_at=opened,
                updated_at=self._time(day, Decimal("0.86")),
            ),
            positions,
            trades,
        )

    def _build_trade(self, user: User, day: date, side: str, quantity: Decimal, tick: Tick) -> Trade:
        return Trade(next(self._ids), user.id, day, tick.symbol, side, quantity, tick.price, tick.timestamp)

    def _build_entries(self, portfolio: Portfolio) -> Iterator[LeaderboardEntry]:
        player = next(index for index, user in enumerate(self._users) if user.id == portfolio.user_id)
        scores = {
            "daily_returns": portfolio.day_change_percent,
            "total_value": portfolio.total_value,
            "quests_completed": Decimal(self._completed[player]),
        }
        for category, score in scores.items():
            yield LeaderboardEntry(
                id=next(self._ids),
                user_id=portfolio.user_id,
                username=CAST[player],
                session_date=portfolio.session_date,
                category=category,
                score=score,
                rank=None,  # type: ignore[arg-type]  # a session that is not closed stores none
                metadata=frozendict(),
                created_at=portfolio.updated_at,
            )

    def _build_quests(self) -> Iterator[Quest]:
        """Yield a quest for each fifth session of a player, in all states, some without an expiry time."""
        for number, (player, age) in enumerate(self._list_sessions()):
            if number % 5:
                continue
            given = self._time(self._day(age), Decimal("0.5"))
            kind, target = QUEST_TYPES[number // 5 % 3], Decimal(10)
            is_old = age > 3
            status = ("COMPLETED", "EXPIRED", "COMPLETED", "ACTIVE")[number // 5 % 4] if is_old else "ACTIVE"
            if status == "COMPLETED":
                self._completed[player] += 1
            progress = target if status == "COMPLETED" else Decimal(number // 5 % 3 * 4)
            yield Quest(
                id=next(self._ids),
                user_id=self._users[player].id,
                type=kind,
                title=f"{kind.replace('_', ' ').capitalize()} of {target}",
                description=None,
                target_value=target,
                current_progress=progress,
                status=status,
                reward_type=("cash", "badge", None)[number // 5 % 3],
                reward_value=(Decimal(50), Decimal(1), None)[number // 5 % 3],
                created_at=given,
                # an overdue quest stays ACTIVE until maintenance marks it as expired
                expires_at=None if number // 5 % 7 == 0 else given + timedelta(days=3),
                # a third has no completion time, like quests completed before this column existed
                completed_at=given + timedelta(hours=1 + number % 50)
                if status == "COMPLETED" and number % 3
                else None,
            )

    def _build_events(self) -> Iterator[MarketEvent]:
        for age in self._scenario.ages[::4]:
            day, symbol = self._day(age), SYMBOLS[age % 3]
            first, second, _ = self._prices[day, symbol]
            impact = ((second.price / first.price - 1) * 100).quantize(CENT)
            verb = "rose" if impact >= 0 else "fell"
            yield MarketEvent(
                id=next(self._ids),
                type="PRICE_MOVE",
                title=f"{symbol} {verb} {abs(impact):.1f}%",
                description=None,
                affected_symbols=(symbol,),
                impact_magnitude=impact,
                sentiment="POSITIVE" if impact >= 0 else "NEGATIVE",
                created_at=second.timestamp,
            )
