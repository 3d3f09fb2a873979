"""How simulated players behave: whether they take part in a session, and what they buy.

A choice depends only on finished sessions, on prices, and on hashes of the player and the day. Therefore a
player makes the same choices when a replay is repeated, or when the simulator restarts in the middle of a
session. Does no input or output.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from core.records import User
from core.simulation.amounts import Integers
from core.simulation.identifiers import Hashes, hash_ids, mix

WINDOW: Final = 10
"""A player's decision to take part depends on this number of recent sessions: two trading weeks."""

FOUNDERS: Final = 0.3
"""The share of the players who join in the first session; the other players join in random sessions."""

_EAGERNESS: Final = (-0.6, 2.4)
"""Log-odds, log(p / (1 - p)), that the least eager and the most eager player take part in a session.

The log-odds of the following constants are added to these.
"""

_HABIT: Final = 2.2
"""Log-odds of a player who took part in all recent sessions, minus the log-odds of one who missed all."""

_FORTUNE: Final = 0.45
"""Log-odds added for each percent by which a player's mean return exceeds the mean return of all players."""

_FORTUNE_LIMIT: Final = 3.0
"""A larger difference from the mean return of all players, in percent, counts as this difference."""

_QUEST: Final = 0.4
"""Log-odds added for each quest that the player completed in the last `WINDOW` sessions."""

_QUEST_LIMIT: Final = 2
"""A larger number of completed quests counts as this number."""

_GAP: Final = -0.3
"""Log-odds added for each session missed in a row: a player who stays away tends to stay away."""

_LAPSED: Final = -3.0
"""Log-odds added if a player missed all of the last `WINDOW` sessions; a few of these players return."""

_ATTEND, _JOIN, _FOUND = (np.uint64(salt) for salt in (0xA77E4D, 0x701401, 0xF0D4DE))
_UNIT: Final = 1.0 / (1 << 53)


class RecentResults(NamedTuple):
    """The last sessions, oldest first, at most `WINDOW`; one row per session, one column per player.

    `joined` is true for players who had joined the game, `played` for players who took part. `returns` has
    gains in hundredths of a percent of the starting cash. `quests` has the number of quests that a player had
    completed in total. Where `played` is false, `returns` and `quests` have no meaning.
    """

    joined: NDArray[np.bool_]
    played: NDArray[np.bool_]
    returns: Integers
    quests: Integers


class RecentSessions:
    """Collects the results of the last `WINDOW` sessions for a fixed list of players."""

    def __init__(self, players: int) -> None:
        self._players = players
        self._rows: deque[tuple[NDArray[np.bool_], NDArray[np.bool_], Integers, Integers]] = deque(
            maxlen=WINDOW
        )

    def add(
        self, joined: NDArray[np.bool_], players: NDArray[np.intp], returns: Integers, quests: Integers
    ) -> None:
        """Add a session; `players` has the indices of the players who took part.

        `returns` and `quests` have one element for each of these players, in units as in `RecentResults`.
        """
        played = np.zeros(self._players, np.bool_)
        played[players] = True
        rows = np.zeros((2, self._players), np.int64)
        rows[0, players], rows[1, players] = returns, quests
        self._rows.append((joined, played, rows[0], rows[1]))

    def recent(self) -> RecentResults:
        """Return the last `WINDOW` sessions that were added, or fewer if fewer were added."""
        shape = (len(self._rows), self._players)
        joined, played, returns, quests = (
            np.array([row[column] for row in self._rows]).reshape(shape) for column in range(4)
        )
        return RecentResults(joined.astype(np.bool_), played.astype(np.bool_), returns, quests)


def choose_join_sessions(keys: Hashes, sessions: int) -> Integers:
    """Return the number of the session in which each player joins; sessions are numbered from 0."""
    is_founder = _fraction(keys, _FOUND) < FOUNDERS
    later = (_fraction(keys, _JOIN) * sessions).astype(np.int64)
    return np.where(is_founder, 0, later)


def choose_attending(
    keys: Hashes, joined: NDArray[np.bool_], recent: RecentResults, day: date
) -> NDArray[np.intp]:
    """Return the indices of the players who take part in the session of `day`, in ascending order.

    New players always take part in the session in which they join.
    """
    chance = _chances(keys, recent)
    is_new = joined & ~recent.joined.any(axis=0)
    draws = _fraction(keys ^ mix(np.array([day.toordinal()], np.uint64)), _ATTEND)
    return np.flatnonzero(joined & (is_new | (draws < chance)))


