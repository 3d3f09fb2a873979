"""Gains of a player per symbol, compared with gains recomputed in Python from the stored rows."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.queries import portfolios as queries
from core.records import PlayerGains, Position, SymbolGain, Tick, Trade, User
from core.service.portfolios import add_gains
from core.service.writes import new_id
from tests.conftest import Execute
from tests.game import build_portfolio
from tests.integration.plans import count_rows_read
from tests.scenarios import SCENARIOS, read_table, write_scenario

DAY = date(2026, 3, 2)
NEXT = DAY + timedelta(days=1)
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
OPEN = NOW.date()
SYMBOLS = ("AAPL", "FB", "IBM", "MSFT")


@pytest.fixture
def game(service: EnhancedDatabaseService) -> EnhancedDatabaseService:
    """Return a service whose clock stands at noon of 4 March 2026, so the session of that day is open."""
    service._clock = lambda: NOW
    return service


def write_session(
    service: EnhancedDatabaseService,
    user: User,
    day: date,
    change: str,
    *,
    trades: tuple[tuple[str, str, str, str], ...] = (),
    positions: tuple[tuple[str, str, str], ...] = (),
) -> None:
    """Write one session of a player; trades are (symbol, side, quantity, price), positions have no side."""
    opened = datetime.combine(day, time(9), UTC)
    service.load_portfolios([build_portfolio(user.id, day, Decimal(change))])
    service.load_trades(
        Trade(new_id(), user.id, day, symbol, side, Decimal(quantity), Decimal(price), opened)
        for symbol, side, quantity, price in trades
    )
    service.load_positions(
        Position(user.id, day, symbol, Decimal(quantity), Decimal(price))
        for symbol, quantity, price in positions
    )


def write_prices(service: EnhancedDatabaseService, day: date, hour: int, **prices: str) -> None:
    """Write one price per symbol at an hour of a day."""
    at = datetime.combine(day, time(hour), UTC)
    service.load_market_ticks(Tick(symbol, at, Decimal(price)) for symbol, price in prices.items())


def find_gain(gains: PlayerGains, symbol: str) -> SymbolGain:
    """Return the only gain of a symbol."""
    [found] = [gain for gain in gains.symbols if gain.symbol == symbol]
    return found


# -- recomputation from the rows --------------------------------------------------------


def round_to_cents(amount: Decimal) -> Decimal:
    """Round to the cent, half away from zero."""
    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP)


def read_rows(execute: Execute, table: str, user_id: UUID, start: date, end: date) -> list[dict[str, Any]]:
    """Return a player's rows of a table whose session date is between `start` and `end`."""
    frame = read_table(execute, table)
    mine = (frame["user_id"].astype(str) == str(user_id)) & frame["session_date"].between(start, end)
    return [{str(name): value for name, value in row.items()} for row in frame[mine].to_dict("records")]


def find_last_prices(execute: Execute) -> dict[tuple[date, str], Decimal]:
    """Return the last price of each UTC day and symbol."""
    ticks = read_table(execute, "ticks").sort_values("timestamp")
    rows = zip(ticks["timestamp"], ticks["symbol"], ticks["price"], strict=True)
    return {(moment.astimezone(UTC).date(), symbol): price for moment, symbol, price in rows}


def recompute(execute: Execute, user_id: UUID, start: date, end: date) -> PlayerGains:
    """Return a player's gains, recomputed from whole tables per session and symbol."""
    played = read_rows(execute, "portfolios", user_id, start, end)
    trades = read_rows(execute, "trades", user_id, start, end)
    positions = read_rows(execute, "positions", user_id, start, end)
    last = find_last_prices(execute)
    symbols: dict[str, SymbolGain] = {}
    for day, symbol in sorted({(row["session_date"], row["symbol"]) for row in [*trades, *positions]}):
        flows = [row for row in trades if (row["session_date"], row["symbol"]) == (day, symbol)]
        held = [row for row in positions if (row["session_date"], row["symbol"]) == (day, symbol)]
        new = recompute_symbol(symbol, flows, held, last.get((day, symbol)))
        symbols[symbol] = _add(symbols[symbol], new) if symbol in symbols else new
    change = sum((row["day_change"] for row in played), Decimal(0))
    return PlayerGains(len(played), change, tuple(symbols.values()))


