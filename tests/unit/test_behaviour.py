"""The strategies of simulated players, and the arithmetic of a session compared with `Decimal`."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

import numpy as np
import pytest
from frozendict import frozendict
from hypothesis import given
from hypothesis import strategies as st

from core.records import User
from core.simulation.amounts import Integers, divide_rounded, to_money, to_price
from core.simulation.behaviour import (
    LOOKBACKS,
    STRATEGIES,
    Traits,
    choose_weights,
    draw_traits,
    read_traits,
)
from core.simulation.identifiers import Kind, hash_texts, make_ids
from core.simulation.players import build_name, build_username, player_ids
from core.simulation.trading import (
    STARTING_CENTS,
    buy_shares,
    percent_hundredths,
    rank_scores,
    value_holdings,
)

CENT = Decimal("0.01")
SYMBOLS = hash_texts(("AAPL", "GOOG", "IBM"))
ALL = np.array([True, True, True])


def traits_of(strategy: str, *, lookback: int = 5, symbols: int = 1) -> Traits:
    """Return the traits of one player, as arrays of length 1."""
    return Traits(
        strategy=np.array([STRATEGIES.index(strategy)]),
        lookback=np.array([LOOKBACKS.index(lookback)]),
        symbols=np.array([symbols]),
        invested_percent=np.array([80]),
        keys=np.array([7], np.uint64),
    )


def list_bought(
    traits: Traits, closes: Integers, tradable: np.ndarray[tuple[int], np.dtype[np.bool_]] = ALL
) -> list[int]:
    """Return the column numbers of the symbols that the first player buys."""
    weights = choose_weights(traits, closes, tradable, SYMBOLS)
    return np.flatnonzero(weights[0]).tolist()


def make_closes(*last: int) -> Integers:
    """Return closes of six days: 100 for every symbol, and the values of `last` on the last day."""
    closes = np.full((6, len(last)), 100, np.int64)
    closes[-1] = last
    return closes


def test_momentum_buys_the_largest_gains() -> None:
    """Momentum buys the symbols with the largest gains, and none without a gain."""
    assert list_bought(traits_of("momentum"), make_closes(110, 120, 90)) == [1]
    assert list_bought(traits_of("momentum", symbols=3), make_closes(110, 120, 90)) == [0, 1]
    assert list_bought(traits_of("momentum", symbols=3), make_closes(99, 100, 90)) == []


def test_mean_reversion_buys_the_largest_losses() -> None:
    """Mean reversion buys the symbols with the largest losses, and none without a loss."""
    assert list_bought(traits_of("mean_reversion"), make_closes(95, 120, 90)) == [2]
    assert list_bought(traits_of("mean_reversion", symbols=3), make_closes(95, 100, 90)) == [0, 2]


def test_buy_and_hold_keeps_its_symbols() -> None:
    """The strategy buy_and_hold buys the same symbols after different price changes."""
    first = list_bought(traits_of("buy_and_hold", symbols=2), make_closes(110, 120, 90))
    assert len(first) == 2
    assert list_bought(traits_of("buy_and_hold", symbols=2), make_closes(90, 80, 300)) == first


def test_cash_buys_nothing() -> None:
    """The strategy cash buys no symbol."""
    assert list_bought(traits_of("cash", symbols=3), make_closes(110, 120, 90)) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_tradable_symbols_are_bought(strategy: str) -> None:
    """No strategy buys a symbol that is not tradable in the session."""
    none = np.array([False, False, False])
    assert list_bought(traits_of(strategy, symbols=3), make_closes(110, 90, 120), none) == []


def test_a_symbol_without_history_is_not_bought() -> None:
    """Momentum does not buy a symbol whose close before the lookback period is missing."""
    closes = make_closes(110, 120, 130)
    closes[0, 1] = 0
    assert list_bought(traits_of("momentum", symbols=3), closes) == [0, 2]
    assert list_bought(traits_of("momentum", symbols=3), closes[1:]) == []
    assert list_bought(traits_of("momentum", lookback=20, symbols=3), closes) == []


def test_players_do_not_depend_on_their_number() -> None:
    """The first 10 players of a game have the same traits with 10 and with 1,000 players."""
    few, many = (draw_traits(5, player_ids(range(count))) for count in (10, 1_000))
    for small, large in zip(few, many, strict=True):
        assert small.tolist() == large[:10].tolist()


def test_every_strategy_is_played() -> None:
    """200 players use every strategy, and another seed gives other strategies."""
    traits = draw_traits(1, player_ids(range(200)))
    assert set(traits.strategy.tolist()) == set(range(len(STRATEGIES)))
    assert traits.strategy.tolist() != draw_traits(2, player_ids(range(200))).strategy.tolist()


def user_with(user_id: UUID, preferences: dict[str, object]) -> User:
    """Return a user with these preferences."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return User(user_id, "alice", None, None, None, frozendict(preferences), now, now)


