"""A replay in memory: sessions, leaderboards, quests and events add up."""

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pytest

from core.records import QUESTS_COMPLETED, Candle, Quest
from core.simulation.behaviour import draw_traits
from core.simulation.history import PriceHistory, build_history
from core.simulation.identifiers import Kind, hash_texts, make_ids
from core.simulation.market_events import PriceMove, list_events
from core.simulation.players import build_username, player_ids
from core.simulation.quests import DAILY, MILESTONES, WEEKLY, ReplayQuests, next_milestone
from core.simulation.replay import PlayedSession, Replay, play_day
from core.simulation.trading import STARTING_CENTS, Holdings, SessionResult, SessionRows
from core.simulation.trading_hours import close_of, open_of

PLAYERS = 60
DAYS = 90
LATER = datetime(2026, 1, 1, tzinfo=UTC)


def candle(symbol: str, day: date, opened: int, closed: int) -> Candle:
    """Return one day of a symbol; prices in 1/10000."""
    low, high = sorted((Decimal(opened) / 10_000, Decimal(closed) / 10_000))
    bucket = datetime.combine(day, time(0), UTC)
    return Candle(symbol, bucket, Decimal(opened) / 10_000, high, low, Decimal(closed) / 10_000, 1, 1)


def make_history(days: int = DAYS) -> PriceHistory:
    """Return weekdays of three symbols that wander; the third begins on the tenth day."""
    generator = np.random.Generator(np.random.PCG64(11))
    calendar = [date(2012, 1, 2) + timedelta(days=n) for n in range(2 * days)]
    weekdays = [day for day in calendar if day.weekday() < 5][:days]
    series = {}
    for symbol, first in (("AAPL", 0), ("GOOG", 0), ("FB", 10)):
        price, candles = 500_000, []
        for day in weekdays[first:]:
            opened = int(price * (1 + generator.normal(0, 0.01)))
            price = int(opened * (1 + generator.normal(0, 0.03)))
            candles.append(candle(symbol, day, opened, price))
        series[symbol] = candles
    return build_history(series)


def make_replay(history: PriceHistory, *, seed: int = 1) -> Replay:
    """Return a replay of a whole history with players that are in no database."""
    ids = player_ids(range(PLAYERS))
    return Replay(history, draw_traits(seed, ids), tuple(ids), seed=seed, first=0)


def make_rows(replay: Replay, session: PlayedSession, *, seed: int = 1) -> SessionRows:
    """Return the rows of a session."""
    players = [(replay.user_ids[place], build_username(place)) for place in session.players.tolist()]
    return SessionRows(
        players,
        session.day,
        session.result,
        seed=seed,
        opened=open_of(session.day),
        closed=close_of(session.day),
    )


@pytest.fixture(scope="module")
def history() -> PriceHistory:
    """Three symbols on ninety days."""
    return make_history()


def test_a_day_without_trade_carries_the_last_close() -> None:
    """A symbol that is not listed yet has no price."""
    days = [date(2012, 1, 2), date(2012, 1, 3), date(2012, 1, 4)]
    history = build_history(
        {
            "AAPL": [candle("AAPL", days[0], 10_000, 20_000), candle("AAPL", days[2], 30_000, 40_000)],
            "FB": [candle("FB", days[1], 50_000, 60_000)],
        }
    )
    assert history.days == tuple(days)
    assert history.closes.tolist() == [[20_000, 0], [0, 60_000], [40_000, 0]]
    assert history.carried.tolist() == [[20_000, 0], [20_000, 60_000], [40_000, 60_000]]
    assert history.opens[:, 1].tolist() == [0, 50_000, 0]


def test_purchases_do_not_depend_on_prices_after_the_open(history: PriceHistory) -> None:
    """Other closes change the value of the shares, not the shares that are bought."""
    traits, symbols = draw_traits(1, player_ids(range(PLAYERS))), hash_texts(history.symbols)
    closes = history.closes.copy()
    closes[70:] *= 2
    known = play_day(history, 70, traits, symbols)
    carried = history.carried.copy()
    carried[70:] *= 2
    changed = PriceHistory(history.symbols, history.days, history.opens, closes, carried)
    other = play_day(changed, 70, traits, symbols)
    assert (known.holdings.shares == other.holdings.shares).all()
    assert (known.holdings.cash_cents == other.holdings.cash_cents).all()
    assert (known.value_cents != other.value_cents).any()