def recompute_symbol(
    symbol: str, flows: list[dict[str, Any]], held: list[dict[str, Any]], last: Decimal | None
) -> SymbolGain:
    """Return the gain of one symbol in one session."""
    sums, shares = {"BUY": Decimal(0), "SELL": Decimal(0)}, Decimal(0)
    for trade in flows:
        sums[trade["side"]] += round_to_cents(trade["quantity"] * trade["price"])
        shares += trade["quantity"] if trade["side"] == "BUY" else -trade["quantity"]
    quantity = sum((row["quantity"] for row in held), Decimal(0))
    cost = sum((round_to_cents(row["quantity"] * row["average_price"]) for row in held), Decimal(0))
    is_priced = last is not None or not held
    worth = round_to_cents(quantity * last) if last is not None else cost
    adds_up = len(flows) > 0 and shares == quantity
    return SymbolGain(
        symbol=symbol,
        sessions=1,
        trades=len(flows),
        bought=sums["BUY"],
        sold=sums["SELL"],
        realised=sums["SELL"] - sums["BUY"] + cost if adds_up else Decimal(0),
        unrealised=worth - cost,
        incomplete=int(not adds_up or not is_priced),
    )


def _add(first: SymbolGain, second: SymbolGain) -> SymbolGain:
    names = SymbolGain.__struct_fields__[1:]
    return SymbolGain(first.symbol, *(getattr(first, name) + getattr(second, name) for name in names))


def sort_by_symbol(gains: PlayerGains) -> list[SymbolGain]:
    """Return the gains, sorted by symbol."""
    return sorted(gains.symbols, key=lambda gain: gain.symbol)


# -- single cases -----------------------------------------------------------------------


def test_a_position_is_valued_at_the_last_price_of_its_day(
    game: EnhancedDatabaseService, alice: User
) -> None:
    """A position is valued at the last price of its own day; a price of the next day is ignored."""
    write_session(
        game, alice, DAY, "25.00",
        trades=(("AAPL", "BUY", "10", "100"),), positions=(("AAPL", "10", "100"),),
    )  # fmt: skip  # keep the session on a few lines
    write_prices(game, DAY, 10, AAPL="90")
    write_prices(game, DAY, 20, AAPL="102.5")
    write_prices(game, NEXT, 1, AAPL="999")
    gains = game.get_player_gains(alice.id, DAY, DAY)
    gain = find_gain(gains, "AAPL")
    assert (gain.realised, gain.unrealised, gain.gain) == (0, 25, 25)
    assert (gain.bought, gain.sold, gain.trades, gain.sessions, gain.incomplete) == (1000, 0, 1, 1, 0)
    assert (gains.sessions, gains.change, gains.unexplained) == (1, 25, 0)


def test_a_sale_in_the_session_of_the_purchase_is_realised(
    game: EnhancedDatabaseService, alice: User
) -> None:
    """Sold shares have a realised gain, and the remaining shares have an unrealised gain."""
    write_session(
        game, alice, DAY, "70",
        trades=(
            ("AAPL", "BUY", "10", "100"), ("AAPL", "SELL", "10", "105"),
            ("FB", "BUY", "4", "50"), ("FB", "SELL", "1", "60"),
        ),
        positions=(("FB", "3", "50"),),
    )  # fmt: skip  # keep the session on a few lines
    write_prices(game, DAY, 20, AAPL="1", FB="53.33")
    gains = game.get_player_gains(alice.id, DAY, DAY)
    apple, facebook = gains.symbols
    assert (apple.realised, apple.unrealised, apple.incomplete) == (50, 0, 0)
    assert (facebook.realised, facebook.unrealised) == (10, Decimal("9.99"))
    assert gains.unexplained == Decimal("0.01")


def test_a_sale_without_a_purchase_is_unexplained(game: EnhancedDatabaseService, alice: User) -> None:
    """A sale without a purchase has a gain of 0 and is marked incomplete: the shares' cost is unknown."""
    write_session(game, alice, DAY, "500", trades=(("AAPL", "SELL", "5", "100"),))
    gains = game.get_player_gains(alice.id, DAY, DAY)
    assert (find_gain(gains, "AAPL").sold, find_gain(gains, "AAPL").gain) == (500, 0)
    assert find_gain(gains, "AAPL").incomplete == 1
    assert gains.unexplained == 500


def test_a_position_without_trades_has_a_gain(game: EnhancedDatabaseService, alice: User) -> None:
    """The gain uses the position's average price; the symbol is marked incomplete without its trades."""
    write_session(game, alice, DAY, "30", positions=(("AAPL", "3", "100"),))
    write_prices(game, DAY, 20, AAPL="110")
    gains = game.get_player_gains(alice.id, DAY, DAY)
    assert (find_gain(gains, "AAPL").gain, find_gain(gains, "AAPL").incomplete) == (30, 1)
    assert gains.unexplained == 0