def test_stored_traits_choose_the_same_symbols() -> None:
    """Traits that are read from stored preferences choose the same weights as the drawn traits."""
    ids = player_ids(range(100))
    drawn = draw_traits(3, ids)
    users = [user_with(user_id, drawn.preferences(player)) for player, user_id in enumerate(ids)]
    closes = np.vstack([make_closes(90, 120, 110)] * 11)
    expected = choose_weights(drawn, closes, ALL, SYMBOLS)
    assert (choose_weights(read_traits(users), closes, ALL, SYMBOLS) == expected).all()


def test_invalid_preferences_are_replaced() -> None:
    """Preferences that a user has set to invalid values are replaced by valid traits."""
    invalid = {"strategy": "momentum", "lookback": 7, "symbols": 99, "invested_percent": "all"}
    traits = read_traits([user_with(UUID(int=1), invalid)])
    assert [column.tolist() for column in traits[:4]] == [[1], [0], [4], [100]]


prices = st.integers(1, 10**9)


@st.composite
def sessions(draw: st.DrawFn) -> tuple[Integers, Integers, Integers, Integers]:
    """Generate weights, invested percents, opening prices and closing prices of a session."""
    players, symbols = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    weights = st.lists(st.integers(0, 100), min_size=symbols, max_size=symbols)
    rows = draw(st.lists(weights, min_size=players, max_size=players))
    percent = draw(st.lists(st.integers(0, 100), min_size=players, max_size=players))
    quoted = st.lists(prices, min_size=symbols, max_size=symbols)
    return np.array(rows), np.array(percent), np.array(draw(quoted)), np.array(draw(quoted))


@given(sessions())
def test_value_is_cash_plus_holdings_to_the_cent(
    session: tuple[Integers, Integers, Integers, Integers],
) -> None:
    """A portfolio's value is cash plus holdings, as in `Decimal`; at most the invested percent is spent."""
    weights, percent, opens, closes = session
    result = value_holdings(buy_shares(weights, percent, opens), closes)
    for player, shares in enumerate(result.holdings.shares.tolist()):
        spent = sum(
            (count * to_price(price)).quantize(CENT, ROUND_HALF_UP)
            for count, price in zip(shares, opens.tolist(), strict=True)
        )
        held = sum(
            (count * to_price(price)).quantize(CENT, ROUND_HALF_UP)
            for count, price in zip(shares, closes.tolist(), strict=True)
        )
        cash = to_money(int(result.holdings.cash_cents[player]))
        assert cash == 10_000 - spent
        assert spent <= 100 * int(percent[player])
        assert to_money(int(result.value_cents[player])) == cash + held
        assert min(shares) >= 0


def test_a_symbol_without_a_price_is_not_bought() -> None:
    """A symbol without an opening price is not bought, and its share of the cash stays cash."""
    holdings = buy_shares(np.array([[1, 1]]), np.array([100]), np.array([0, 20_000]))
    result = value_holdings(holdings, np.array([0, 30_000]))
    assert result.holdings.shares.tolist() == [[0, 2_500]]
    assert result.value_cents.tolist() == [1_250_000]


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_halves_are_rounded_away_from_zero(value: int, divisor: int) -> None:
    """`divide_rounded` rounds halves away from zero, as PostgreSQL rounds numeric values."""
    expected = (Decimal(value) / divisor).quantize(Decimal(1), ROUND_HALF_UP)
    assert divide_rounded(np.array([value]), divisor).tolist() == [int(expected)]


def test_percent_is_of_the_starting_cash() -> None:
    """A change in cents is converted to hundredths of a percent of the starting cash."""
    changes = np.array([STARTING_CENTS, -150, 149, 0])
    assert percent_hundredths(changes).tolist() == [10_000, -2, 1, 0]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_equal_scores_share_their_rank(scores: list[int]) -> None:
    """A rank is 1 plus the number of higher scores, for example 1, 2, 2, 4."""
    ranks = rank_scores(np.array(scores)).tolist()
    assert ranks == [1 + sum(other > score for other in scores) for score in scores]


def test_usernames_are_unique_and_readable() -> None:
    """The usernames of 100,000 players differ, have at most 50 characters, and give a readable name."""
    names = [build_username(player) for player in range(100_000)]
    assert len(set(names)) == len(names)
    assert names[0] == "amber_badger"
    assert build_name(names[0]) == "Amber Badger"
    assert max(map(len, names)) <= 50


def test_ids_are_version_7_and_deterministic() -> None:
    """Ids are UUIDs of version 7 with the given time; kind, seed, time and number determine the id."""
    start = datetime(2013, 3, 1, 21, tzinfo=UTC)
    numbers = np.arange(1_000)
    ids = make_ids(Kind.PORTFOLIO, seed=1, when=start, keys=numbers)
    assert {(made.version, made.variant) for made in ids} == {(7, "specified in RFC 4122")}
    assert {made.int >> 80 for made in ids} == {int(start.timestamp() * 1000)}
    assert ids == make_ids(Kind.PORTFOLIO, seed=1, when=start, keys=numbers)
    others = [
        *make_ids(Kind.TOTAL_VALUE, seed=1, when=start, keys=numbers),
        *make_ids(Kind.PORTFOLIO, seed=2, when=start, keys=numbers),
        *make_ids(Kind.PORTFOLIO, seed=1, when=start.replace(hour=20), keys=numbers),
    ]
    assert len({*ids, *others}) == 4_000