def test_portfolios_are_consistent_with_their_positions(history: PriceHistory) -> None:
    """Value, change and percent of a row agree with each other, and with the shares at the close."""
    replay = make_replay(history)
    session = list(replay.play())[70]
    rows = make_rows(replay, session)
    portfolios = list(rows.build_portfolios())
    positions = list(rows.build_positions(history.symbols))
    close_of_symbol = dict(zip(history.symbols, history.closes[70].tolist(), strict=True))
    assert len(portfolios) == len(session.players) > PLAYERS / 3
    for portfolio in portfolios:
        own = [position for position in positions if position.user_id == portfolio.user_id]
        held = sum(round(p.quantity * close_of_symbol[p.symbol] / 10_000, 2) for p in own)
        assert abs(portfolio.total_value - portfolio.current_cash - held) <= Decimal("0.03")
        assert portfolio.day_change == portfolio.total_value - portfolio.starting_cash
        assert abs(portfolio.day_change_percent - portfolio.day_change / 100) <= Decimal("0.005")
    assert len({portfolio.day_change for portfolio in portfolios}) > len(portfolios) / 3


def test_the_same_seed_plays_the_same_game(history: PriceHistory) -> None:
    """Ids are equal too; another seed gives another game."""

    def rows(seed: int) -> list[object]:
        replay = make_replay(history, seed=seed)
        session = list(replay.play())[50]
        return list(make_rows(replay, session, seed=seed).build_portfolios())

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_completed_quests_are_those_on_the_leaderboard(history: PriceHistory) -> None:
    """After every session the score of every player equals the number of completed rows."""
    replay, quests, board = make_replay(history), list[Quest](), dict[object, Decimal]()
    for session in replay.play():
        quests += session.quests
        entries = make_rows(replay, session).build_entries(session.completed)
        board |= {entry.user_id: entry.score for entry in entries if entry.category == QUESTS_COMPLETED}
    quests += replay.quests.finish(LATER)
    completed = Counter(quest.user_id for quest in quests if quest.status == "COMPLETED")
    assert board == completed
    assert len({quest.id for quest in quests}) == len(quests)
    milestones = Counter(quest.user_id for quest in quests if quest.status == "ACTIVE")
    assert milestones == dict.fromkeys(replay.user_ids, 1)


def result_with(*values: int) -> SessionResult:
    """Return a session in which players finish with these cents above the starting cash."""
    cents = STARTING_CENTS + np.array(values)
    nothing = np.zeros((len(values), 1), np.int64)
    return SessionResult(Holdings(cents, nothing, nothing), cents)


def play_days(book: ReplayQuests, first: date, *days: tuple[int, ...]) -> list[Quest]:
    """Play one session a day from `first` on; return the quests that ended."""
    return [
        quest
        for place, values in enumerate(days)
        for quest in book.play(first + timedelta(days=place), np.arange(len(values)), result_with(*values))
    ]


