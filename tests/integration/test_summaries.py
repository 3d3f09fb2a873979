"""Summaries of market, sessions and quests: content, time to live, and invalid arguments."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import CompletionTimes, LeaderboardUpdate, MarketEvent, StuckQuests, Tick, User
from tests.conftest import Execute
from tests.game import play_game

DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def write_ticks(service: EnhancedDatabaseService, symbol: str, prices: dict[datetime, int]) -> None:
    """Write ticks of a symbol."""
    service.insert_market_ticks(
        Tick(symbol=symbol, timestamp=time, price=Decimal(price)) for time, price in prices.items()
    )


# -- market -------------------------------------------------------------------------------


def test_a_sparkline_has_the_last_price_of_each_step(service: EnhancedDatabaseService) -> None:
    """Of two ticks in an hour the later one is a point, and each symbol has its own points."""
    minute = timedelta(minutes=1)
    write_ticks(service, "AAPL", {NOON: 1, NOON + minute: 2, NOON + 61 * minute: 3, NOON + 62 * minute: 4})
    write_ticks(service, "IBM", {NOON: 9})
    apple, ibm = service.get_sparklines(points=5, step="1h")
    assert (apple.symbol, apple.prices) == ("AAPL", (Decimal(2), Decimal(4)))
    assert apple.times == (NOON + minute, NOON + 62 * minute)
    assert (ibm.symbol, ibm.prices) == ("IBM", (Decimal(9),))


def test_a_sparkline_skips_steps_without_prices(service: EnhancedDatabaseService) -> None:
    """A weekend or a gap of years has no point."""
    write_ticks(service, "AAPL", {NOON - timedelta(days=age): age + 1 for age in (0, 3, 4, 4000, 4001)})
    [apple] = service.get_sparklines(["AAPL"], points=4, step="1d")
    assert apple.prices == (Decimal(4001), Decimal(5), Decimal(4), Decimal(1))


def test_a_sparkline_includes_a_price_of_tomorrow(service: EnhancedDatabaseService) -> None:
    """A price of tomorrow, which is stored in the default partition, is the last point."""
    later = datetime.now(UTC) + timedelta(days=400)
    service._clock = lambda: later - timedelta(days=1)
    write_ticks(service, "AAPL", {NOON: 1, later: 2})
    [apple] = service.get_sparklines(["AAPL"])
    assert apple.prices == (Decimal(1), Decimal(2))


def test_symbols_without_prices_have_no_sparkline(service: EnhancedDatabaseService) -> None:
    """In an empty database neither all symbols nor a requested one have a sparkline."""
    assert service.get_sparklines() == ()
    assert service.get_sparklines(["AAPL"]) == ()


@pytest.fixture
def events(service: EnhancedDatabaseService) -> tuple[MarketEvent, ...]:
    """Store six events of two types, two sentiments and two symbols; return them newest first."""
    created = [
        service.create_market_event(
            type="EARNINGS" if n % 2 else "PRICE_MOVE",
            title=f"Event {n}",
            affected_symbols=["AAPL", "IBM"] if n == 5 else ["AAPL"] if n < 3 else ["IBM"],
            sentiment="POSITIVE" if n < 2 else "NEGATIVE",
        )
        for n in range(6)
    ]
    return tuple(reversed(created))


@pytest.mark.parametrize(
    ("filters", "titles"),
    [
        ({}, "543210"),
        ({"limit": 2}, "54"),
        ({"type": "EARNINGS"}, "531"),
        ({"sentiment": "POSITIVE"}, "10"),
        ({"symbol": "AAPL"}, "5210"),
        ({"type": "PRICE_MOVE", "sentiment": "NEGATIVE", "symbol": "IBM"}, "4"),
        ({"symbol": "MSFT"}, ""),
    ],
)
def test_events_match_every_filter(
    service: EnhancedDatabaseService, events: tuple[MarketEvent, ...], filters: Any, titles: str
) -> None:
    """The listed events match every filter, newest first."""
    found = service.list_market_events(**filters)
    assert "".join(event.title[-1] for event in found) == titles
    assert all(event in events for event in found)


def test_events_are_paged_without_loss(
    service: EnhancedDatabaseService, events: tuple[MarketEvent, ...], execute: Execute
) -> None:
    """Events with equal times are neither skipped nor repeated between two pages."""
    execute("UPDATE market_events SET created_at = %s", (NOON,))
    first = service.list_market_events(4)
    rest = service.list_market_events(4, before=first[-1])
    assert {event.id for event in first + rest} == {event.id for event in events}
    assert len(first + rest) == 6


def test_events_between_two_times(service: EnhancedDatabaseService, execute: Execute) -> None:
    """An event at `since` is listed, and an event at `until` is not."""
    for hour in range(3):
        execute(
            "INSERT INTO market_events (type, title, created_at) VALUES ('T', %s, %s)",
            (str(hour), NOON + timedelta(hours=hour)),
        )
    found = service.list_market_events(since=NOON, until=NOON + timedelta(hours=2))
    assert [event.title for event in found] == ["1", "0"]


def test_a_new_event_invalidates_the_types(
    service: EnhancedDatabaseService, events: tuple[MarketEvent, ...]
) -> None:
    """The cached list of types is invalidated by a new event."""
    assert service.list_market_event_types() == ("EARNINGS", "PRICE_MOVE")
    service.create_market_event(type="MERGER", title="New")
    assert service.list_market_event_types() == ("EARNINGS", "MERGER", "PRICE_MOVE")


# -- sessions -----------------------------------------------------------------------------


def test_sessions_have_a_summary(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Each session has its players, best and median return, quests and events; the newest is first."""
    play_game(service)
    execute("UPDATE users SET created_at = '2013-02-28T23:59:59Z' WHERE username IN ('alice', 'bob')")
    execute(
        "INSERT INTO market_events (type, title, created_at) VALUES"
        " ('T', 'in', '2013-03-01T00:00:00Z'), ('T', 'out', '2013-03-02T00:00:00Z')"
    )
    newest, middle, oldest = service.get_session_summaries()
    assert newest.session_date == date(2013, 3, 1)
    assert (newest.signed_up, newest.players, newest.events) == (2, 3, 1)
    assert (newest.best_return, newest.median_return) == (Decimal("3.11"), Decimal("0.95"))
    assert (newest.played, newest.traded, newest.quests_completed) == (3, 0, 0)
    assert (middle.signed_up, middle.events) == (2, 0)
    assert oldest.signed_up == 0
    assert service.get_session_summaries(limit=1) == (newest,)