def test_a_symbol_without_a_price_is_unexplained(game: EnhancedDatabaseService, alice: User) -> None:
    """A symbol without a price on the session's day has a gain of 0; prices of other days are not used."""
    write_session(
        game, alice, DAY, "-12",
        trades=(("AAPL", "BUY", "1", "100"), ("FB", "BUY", "1", "20")),
        positions=(("AAPL", "1", "100"), ("FB", "1", "20")),
    )  # fmt: skip  # keep the session on a few lines
    write_prices(game, DAY - timedelta(days=1), 23, AAPL="50")
    write_prices(game, DAY, 20, FB="18")
    write_prices(game, NEXT, 0, AAPL="70")
    gains = game.get_player_gains(alice.id, DAY, DAY)
    assert (find_gain(gains, "AAPL").gain, find_gain(gains, "AAPL").incomplete) == (0, 1)
    assert (find_gain(gains, "FB").gain, find_gain(gains, "FB").incomplete) == (-2, 0)
    assert gains.unexplained == -10


def test_a_portfolio_without_trades_is_unexplained(game: EnhancedDatabaseService, alice: User) -> None:
    """Without trades and positions, the whole change of the portfolio is unexplained."""
    write_session(game, alice, DAY, "-77.10")
    gains = game.get_player_gains(alice.id, DAY, NEXT)
    assert gains == PlayerGains(1, Decimal("-77.10"), ())
    assert gains.unexplained == Decimal("-77.10")


def test_a_player_without_sessions_has_zeros(game: EnhancedDatabaseService, alice: User) -> None:
    """A player without sessions has zero sessions, no change and no symbols, also for extreme dates."""
    for first, last in ((DAY, NEXT), (date.min, date.max), (date.max, date.max)):
        assert game.get_player_gains(alice.id, first, last) == PlayerGains(0, Decimal(0), ())


def test_the_open_session_follows_its_newest_price(game: EnhancedDatabaseService, alice: User) -> None:
    """A new price changes the gain of the open session at once and does not change the finished session."""
    for day in (DAY, OPEN):
        write_session(
            game, alice, day, "10",
            trades=(("AAPL", "BUY", "1", "100"),), positions=(("AAPL", "1", "100"),),
        )  # fmt: skip  # keep the session on a few lines
        write_prices(game, day, 1, AAPL="110")
    assert find_gain(game.get_player_gains(alice.id, DAY, OPEN), "AAPL").unrealised == 20
    write_prices(game, OPEN, 2, AAPL="95")
    gains = game.get_player_gains(alice.id, DAY, OPEN)
    assert find_gain(gains, "AAPL").unrealised == 5
    assert (gains.sessions, gains.unexplained) == (2, 15)