def draw_fraction(day: date, salt: int) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on the day and `salt`."""
    return float(_fraction(np.array([day.toordinal()], np.uint64), np.uint64(salt))[0])


def _chances(keys: Hashes, recent: RecentResults) -> NDArray[np.float64]:
    """Return each player's probability of taking part in the next session."""
    played, joined = recent.played, recent.joined
    count = np.maximum(played.sum(axis=0), 1)
    # sessions before a player joined count as played: this makes a new player likely to return
    habit = np.where(joined, played, True).mean(axis=0) if len(played) else np.ones(len(keys))
    lead = np.where(played, recent.returns - _mean_of_players(recent), 0).sum(axis=0) / count / 100
    low, high = _EAGERNESS
    odds = (
        low
        + (high - low) * _fraction(mix(keys), _ATTEND)
        + _HABIT * (habit - 0.5)
        + _FORTUNE * np.clip(lead, -_FORTUNE_LIMIT, _FORTUNE_LIMIT)
        + _QUEST * np.minimum(_count_quests(recent), _QUEST_LIMIT)
        + _GAP * _count_missed(played)
        + np.where(len(played) == WINDOW, _LAPSED * ~played.any(axis=0), 0.0)
    )
    chances: NDArray[np.float64] = 1 / (1 + np.exp(-odds))
    return chances


def _mean_of_players(recent: RecentResults) -> NDArray[np.float64]:
    """Return the mean return of the players who took part in each session; the shape is (sessions, 1)."""
    players = np.maximum(recent.played.sum(axis=1), 1)
    total = np.where(recent.played, recent.returns, 0).sum(axis=1)
    mean: NDArray[np.float64] = total / players
    return mean[:, np.newaxis]


def _count_quests(recent: RecentResults) -> Integers:
    """Return how many quests each player completed between their first and last session in `recent`."""
    if not len(recent.played):
        return np.zeros(recent.played.shape[1], np.int64)
    players = np.arange(recent.played.shape[1])
    first = recent.played.argmax(axis=0)
    last = len(recent.played) - 1 - recent.played[::-1].argmax(axis=0)
    difference = recent.quests[last, players] - recent.quests[first, players]
    return np.where(recent.played.any(axis=0), difference, 0)


def _count_missed(played: NDArray[np.bool_]) -> Integers:
    """Return the number of sessions that each player has missed since they last took part."""
    if not len(played):
        return np.zeros(played.shape[1], np.int64)
    since = played[::-1].argmax(axis=0)
    return np.where(played.any(axis=0), since, len(played))


def _fraction(keys: Hashes, salt: np.uint64) -> NDArray[np.float64]:
    return (mix(keys ^ mix(np.array([salt], np.uint64))) >> np.uint64(11)).astype(np.float64) * _UNIT


STRATEGIES: Final = ("buy_and_hold", "momentum", "mean_reversion", "cash")
BUY_AND_HOLD, MOMENTUM, MEAN_REVERSION, CASH = range(len(STRATEGIES))

LOOKBACKS: Final = (5, 10, 20, 60)
"""Numbers of trading days over which a strategy measures returns: one week, two weeks, a month, a quarter."""

MAX_SYMBOLS: Final = 4
INVESTED_PERCENT: Final = (40, 100)
_SHARES: Final = (35, 30, 25, 10)  # percent of the players with each strategy
_CONVICTIONS: Final = 100  # a symbol's weight in a player's purchase is an integer from 1 to this number
_NOT_BOUGHT: Final = 1 << 30  # the rank of a symbol that is not bought: larger than every other rank


class Traits(NamedTuple):
    """How players trade; each field is an array with one element per player.

    `strategy` has indices in STRATEGIES, `lookback` has indices in LOOKBACKS. `symbols` is the largest number
    of symbols that a player holds. `keys` are hashes of 64 bits, which make players prefer different symbols.
    """

    strategy: Integers
    lookback: Integers
    symbols: Integers
    invested_percent: Integers
    keys: Hashes

    def take(self, indices: NDArray[np.intp]) -> "Traits":
        """Return the traits of the players with these indices, in this order."""
        strategy, lookback, symbols, invested_percent, keys = self
        return Traits(
            strategy[indices], lookback[indices], symbols[indices], invested_percent[indices], keys[indices]
        )

    def preferences(self, index: int) -> dict[str, Any]:
        """Return one player's traits as preferences of a user. `read_traits` converts them back."""
        strategy = int(self.strategy[index])
        if strategy == CASH:
            return {"strategy": STRATEGIES[CASH]}
        chosen: dict[str, Any] = {
            "strategy": STRATEGIES[strategy],
            "symbols": int(self.symbols[index]),
            "invested_percent": int(self.invested_percent[index]),
        }
        if strategy != BUY_AND_HOLD:
            chosen["lookback"] = LOOKBACKS[int(self.lookback[index])]
        return chosen


