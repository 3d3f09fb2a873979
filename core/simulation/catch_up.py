"""Plays missed sessions: the days between the imported prices and today, and days when the stack was down.

A missed day is played like a day of the live market, but with fewer steps: prices, players, quests and ranks.
The rows of a day are written after all its steps, with the times of the steps. They depend only on the date
and on earlier days. If a catch-up is interrupted in the middle of a day, the next catch-up plays the day
again and writes the same rows. The leaderboards are written last, and a day that has leaderboards is not
played again.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Final
from uuid import UUID

import msgspec
import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from core.bulk_load import Progress, ignore_progress
from core.database.read_consistency import reads_on_primary
from core.records import DAILY_RETURNS, MarketEvent, Quest, Tick, User
from core.service import EnhancedDatabaseService
from core.simulation.amounts import Integers, to_cents, to_money
from core.simulation.history import DailyPrices
from core.simulation.identifiers import Kind, hash_ids, hash_texts, make_ids
from core.simulation.live_market import DAY, DAY_SECONDS, LiveMarket
from core.simulation.live_players import buy_at_open, choose_players, list_players
from core.simulation.live_quests import count_wins, find_milestone
from core.simulation.market_events import build_event
from core.simulation.players import add_newcomers
from core.simulation.quests import (
    GAIN_TODAY,
    build_quest,
    choose_daily,
    choose_receivers,
    next_milestone,
)
from core.simulation.trading import SessionResult, SessionRows, value_holdings
from core.simulation.trading_hours import midnight_of

logger = logging.getLogger(__name__)

MAX_DAYS: Final = 92
"""If more days are missing, none is played: the imported prices are old, or the stack was down for months."""

STEPS: Final = 48
"""The number of steps in a day, one every half hour: enough for a candle of every hour."""

STEP_SECONDS: Final = DAY_SECONDS / STEPS


def play_missed_sessions(
    service: EnhancedDatabaseService,
    today: date,
    *,
    check_stop: Callable[[], None] = lambda: None,
    progress: Progress = ignore_progress,
) -> list[date]:
    """Play every day between the last session with leaderboards and `today`; return the played days.

    Plays no day if there is no earlier session, no simulated player, or a gap of more than `MAX_DAYS` days.
    Raises the errors of the service; a later call continues with the day that failed. Calls `check_stop`,
    which may raise, before each day.
    """
    with reads_on_primary():
        last = next(iter(service.list_leaderboard_dates(DAILY_RETURNS, limit=1, before=today)), None)
        if last is None:
            return []
        missed = [last + timedelta(days=n) for n in range(1, (today - last).days)]
        if len(missed) > MAX_DAYS:
            logger.info("%d days since the session of %s are too many to be played", len(missed), last)
            return []
        if missed:
            # write the final ranks of the last session: the simulator may have ended in the middle of it
            service.close_session(last)
        daily = DailyPrices()
        for number, day in enumerate(missed, 1):
            check_stop()
            if not _play(service, day, daily):
                return missed[: number - 1]
            progress("playing missed sessions", number, len(missed))
        return missed


def _play(service: EnhancedDatabaseService, day: date, daily: DailyPrices) -> bool:
    midnight = midnight_of(day)
    add_newcomers(service, day)
    candidates = list_players(service)
    market = _open_market(service, daily, midnight)
    if not candidates or market is None:
        return False
    users = choose_players(service, candidates, day)
    walk = _Walk(market, users, daily, midnight, before=_list_prices_before(service, market, midnight))
    rows = SessionRows(
        [(user.id, user.username) for user in users],
        day,
        walk.result,
        seed=0,
        opened=midnight,
        closed=walk.ended,
    )
    quests, completed = _play_quests(service, users, day, walk)
    service.load_market_ticks(walk.ticks)
    service.load_market_events(walk.events)
    service.load_portfolios(rows.build_portfolios())
    service.load_trades(rows.build_trades(market.symbols))
    service.load_positions(rows.build_positions(market.symbols))
    service.load_quests(quests)
    service.batch_touch_last_active({user.id: walk.ended for user in users})
    service.load_leaderboard_entries(rows.build_entries(completed))
    return True


def _open_market(
    service: EnhancedDatabaseService, daily: DailyPrices, midnight: datetime
) -> LiveMarket | None:
    symbols = tuple(tick.symbol for tick in service.get_latest_market_data())
    daily.read_until(service, symbols, midnight)
    closes = {symbol: close for symbol in symbols if (close := daily.last_close(symbol)) is not None}
    if not closes:
        return None
    prices = list(closes.values())
    return LiveMarket(tuple(closes), opens=prices, prices=prices, daily=daily, announced=set())


def _list_moments(midnight: datetime) -> list[datetime]:
    """Return the times of a day's ticks: one tick in the middle of each step, so all are within the day."""
    return [midnight + timedelta(seconds=(step + 0.5) * STEP_SECONDS) for step in range(STEPS)]


