"""A replay in memory: its sessions, leaderboards, quests and events are consistent."""

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


def make_candle(symbol: str, day: date, opened: int, closed: int) -> Candle:
    """Return the candle of one day; prices are in 1/10000."""
    low, high = sorted((Decimal(opened) / 10_000, Decimal(closed) / 10_000))
    bucket = datetime.combine(day, time(0), UTC)
    return Candle(symbol, bucket, Decimal(opened) / 10_000, high, low, Decimal(closed) / 10_000, 1, 1)


def make_history(days: int = DAYS) -> PriceHistory:
    """Return random prices of three symbols on weekdays; FB starts on the eleventh weekday."""
    generator = np.random.Generator(np.random.PCG64(11))
    calendar = [date(2012, 1, 2) + timedelta(days=n) for n in range(2 * days)]
    weekdays = [day for day in calendar if day.weekday() < 5][:days]
    series = {}
    for symbol, first in (("AAPL", 0), ("GOOG", 0), ("FB", 10)):
        price, candles = 500_000, []
        for day in weekdays[first:]:
            opened = int(price * (1 + generator.normal(0, 0.01)))
            price = int(opened * (1 + generator.normal(0, 0.03)))
            candles.append(make_candle(symbol, day, opened, price))
        series[symbol] = candles
    return build_history(series)


def make_replay(history: PriceHistory, *, seed: int = 1) -> Replay:
    """Return a replay of the whole history with players that are not in the database."""
    ids = player_ids(range(PLAYERS))
    return Replay(history, draw_traits(seed, ids), tuple(ids), seed=seed, first=0)


def make_rows(replay: Replay, session: PlayedSession, *, seed: int = 1) -> SessionRows:
    """Return the rows of a session for the database."""
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
    """Return three symbols on ninety weekdays."""
    return make_history()


def test_a_day_without_trade_carries_the_last_close() -> None:
    """On a day without a trade, a symbol has its last close; before its first day, it has 0."""
    days = [date(2012, 1, 2), date(2012, 1, 3), date(2012, 1, 4)]
    history = build_history(
        {
            "AAPL": [
                make_candle("AAPL", days[0], 10_000, 20_000),
                make_candle("AAPL", days[2], 30_000, 40_000),
            ],
            "FB": [make_candle("FB", days[1], 50_000, 60_000)],
        }
    )
    assert history.days == tuple(days)
    assert history.closes.tolist() == [[20_000, 0], [0, 60_000], [40_000, 0]]
    assert history.carried.tolist() == [[20_000, 0], [20_000, 60_000], [40_000, 60_000]]
    assert history.opens[:, 1].tolist() == [0, 50_000, 0]


def test_purchases_do_not_depend_on_prices_after_the_open(history: PriceHistory) -> None:
    """Other closes on day 70 change the portfolio values, but not the shares that were bought at the open."""
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
    """Total value, day change and percent of a portfolio agree with its cash and its shares at the close."""
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
    """The same seed gives the same rows with the same ids; another seed gives other rows."""

    def rows(seed: int) -> list[object]:
        replay = make_replay(history, seed=seed)
        session = list(replay.play())[50]
        return list(make_rows(replay, session, seed=seed).build_portfolios())

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_completed_quests_equal_the_leaderboard(history: PriceHistory) -> None:
    """At the end, each player's score is the number of completed quests, and one milestone is active."""
    replay, quests, scores = make_replay(history), list[Quest](), dict[object, Decimal]()
    for session in replay.play():
        quests += session.quests
        entries = make_rows(replay, session).build_entries(session.completed)
        scores |= {entry.user_id: entry.score for entry in entries if entry.category == QUESTS_COMPLETED}
    quests += replay.quests.finish(LATER)
    completed = Counter(quest.user_id for quest in quests if quest.status == "COMPLETED")
    assert scores == completed
    assert len({quest.id for quest in quests}) == len(quests)
    milestones = Counter(quest.user_id for quest in quests if quest.status == "ACTIVE")
    assert milestones == dict.fromkeys(replay.user_ids, 1)


def make_result(*values: int) -> SessionResult:
    """Return a session result; each player ends with these cents above the starting cash."""
    cents = STARTING_CENTS + np.array(values)
    nothing = np.zeros((len(values), 1), np.int64)
    return SessionResult(Holdings(cents, nothing, nothing), cents)


def play_days(quests: ReplayQuests, first: date, *days: tuple[int, ...]) -> list[Quest]:
    """Play one session per day from `first`; return the quests that ended."""
    return [
        quest
        for place, values in enumerate(days)
        for quest in quests.play(first + timedelta(days=place), np.arange(len(values)), make_result(*values))
    ]