@pytest.fixture(autouse=True)
def quests_for_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every player gets the quest of the week."""
    monkeypatch.setattr("core.simulation.quests.GIVEN_PERCENT", 100)


MONDAY = date(2012, 1, 16)  # in this week alice, bob and charlie have the three quests in order


def test_weekly_quests_complete_at_their_target() -> None:
    """Three wins for alice, 200.00 in one session for bob, three times above average for charlie."""
    book = ReplayQuests(tuple(player_ids(range(3))), seed=1)
    wins = [(1, 19_999, 0), (1, 0, 20_000), (0, 20_000, 30_000), (1, -1, 5)]
    assert play_days(book, MONDAY, *wins[:3]) == []
    assert book.completed.tolist() == [0, 1, 0]
    play_days(book, MONDAY + timedelta(days=3), wins[3])
    assert book.completed.tolist() == [1, 1, 1]
    weekly = book.finish(LATER)[:3]
    assert [quest.status for quest in weekly] == ["COMPLETED"] * 3
    assert [quest.current_progress for quest in weekly] == [3, 200, 3]
    assert [quest.type for quest in weekly] == ["WINNING_SESSIONS", "BIG_GAIN", "BEAT_THE_AVERAGE"]


def test_weekly_quests_expire_and_rotate() -> None:
    """On Monday every player gets the next quest, whether or not the last one was completed."""
    book = ReplayQuests(tuple(player_ids(range(3))), seed=1)
    play_days(book, MONDAY, (1, 150, -5))
    over = play_days(book, MONDAY + timedelta(days=7), (0, 0, 0))
    assert [quest.status for quest in over] == ["EXPIRED"] * 3
    assert [quest.current_progress for quest in over] == [1, Decimal("1.50"), 0]
    assert {quest.expires_at for quest in over} == {datetime(2012, 1, 23, tzinfo=UTC)}
    following = [quest.type for quest in book.finish(LATER)[:3]]
    assert following == ["BIG_GAIN", "BEAT_THE_AVERAGE", "WINNING_SESSIONS"]


def test_the_quest_of_a_week_that_goes_on_stays_active() -> None:
    """A history that ends today leaves active quests."""
    book = ReplayQuests(tuple(player_ids(range(1))), seed=1)
    play_days(book, MONDAY, (0,))
    weekly = book.finish(datetime(2012, 1, 19, tzinfo=UTC))[0]
    assert weekly.status == "ACTIVE"


def test_milestones_follow_each_other() -> None:
    """The tenth win completes the first milestone and begins the second with the wins so far."""
    alice = player_ids(range(1))[0]
    book = ReplayQuests((alice,), seed=1)
    over = play_days(book, MONDAY, *[(1,)] * 10, (0,), (1,))
    first = [quest for quest in over if quest.type == "MILESTONE"]
    assert [(quest.target_value, quest.status) for quest in first] == [(10, "COMPLETED")]
    active = book.finish(LATER)[-1]
    assert (active.target_value, active.current_progress, active.status) == (25, 11, "ACTIVE")
    assert active.created_at == datetime(2012, 1, 25, 21, tzinfo=UTC)
    assert active.expires_at is None


def test_there_is_a_next_milestone_until_the_last() -> None:
    """A player who passes several milestones at once gets the next one above."""
    rule = next_milestone(60)
    assert rule is not None
    assert rule.target == 100
    assert next_milestone(MILESTONES[-1]) is None


def moves(*closes: int) -> PriceHistory:
    """Return one symbol with these closes in 1/10000."""
    days = [candle("AAPL", MONDAY + timedelta(days=n), close, close) for n, close in enumerate(closes)]
    return build_history({"AAPL": days})


def test_ids_do_not_follow_the_clock_of_new_york() -> None:
    """Days in summer have the ids from when every day closed at 21:00 UTC."""
    numbers = np.array([7])
    for day in (date(2013, 3, 8), date(2013, 3, 11), date(2013, 7, 1)):
        for moment, hour, minute in ((open_of(day), 14, 30), (close_of(day), 21, 0)):
            [found] = make_ids(Kind.WEEKLY, seed=1, when=moment, keys=numbers)
            fixed = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
            assert found.int >> 80 == int(fixed.timestamp() * 1000)


@pytest.mark.parametrize(
    ("after", "title", "impact", "sentiment"),
    [
        (1_072_000, "AAPL rose 7.2%", Decimal("7.20"), "POSITIVE"),
        (920_000, "AAPL fell 8.0%", Decimal("-8.00"), "NEGATIVE"),
        (50_000_000, "AAPL rose 4900.0%", Decimal("999.99"), "POSITIVE"),
    ],
)
def test_a_large_move_makes_an_event(after: int, title: str, impact: Decimal, sentiment: str) -> None:
    """Each such day has one event at its close, with an impact that fits the column."""
    history = moves(1_000_000, after)
    (event,) = list_events(history, 1)
    assert (event.title, event.impact_magnitude, event.sentiment) == (title, impact, sentiment)
    assert event.affected_symbols == ("AAPL",)
    assert event.created_at == datetime(2012, 1, 17, 21, tzinfo=UTC)
    assert event == next(list_events(history, 1))
    assert event.description is not None
    assert event.description.endswith("since the previous close.")


def test_small_moves_and_first_days_make_none() -> None:
    """A move of exactly 5 % makes no event."""
    history = moves(1_000_000, 1_050_000, 997_500)
    assert [list(list_events(history, row)) for row in range(3)] == [[], [], []]
    assert PriceMove("AAPL", 1_000_000, 1_050_001).is_event


def test_no_quest_calls_the_average_player_the_market() -> None:
    """On the pages the market is the mean return of the symbols; these quests compare players."""
    texts = [text for rule in (*WEEKLY, *DAILY) for text in (rule.type, rule.title, rule.description)]
    assert not [text for text in texts if "market" in text.lower()]


def test_no_quest_has_the_name_of_another_type() -> None:
    """A title that begins like another type would be taken for a quest of that type."""
    rules = (*WEEKLY, *DAILY)
    names = {rule.type: rule.type.replace("_", " ").lower() for rule in rules}
    for rule in rules:
        others = [name for kind, name in names.items() if kind != rule.type]
        assert not [name for name in others if name in rule.title.lower()]