def test_the_median_of_two_returns_is_their_mean(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """The median of two returns is their mean; without a leaderboard of returns there is no median."""
    scores = [LeaderboardUpdate(alice.id, Decimal(1)), LeaderboardUpdate(bob.id, Decimal(4))]
    service.batch_update_leaderboard("daily_returns", scores, DAY)
    service.batch_update_leaderboard("luck", scores, DAY - timedelta(days=1))
    newest, before = service.get_session_summaries()
    assert newest.median_return == Decimal("2.50")
    assert newest.quests_completed == 0
    assert (before.players, before.best_return, before.median_return) == (0, None, None)


def test_summaries_of_an_empty_database_are_empty(service: EnhancedDatabaseService) -> None:
    """On an empty database every summary is empty."""
    assert service.get_session_summaries() == ()
    assert service.get_quest_totals() == ()
    assert service.list_quest_outcomes() == ()
    assert service.get_quest_returns() == ()
    assert service.get_completion_times() == CompletionTimes(0, None, ())
    assert service.list_stuck_quests() == StuckQuests(0, 0, 0, 0, 0, ())


def test_active_players_are_counted_by_last_active(
    service: EnhancedDatabaseService, alice: User, bob: User, execute: Execute
) -> None:
    """A player whose last_active equals `since` is counted; a player without last_active is not."""
    execute("UPDATE users SET last_active = %s WHERE username = 'alice'", (NOON,))
    assert service.count_active_players(NOON) == 1
    assert service.count_active_players(NOON + timedelta(seconds=1)) == 0


def test_summaries_have_a_time_to_live(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """Each summary is cached under its own key for 80 to 100% of its time to live."""
    for age in range(2):
        service.update_leaderboard_entry(alice.id, "daily_returns", Decimal(1), DAY - timedelta(days=age))
    service.get_sparklines()
    service.count_active_players(NOON)
    service.get_session_summaries()
    service.get_quest_totals()
    service.list_expiring_quests()
    service.get_completion_times(until=DAY)
    service.get_quest_returns(since=DAY, until=DAY)
    service.list_stuck_quests()
    ttl_seconds = {
        "market:sparklines:24:3600": 15,
        f"user:active:{NOON.isoformat()}": 60,
        f"leaderboard:summary:daily_returns:{DAY}": 60,
        f"leaderboard:summary:daily_returns:{DAY - timedelta(days=1)}": 900,
        "quests:totals:86400": 180,
        "quests:expiring:20:604800:None": 60,
        f"quests:times:None:{DAY}:20:None": 180,
        f"quests:returns:{DAY}:{DAY}:5000": 900,
        "quests:stuck:100:None": 180,
    }
    for name, seconds in ttl_seconds.items():
        assert 0.8 * seconds <= redis_client.ttl(name) <= seconds, name


# -- quests -------------------------------------------------------------------------------


@pytest.fixture
def quests(service: EnhancedDatabaseService, alice: User, bob: User, execute: Execute) -> None:
    """Store five quests: completed, half done, begun, untouched, and past the deadline."""

    def store_quest(
        owner: User, title: str, progress: int, hours: float | None, reward: str = "COINS"
    ) -> None:
        quest = service.create_quest(
            owner.id,
            type="DAILY" if hours else "MILESTONE",
            title=title,
            target_value=Decimal(10),
            reward_type=reward,
            reward_value=Decimal(20),
            expires_at=datetime.now(UTC) + timedelta(hours=hours) if hours else None,
        )
        if progress:
            service.update_quest_progress(quest.id, Decimal(progress))
        execute("UPDATE quests SET created_at = now() - interval '10 days' WHERE id = %s", (quest.id,))

    store_quest(alice, "Done", 10, 30)
    store_quest(alice, "Half", 5, 2)
    store_quest(bob, "Begun", 1, 2)
    store_quest(bob, "Untouched", 0, None, "CASH")
    store_quest(bob, "Past", 0, 1)
    execute("UPDATE quests SET expires_at = now() - interval '1 minute' WHERE title = 'Past'")


@pytest.mark.usefixtures("quests")
def test_quests_are_counted_by_progress(service: EnhancedDatabaseService) -> None:
    """Totals count the given, started, half done and completed quests, and the rewards that were earned."""
    daily, milestone = service.get_quest_totals()
    assert (daily.type, daily.reward_type) == ("DAILY", "COINS")
    assert (daily.given, daily.started, daily.halfway, daily.completed) == (4, 3, 2, 1)
    assert (daily.active, daily.expiring) == (2, 2)
    assert (daily.earned, daily.open) == (Decimal(20), Decimal(40))
    assert (milestone.type, milestone.reward_type, milestone.active) == ("MILESTONE", "CASH", 1)
    assert (milestone.given, milestone.started, milestone.expiring) == (1, 0, 0)


@pytest.mark.usefixtures("quests")
def test_expiring_quests_are_sorted_by_end_and_progress(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Of two quests with equal ends the one nearer to its target is first; ended quests are left out."""
    execute("UPDATE quests SET expires_at = now() + interval '2 hours' WHERE title IN ('Half', 'Begun')")
    found = service.list_expiring_quests()
    assert [(item.username, item.quest.title) for item in found] == [("alice", "Half"), ("bob", "Begun")]
    assert service.list_expiring_quests(limit=1) == found[:1]
    assert service.list_expiring_quests(within=timedelta(hours=1)) == ()


@pytest.mark.usefixtures("quests")
def test_totals_of_each_time_span_have_a_key(
    service: EnhancedDatabaseService, redis_client: redis.Redis
) -> None:
    """Totals within 1.5 s, 2 s and 366 days are cached under three keys."""
    for within in (timedelta(seconds=1.5), timedelta(seconds=2), timedelta(days=366)):
        service.get_quest_totals(within=within)
    keys = {key.decode() for key in redis_client.scan_iter(match="quests:totals:*")}
    assert keys == {"quests:totals:1.5", "quests:totals:2", "quests:totals:31622400"}


@pytest.mark.usefixtures("quests")
def test_quests_of_a_player_have_every_status(service: EnhancedDatabaseService, alice: User) -> None:
    """A player's quests include completed ones, and an unknown user has no quests."""
    assert {quest.status for quest in service.get_user_quests(alice.id)} == {"ACTIVE", "COMPLETED"}
    assert len(service.get_user_quests(alice.id, limit=1)) == 1
    assert service.get_user_quests("00000000-0000-7000-8000-000000000000") == ()


# -- invalid arguments --------------------------------------------------------------------

# The service is Any here, because some arguments have a wrong type.
INVALID_CALLS: dict[str, Callable[[Any], object]] = {
    "points": lambda s: s.get_sparklines(points=0),
    "step": lambda s: s.get_sparklines(step="soon"),
    "symbols": lambda s: s.get_sparklines("AAPL"),
    "limit": lambda s: s.list_market_events(0),
    "sentiment": lambda s: s.list_market_events(sentiment="GLAD"),
    "symbol": lambda s: s.list_market_events(symbol="aapl'"),
    "type": lambda s: s.list_market_events(type=""),
    "since": lambda s: s.list_market_events(since=datetime(2026, 3, 2)),
    "before": lambda s: s.list_market_events(before=NOON),
    "sessions": lambda s: s.get_session_summaries(limit=1_000),
    "category": lambda s: s.get_session_summaries(returns="a b"),
    "active": lambda s: s.count_active_players(DAY),
    "within": lambda s: s.get_quest_totals(within=timedelta(0)),
    "user": lambda s: s.get_user_quests("alice"),
    "first": lambda s: s.list_quest_outcomes(since=NOON),
    "until": lambda s: s.get_completion_times(since=DAY, until=DAY - timedelta(days=1)),
    "players": lambda s: s.get_quest_returns(players=0),
    "stuck": lambda s: s.list_stuck_quests(limit=100_000),
}


@pytest.mark.parametrize("name", INVALID_CALLS)
def test_invalid_arguments_are_refused(service: EnhancedDatabaseService, name: str) -> None:
    """The error says which values to give."""
    with pytest.raises(InvalidInput, match="give"):
        INVALID_CALLS[name](service)