def test_other_players_and_sessions_are_left_out(
    game: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """Another player's trades and the player's trades of another day are not counted."""
    for user, day in ((alice, DAY), (alice, NEXT), (bob, DAY)):
        write_session(
            game, user, day, "1",
            trades=(("AAPL", "BUY", "1", "100"),), positions=(("AAPL", "1", "100"),),
        )  # fmt: skip  # keep the session on a few lines
        write_prices(game, day, 1, AAPL="101")
    gains = game.get_player_gains(alice.id, DAY, DAY)
    assert (gains.sessions, find_gain(gains, "AAPL").trades) == (1, 1)


def test_an_end_before_the_start_is_refused(game: EnhancedDatabaseService, alice: User) -> None:
    """An end before the start raises InvalidInput with both dates."""
    with pytest.raises(InvalidInput, match=f"end {DAY} is before start {NEXT}"):
        game.get_player_gains(alice.id, NEXT, DAY)


def test_gains_of_single_days_add_up(game: EnhancedDatabaseService, alice: User) -> None:
    """For each symbol, the gains of thirteen single days add up to the gains of all thirteen days."""
    write_random_sessions(game, alice, Random(5))
    days = [OPEN - timedelta(days=age) for age in range(12, -1, -1)]
    parts = [game.get_player_gains(alice.id, day, day) for day in days]
    assert add_gains(parts) == game.get_player_gains(alice.id, days[0], days[-1])


def write_random_sessions(service: EnhancedDatabaseService, user: User, random: Random) -> None:
    """Write thirteen random days: some sessions or prices are missing, and some trades match no position."""
    for age in range(12, -1, -1):
        day = OPEN - timedelta(days=age)
        for hour in (1, 13, 22):
            prices = {
                symbol: f"{random.uniform(0.001, 500):.{random.randrange(7)}f}"
                for symbol in SYMBOLS
                if random.random() < 0.8
            }
            write_prices(
                service, day, hour, **{name: price for name, price in prices.items() if float(price) > 0}
            )
        if random.random() < 0.3:
            continue
        trades, positions = [], []
        for symbol in SYMBOLS:
            kind = random.randrange(6)
            bought, sold = random.randint(2, 90), random.randint(1, 90)
            price = f"{random.uniform(1, 300):.4f}"
            if kind in {1, 2, 5}:
                trades.append((symbol, "BUY", f"{bought}", price))
            if kind in {2, 3}:
                trades.append((symbol, "SELL", f"{min(sold, bought)}", f"{random.uniform(1, 300):.3f}"))
            left = bought - min(sold, bought) if kind == 2 else bought
            if kind in {1, 2, 4} and left:
                positions.append((symbol, f"{left}", price))
        change = f"{random.uniform(-500, 500):.2f}"
        write_session(service, user, day, change, trades=tuple(trades), positions=tuple(positions))


@pytest.mark.parametrize("seed", range(4))
def test_gains_equal_those_from_the_rows(
    game: EnhancedDatabaseService, alice: User, bob: User, execute: Execute, seed: int
) -> None:
    """For one day, several days and all days, the gains equal those recomputed from whole tables."""
    for user in (alice, bob):
        write_random_sessions(game, user, Random(f"{seed}{user.username}"))
    for first, last in ((OPEN, OPEN), (DAY, DAY), (DAY, OPEN), (date(2026, 2, 1), OPEN)):
        for user in (alice, bob):
            found = game.get_player_gains(user.id, first, last)
            expected = recompute(execute, user.id, first, last)
            assert (found.sessions, found.change) == (expected.sessions, expected.change)
            assert list(found.symbols) == sort_by_symbol(expected)
            explained = sum((gain.gain for gain in found.symbols), Decimal(0))
            assert explained + found.unexplained == found.change


@pytest.mark.parametrize("name", SCENARIOS)
def test_complete_rows_explain_every_change(
    service: EnhancedDatabaseService, execute: Execute, name: str
) -> None:
    """In a scenario without gaps, the gains of the symbols add up to the player's change of value."""
    service._clock = lambda: NOW
    write_scenario(service, name, NOW)
    for user in service.stream_users():
        for first in (OPEN, OPEN - timedelta(days=1), OPEN - timedelta(days=60)):
            found = service.get_player_gains(user.id, first, OPEN)
            expected = recompute(execute, user.id, first, OPEN)
            assert (found.sessions, found.change) == (expected.sessions, expected.change)
            assert list(found.symbols) == sort_by_symbol(expected)
            assert found.unexplained == 0
            assert all(gain.incomplete == 0 for gain in found.symbols)


# -- rows read --------------------------------------------------------------------------


def test_gains_read_one_tick_a_session_and_symbol(execute: Execute) -> None:
    """The query reads only rows of one of 40 players, and one of the 24 ticks of each session and symbol."""
    execute(
        """
        INSERT INTO users (username) SELECT 'player' || n FROM generate_series(1, 40) n;
        INSERT INTO ticks (symbol, timestamp, price)
            SELECT 'S' || s, timestamptz '2026-01-01Z' + n * interval '1 hour', 1
            FROM generate_series(1, 4) s, generate_series(0, 5999) n;
        INSERT INTO portfolios (user_id, session_date)
            SELECT id, '2026-01-01'::date + n FROM users, generate_series(0, 249) n;
        INSERT INTO positions (user_id, session_date, symbol, quantity, average_price)
            SELECT user_id, session_date, 'S' || s, 1, 1 FROM portfolios, generate_series(1, 4) s;
        INSERT INTO trades (user_id, session_date, symbol, side, quantity, price)
            SELECT user_id, session_date, symbol, 'BUY', 1, 1 FROM positions;
        ANALYZE users, ticks, portfolios, positions, trades"""
    )
    [(user_id,)] = execute("SELECT id FROM users LIMIT 1")
    parameters = {"user": user_id, "start": date(2026, 1, 1), "end": date(2026, 9, 7)}
    for table, rows in (("ticks", 1000), ("trades", 1000), ("positions", 1000), ("portfolios", 250)):
        assert count_rows_read(execute, queries.GAINS, parameters, table) == rows
