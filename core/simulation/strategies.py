"""What simulated players buy.

Owns the strategies: which symbols a player holds in a session and in what
proportion, decided from closes before the session alone. Never knows a price of the
session itself, and never touches money; that is `sessions`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from core.records import User
from core.simulation.amounts import Integers
from core.simulation.identifiers import Hashes, hash_ids, mix

STRATEGIES: Final = ("buy_and_hold", "momentum", "mean_reversion", "cash")
BUY_AND_HOLD, MOMENTUM, MEAN_REVERSION, CASH = range(len(STRATEGIES))

LOOKBACKS: Final = (5, 10, 20, 60)
"""Trading days over which a return is looked at: one and two weeks, a month, a quarter."""

MAX_SYMBOLS: Final = 4
INVESTED_PERCENT: Final = (40, 100)
_SHARES: Final = (35, 30, 25, 10)  # percent of the players with each strategy
_CONVICTIONS: Final = 100  # steps of how much more of one symbol a player buys than of another
_NEVER: Final = 1 << 30  # a place in an order that is never reached


class Traits(NamedTuple):
    """How players trade, one array element each.

    `lookback` is a place in LOOKBACKS; `symbols` is how many a player holds at most;
    `keys` are 64 bits by which players prefer different symbols.
    """

    strategy: Integers
    lookback: Integers
    symbols: Integers
    invested_percent: Integers
    keys: Hashes

    def take(self, places: NDArray[np.intp]) -> "Traits":
        """Return the traits of some players, in this order."""
        strategy, lookback, symbols, invested_percent, keys = self
        return Traits(
            strategy[places], lookback[places], symbols[places], invested_percent[places], keys[places]
        )

    def preferences(self, place: int) -> dict[str, Any]:
        """Return what is stored of one player; `read_traits` is the way back."""
        strategy = int(self.strategy[place])
        if strategy == CASH:
            return {"strategy": STRATEGIES[CASH]}
        chosen: dict[str, Any] = {
            "strategy": STRATEGIES[strategy],
            "symbols": int(self.symbols[place]),
            "invested_percent": int(self.invested_percent[place]),
        }
        if strategy != BUY_AND_HOLD:
            chosen["lookback"] = LOOKBACKS[int(self.lookback[place])]
        return chosen


def draw_traits(seed: int, user_ids: Sequence[UUID]) -> Traits:
    """Draw how players trade; a player's traits do not depend on how many follow."""
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
    """Return how players trade by their preferences.

    What is missing or out of range becomes the nearest that is allowed.
    """
    rows = [_read_preferences(player.preferences) for player in players]
    strategy, lookback, symbols, invested = np.array(rows, np.int64).reshape(-1, 4).T
    return Traits(strategy, lookback, symbols, invested, hash_ids(player.id for player in players))


def is_strategy(preferences: Mapping[str, Any]) -> bool:
    """Say whether these preferences make a user a simulated player."""
    return preferences.get("strategy") in STRATEGIES


def choose_weights(
    traits: Traits, closes_before: Integers, tradable: NDArray[np.bool_], symbols: Hashes
) -> Integers:
    """Return for each player and symbol in which proportion it is bought; 0 is not at all.

    `closes_before` has one row per day before the session, oldest first, the closes
    carried over days without trade and 0 before a symbol's first; `tradable` are the
    symbols that have an opening price in the session.
    """
    convictions = mix(traits.keys[:, np.newaxis] ^ mix(symbols)[np.newaxis, :])
    rising, falling = _order_by_return(closes_before, tradable)
    favourite = _places(np.where(tradable, convictions >> np.uint64(1), np.uint64(0)))
    favourite[:, ~tradable] = _NEVER
    strategy = traits.strategy[:, np.newaxis]
    places = np.select(
        [strategy == BUY_AND_HOLD, strategy == MOMENTUM, strategy == MEAN_REVERSION],
        [favourite, rising[traits.lookback], falling[traits.lookback]],
        default=_NEVER,
    )
    weights = (convictions % np.uint64(_CONVICTIONS)).astype(np.int64) + 1
    chosen: Integers = np.where(places < traits.symbols[:, np.newaxis], weights, 0)
    return chosen


def _order_by_return(closes: Integers, tradable: NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """For each lookback, the place of each symbol among those that rose, and that fell, most."""
    shape = (len(LOOKBACKS), len(tradable))
    returns = np.full(shape, 1.0)
    for row, days in enumerate(LOOKBACKS):
        if len(closes) > days:
            now, then = closes[-1], closes[-1 - days]
            known = tradable & (then > 0)
            np.divide(now, then, out=returns[row], where=known)
    rising = np.where(returns > 1, _places(returns), _NEVER)
    falling = np.where(returns < 1, _places(-returns), _NEVER)
    return rising, falling


def _places(values: NDArray[Any]) -> Integers:
    """Return the place of each value in its row, 0 for the highest; equals keep their order."""
    order = np.argsort(-values if values.dtype.kind == "f" else ~values, axis=1, kind="stable")
    places = np.empty(values.shape, np.int64)
    np.put_along_axis(places, order, np.arange(values.shape[1])[np.newaxis, :], axis=1)
    return places


def _draw(seed: int, trait: int, count: int, least: int, most: int) -> Integers:
    # a generator of its own per trait: the first players draw the same however many follow
    generator = Generator(PCG64(SeedSequence([seed, trait])))
    return generator.integers(least, most, size=count, dtype=np.int64, endpoint=True)


def _read_preferences(chosen: Mapping[str, Any]) -> tuple[int, int, int, int]:
    lookback = _whole(chosen.get("lookback"), LOOKBACKS[0], LOOKBACKS[-1])
    return (
        STRATEGIES.index(chosen["strategy"]),
        max(place for place, days in enumerate(LOOKBACKS) if days <= lookback),
        _whole(chosen.get("symbols"), 1, MAX_SYMBOLS),
        _whole(chosen.get("invested_percent"), 0, 100),
    )


def _whole(value: Any, least: int, most: int) -> int:
    return min(max(value, least), most) if isinstance(value, int) else most