@pytest.fixture(autouse=True)
def quests_for_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every player a weekly quest."""
    monkeypatch.setattr("core.simulation.quests.RECEIVER_PERCENT", 100)


# In this week the three players have the three weekly quests, in the order of WEEKLY.
MONDAY = date(2012, 1, 16)


def test_weekly_quests_complete_at_their_target() -> None:
    """The weekly quests need three wins, a gain of 200.00, and three sessions above the average."""
    quests = ReplayQuests(tuple(player_ids(range(3))), seed=1)
    wins = [(1, 19_999, 0), (1, 0, 20_000), (0, 20_000, 30_000), (1, -1, 5)]
    assert play_days(quests, MONDAY, *wins[:3]) == []
    assert quests.completed.tolist() == [0, 1, 0]
    play_days(quests, MONDAY + timedelta(days=3), wins[3])
    assert quests.completed.tolist() == [1, 1, 1]
    weekly = quests.finish(LATER)[:3]
    assert [quest.status for quest in weekly] == ["COMPLETED"] * 3
    assert [quest.current_progress for quest in weekly] == [3, 200, 3]
    assert [quest.type for quest in weekly] == ["WINNING_SESSIONS", "BIG_GAIN", "BEAT_THE_AVERAGE"]


def test_weekly_quests_expire_and_rotate() -> None:
    """On Monday an incomplete weekly quest expires, and every player gets the next type of quest."""
    quests = ReplayQuests(tuple(player_ids(range(3))), seed=1)
    play_days(quests, MONDAY, (1, 150, -5))
    over = play_days(quests, MONDAY + timedelta(days=7), (0, 0, 0))
    assert [quest.status for quest in over] == ["EXPIRED"] * 3
    assert [quest.current_progress for quest in over] == [1, Decimal("1.50"), 0]
    assert {quest.expires_at for quest in over} == {datetime(2012, 1, 23, tzinfo=UTC)}
    following = [quest.type for quest in quests.finish(LATER)[:3]]
    assert following == ["BIG_GAIN", "BEAT_THE_AVERAGE", "WINNING_SESSIONS"]


def test_the_quest_of_the_current_week_stays_active() -> None:
    """When the history ends within a week, the weekly quest stays active."""
    quests = ReplayQuests(tuple(player_ids(range(1))), seed=1)
    play_days(quests, MONDAY, (0,))
    weekly = quests.finish(datetime(2012, 1, 19, tzinfo=UTC))[0]
    assert weekly.status == "ACTIVE"


def test_milestones_follow_each_other() -> None:
    """The tenth win completes the first milestone; the second starts with all wins so far as progress."""
    alice = player_ids(range(1))[0]
    quests = ReplayQuests((alice,), seed=1)
    over = play_days(quests, MONDAY, *[(1,)] * 10, (0,), (1,))
    first = [quest for quest in over if quest.type == "MILESTONE"]
    assert [(quest.target_value, quest.status) for quest in first] == [(10, "COMPLETED")]
    active = quests.finish(LATER)[-1]
    assert (active.target_value, active.current_progress, active.status) == (25, 11, "ACTIVE")
    assert active.created_at == datetime(2012, 1, 25, 21, tzinfo=UTC)
    assert active.expires_at is None


def test_there_is_a_next_milestone_until_the_last() -> None:
    """The next milestone after 60 wins is 100; after the last milestone there is none."""
    rule = next_milestone(60)
    assert rule is not None
    assert rule.target == 100
    assert next_milestone(MILESTONES[-1]) is None


def make_moves(*closes: int) -> PriceHistory:
    """Return the history of one symbol with these closes, in 1/10000."""
    days = [make_candle("AAPL", MONDAY + timedelta(days=n), close, close) for n, close in enumerate(closes)]
    return build_history({"AAPL": days})


def test_ids_ignore_daylight_saving_time() -> None:
    """Ids contain 14:30 UTC for the open and 21:00 UTC for the close, also in daylight saving time."""
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
def test_a_large_move_gives_an_event(after: int, title: str, impact: Decimal, sentiment: str) -> None:
    """A move of more than 5 % gives one event at the close; its impact is limited to 999.99."""
    history = make_moves(1_000_000, after)
    (event,) = list_events(history, 1)
    assert (event.title, event.impact_magnitude, event.sentiment) == (title, impact, sentiment)
    assert event.affected_symbols == ("AAPL",)
    assert event.created_at == datetime(2012, 1, 17, 21, tzinfo=UTC)
    assert event == next(list_events(history, 1))
    assert event.description is not None
    assert event.description.endswith("since the previous close.")


def test_small_moves_and_first_days_give_no_event() -> None:
    """The first day of a symbol and a move of exactly 5 % give no event."""
    history = make_moves(1_000_000, 1_050_000, 997_500)
    assert [list(list_events(history, row)) for row in range(3)] == [[], [], []]
    assert PriceMove("AAPL", 1_000_000, 1_050_001).is_event


def test_no_quest_mentions_the_market() -> None:
    """Quests compare players with each other, so no text of a quest has the word `market` (the symbols)."""
    texts = [text for rule in (*WEEKLY, *DAILY) for text in (rule.type, rule.title, rule.description)]
    assert not [text for text in texts if "market" in text.lower()]


def test_no_quest_has_the_name_of_another_type() -> None:
    """No quest's title contains the name of another type, or players would take it for that type."""
    rules = (*WEEKLY, *DAILY)
    names = {rule.type: rule.type.replace("_", " ").lower() for rule in rules}
    for rule in rules:
        others = [name for kind, name in names.items() if kind != rule.type]
        assert not [name for name in others if name in rule.title.lower()]