def _list_prices_before(
    service: EnhancedDatabaseService, market: LiveMarket, midnight: datetime
) -> list[tuple[Decimal | None, ...]]:
    """Return the prices 24 hours before each tick of a day: one row per tick time, one column per symbol."""
    moments, width = _list_moments(midnight), len(market.symbols)
    prices = service.list_prices_at([(symbol, at - DAY) for at in moments for symbol in market.symbols])
    return [prices[step * width : (step + 1) * width] for step in range(len(moments))]


class _Walk:
    """Plays the market of one day; has its ticks and events, and the result of the players at each step."""

    def __init__(
        self,
        market: LiveMarket,
        users: Sequence[User],
        daily: DailyPrices,
        midnight: datetime,
        *,
        before: Sequence[Sequence[Decimal | None]],
    ) -> None:
        seeds = [midnight.toordinal(), *hash_texts(market.symbols).tolist()]
        generator = Generator(PCG64(SeedSequence(seeds)))
        holdings = buy_at_open(users, market, daily)
        self.ticks: list[Tick] = []
        self.events: list[MarketEvent] = []
        self.moments = _list_moments(midnight)
        self._gains: list[Integers] = []
        self._leads: list[Integers] = []
        for moment, prices in zip(self.moments, before, strict=True):
            self.ticks += market.build_ticks(moment, market.move(STEP_SECONDS, generator), prices)
            for move in market.list_moves():
                self.events.append(build_event(move, moment))
                market.record_announced(move)
            self._update(value_holdings(holdings, market.prices))

    @property
    def ended(self) -> datetime:
        """The time of the last step."""
        return self.moments[-1]

    def list_progress(self, index: int, quest_type: str) -> list[int]:
        """Return, for each step, the highest progress so far of a player's quest of the day, in cents.

        `index` is the position of the player in `users`.
        """
        steps = self._gains if quest_type == GAIN_TODAY else self._leads
        return list(accumulate((int(step[index]) for step in steps), max, initial=0))[1:]

    def _update(self, result: SessionResult) -> None:
        self.result = result
        self._gains.append(result.change_cents)
        mean = int(result.value_cents.mean()) if len(result.value_cents) else 0
        self._leads.append(result.value_cents - mean)


def _play_quests(
    service: EnhancedDatabaseService, users: Sequence[User], day: date, walk: _Walk
) -> tuple[list[Quest], Integers]:
    """Return the quests of a session, and how many quests each player has completed by its end."""
    midnight = midnight_of(day)
    keys = hash_ids(user.id for user in users)
    daily_ids = make_ids(Kind.DAILY, seed=0, when=midnight, keys=keys)
    milestone_ids = make_ids(Kind.MILESTONE, seed=0, when=midnight, keys=keys)
    is_receiver = choose_receivers(keys, day.toordinal()).tolist()
    quests: list[Quest] = []
    for index, user in enumerate(users):
        quests += _advance_milestone(service, user, day, milestone_ids[index])
        if is_receiver[index]:
            rule = choose_daily(user.id, day)
            progress = walk.list_progress(index, rule.type)
            target = to_cents(rule.target)
            step = bisect_left(progress, target)
            is_reached = step < len(progress)
            quests.append(
                build_quest(
                    daily_ids[index],
                    user.id,
                    rule,
                    progress=to_money(min(progress[-1], target)),
                    status="COMPLETED" if is_reached else "EXPIRED",
                    created_at=midnight,
                    expires_at=midnight + timedelta(days=1),
                    completed_at=walk.moments[step] if is_reached else None,
                )
            )
    done = [quest for quest in quests if quest.status == "COMPLETED"]
    before = service.count_completed_quests(
        [user.id for user in users], excluding=[quest.id for quest in done]
    )
    now = {user.id: before[user.id] for user in users}
    for quest in done:
        now[quest.user_id] += 1
    return quests, np.array([now[user.id] for user in users], np.int64)


def _advance_milestone(
    service: EnhancedDatabaseService, user: User, day: date, new_id: UUID
) -> Iterator[Quest]:
    """Yield a player's active milestone, whose progress is the number of sessions won before `day`.

    If the milestone is reached, also yield the next milestone, which gets the id `new_id`. For a player
    without an active milestone, yield only the next milestone.
    """
    wins = count_wins(service, user.id, day)
    active = service.get_user_active_quests(user.id)
    milestone = find_milestone(active)
    is_reached = milestone is not None and wins >= milestone.target_value
    if milestone is not None:
        yield msgspec.structs.replace(
            milestone,
            current_progress=Decimal(wins),
            status="COMPLETED" if is_reached else "ACTIVE",
            # only wins in earlier sessions count, so a milestone is completed at the beginning of a session
            completed_at=max(milestone.created_at, midnight_of(day)) if is_reached else None,
        )
    rule = next_milestone(wins)
    if rule is not None and (milestone is None or is_reached):
        yield build_quest(
            new_id,
            user.id,
            rule,
            progress=Decimal(wins),
            status="ACTIVE",
            created_at=midnight_of(day),
            expires_at=None,
        )