def draw_traits(seed: int, user_ids: Sequence[UUID]) -> Traits:
    """Draw random traits for players. More ids at the end do not change the traits of the first players."""
    count = len(user_ids)
    bounds = np.cumsum(_SHARES)
    return Traits(
        strategy=np.searchsorted(bounds, _draw(seed, 0, count, 0, 99), side="right"),
        lookback=_draw(seed, 1, count, 0, len(LOOKBACKS) - 1),
        symbols=_draw(seed, 2, count, 1, MAX_SYMBOLS),
        invested_percent=_draw(seed, 3, count, *INVESTED_PERCENT),
        keys=hash_ids(user_ids),
    )


def read_traits(players: Sequence[User]) -> Traits:
    """Return the traits that are stored in the players' preferences.

    A value out of range is replaced by the nearest allowed value, a missing value by the largest allowed one.
    """
    rows = [_read_preferences(player.preferences) for player in players]
    strategy, lookback, symbols, invested = np.array(rows, np.int64).reshape(-1, 4).T
    return Traits(strategy, lookback, symbols, invested, hash_ids(player.id for player in players))


def has_strategy(preferences: Mapping[str, Any]) -> bool:
    """Return whether the preferences of a user name a strategy. Every simulated player has a strategy."""
    return preferences.get("strategy") in STRATEGIES


def choose_weights(
    traits: Traits, closes_before: Integers, tradable: NDArray[np.bool_], symbols: Hashes
) -> Integers:
    """Return the weight of each symbol in each player's purchase; a symbol with weight 0 is not bought.

    `closes_before` has one row per day before the session, oldest first, and one column per symbol. On a day
    without trade, it has the last earlier close, or 0 if there is none. `tradable` marks the symbols that
    have an opening price in the session.
    """
    convictions = mix(traits.keys[:, np.newaxis] ^ mix(symbols)[np.newaxis, :])
    rising, falling = _order_by_return(closes_before, tradable)
    favourite = _rank_in_row(np.where(tradable, convictions >> np.uint64(1), np.uint64(0)))
    favourite[:, ~tradable] = _NOT_BOUGHT
    strategy = traits.strategy[:, np.newaxis]
    positions = np.select(
        [strategy == BUY_AND_HOLD, strategy == MOMENTUM, strategy == MEAN_REVERSION],
        [favourite, rising[traits.lookback], falling[traits.lookback]],
        default=_NOT_BOUGHT,
    )
    weights = (convictions % np.uint64(_CONVICTIONS)).astype(np.int64) + 1
    chosen: Integers = np.where(positions < traits.symbols[:, np.newaxis], weights, 0)
    return chosen


def _order_by_return(closes: Integers, tradable: NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Return the ranks of the symbols by their rise, and their ranks by their fall.

    Rank 0 has the largest rise, or the largest fall. A symbol that did not rise has the rank _NOT_BOUGHT in
    the first array, and a symbol that did not fall has it in the second. Both arrays have one row for each
    number of days in LOOKBACKS, and one column for each symbol.
    """
    shape = (len(LOOKBACKS), len(tradable))
    returns = np.full(shape, 1.0)
    for row, days in enumerate(LOOKBACKS):
        if len(closes) > days:
            now, then = closes[-1], closes[-1 - days]
            known = tradable & (then > 0)
            np.divide(now, then, out=returns[row], where=known)
    rising = np.where(returns > 1, _rank_in_row(returns), _NOT_BOUGHT)
    falling = np.where(returns < 1, _rank_in_row(-returns), _NOT_BOUGHT)
    return rising, falling


def _rank_in_row(values: NDArray[Any]) -> Integers:
    """Return the rank of each value in its row: 0 for the highest. Equal values keep their order."""
    order = np.argsort(-values if values.dtype.kind == "f" else ~values, axis=1, kind="stable")
    positions = np.empty(values.shape, np.int64)
    np.put_along_axis(positions, order, np.arange(values.shape[1])[np.newaxis, :], axis=1)
    return positions


def _draw(seed: int, trait: int, count: int, low: int, high: int) -> Integers:
    # one generator per trait: otherwise a player's values would depend on the number of other players
    generator = Generator(PCG64(SeedSequence([seed, trait])))
    return generator.integers(low, high, size=count, dtype=np.int64, endpoint=True)


def _read_preferences(chosen: Mapping[str, Any]) -> tuple[int, int, int, int]:
    lookback = _clamp(chosen.get("lookback"), LOOKBACKS[0], LOOKBACKS[-1])
    return (
        STRATEGIES.index(chosen["strategy"]),
        max(index for index, days in enumerate(LOOKBACKS) if days <= lookback),
        _clamp(chosen.get("symbols"), 1, MAX_SYMBOLS),
        _clamp(chosen.get("invested_percent"), 0, 100),
    )


def _clamp(value: Any, low: int, high: int) -> int:
    return min(max(value, low), high) if isinstance(value, int) else high
