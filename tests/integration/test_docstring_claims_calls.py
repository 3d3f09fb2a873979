"""Tests of details that the docstrings promise for single calls: orders, limits, defaults and counts."""

import statistics
import threading
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import redis

from core import EnhancedDatabaseService, Settings, open_service
from core.cache.timeline_claim import KEY
from core.errors import InvalidInput, PoolClosed, UserNotFound
from core.records import LeaderboardUpdate, Position, Tick, Trade, User
from core.service.writes import new_id
from tests.conftest import Execute

DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ONE = Decimal(1)


# -- users ------------------------------------------------------------------------------


def test_a_search_over_its_limit_prefers_usernames(service: EnhancedDatabaseService) -> None:
    """If more users match than the limit, the search returns the first ones by username."""
    for username, name in (("zed", "Abel"), ("yan", "Adam"), ("abby", "Zoe"), ("Alan", None), ("amy", "Bea")):
        service.create_user(username=username, name=name)
    assert [user.username for user in service.search_users("A")] == ["abby", "Alan", "amy", "yan", "zed"]
    # abby and Alan are first by username, Abel and Adam are first by name; usernames decide between the four
    assert [user.username for user in service.search_users("a", limit=2)] == ["abby", "Alan"]
    assert [user.username for user in service.search_users("a", limit=1)] == ["abby"]
    assert [user.username for user in service.search_users("", limit=2)] == ["abby", "Alan"]


def test_a_profile_keeps_omitted_values(service: EnhancedDatabaseService) -> None:
    """`update_user_profile` keeps omitted values, removes a value given as None and replaces preferences.

    A taken username changes nothing.
    """
    user = service.create_user(username="alice", name="Alice", email="a@b.c", preferences={"a": 1, "b": 2})
    assert user.id.version == 7
    changed = service.update_user_profile(user.id, preferences={"c": 3})
    assert (changed.preferences, changed.name, changed.email) == ({"c": 3}, "Alice", "a@b.c")
    assert service.update_user_profile(user.id, email=None).email is None
    assert service.update_user_profile(user.id, preferences=None).preferences == {}
    service.create_user(username="bob")
    with pytest.raises(InvalidInput, match="taken"):
        service.update_user_profile(user.id, username="bob", name="Other")
    assert service.get_user_by_id(user.id).name == "Alice"


def test_usernames_are_case_sensitive(service: EnhancedDatabaseService, alice: User) -> None:
    """`get_user_by_username` distinguishes upper and lower case, although a search ignores case."""
    other = service.create_user(username="ALICE")
    assert service.get_user_by_username("ALICE") == other
    assert service.get_user_by_username("alice") == alice
    with pytest.raises(UserNotFound):
        service.get_user_by_username("Alice")


def test_a_deleted_user_disappears_from_every_table_and_cache(
    service: EnhancedDatabaseService, alice: User, bob: User, execute: Execute
) -> None:
    """After `delete_user` the user is in no table and in no cached result."""
    for user in (alice, bob):
        service.get_current_portfolio(user.id, DAY)
        service.update_leaderboard_entry(user.id, "c", ONE, DAY)
        service.create_quest(user.id, type="T", title="T", target_value=ONE)
        service.load_positions([Position(user.id, DAY, "A", ONE, ONE)])
        service.load_trades([Trade(new_id(), user.id, DAY, "A", "BUY", ONE, ONE, NOON)])
    assert len(service.get_leaderboard("c", DAY)) == 2
    service.get_user_by_id(alice.id)
    service.get_user_active_quests(alice.id)
    service.delete_user(alice.id)
    assert [entry.user_id for entry in service.get_leaderboard("c", DAY)] == [bob.id]
    assert service.find_portfolio(alice.id, DAY) is None
    assert service.get_user_active_quests(alice.id) == ()
    with pytest.raises(UserNotFound):
        service.get_user_by_id(alice.id)
    for table in ("portfolios", "positions", "trades", "quests", "leaderboard_entries"):
        assert execute(f"SELECT count(*) FROM {table}") == [(1,)]


def test_only_later_times_of_activity_are_stored(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """`batch_touch_last_active` changes only users whose time is later and returns their number.

    An unknown user changes nothing.
    """
    later = NOON + timedelta(hours=1)
    assert service.batch_touch_last_active({alice.id: NOON, str(bob.id): NOON, uuid.uuid4(): NOON}) == 2
    assert service.batch_touch_last_active({alice.id: NOON, bob.id: later}) == 1
    assert service.get_user_by_id(bob.id).last_active == later
    assert service.count_active_players(NOON) == 2
    assert service.count_active_players(NOON + timedelta(microseconds=1)) == 1


# -- leaderboards -----------------------------------------------------------------------


def test_equal_scores_are_in_the_order_of_creation(service: EnhancedDatabaseService) -> None:
    """Entries with equal scores keep the order of the batch that created them, also after later updates."""
    users = [service.create_user(username=f"p{n}") for n in range(60)]
    Random(3).shuffle(users)
    service.batch_update_leaderboard("c", [LeaderboardUpdate(user.id, ONE) for user in users], DAY)
    service.update_leaderboard_entry(users[5].id, "c", Decimal(2), DAY)
    service.update_leaderboard_entry(users[5].id, "c", ONE, DAY)
    entries = service.get_leaderboard("c", DAY, 100)
    assert [entry.user_id for entry in entries] == [user.id for user in users]
    assert {entry.rank for entry in entries} == {1}


def test_categories_are_in_alphabetical_order(service: EnhancedDatabaseService, alice: User) -> None:
    """`list_leaderboard_categories` sorts by name and not by creation."""
    for category in ("b", "c", "a"):
        service.update_leaderboard_entry(alice.id, category, ONE, DAY)
    assert service.list_leaderboard_categories(DAY) == ("a", "b", "c")


def test_matches_of_a_prefix_are_counted_up_to_a_thousand(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """`count_leaderboard` counts at most 1,000 matches of a prefix. Without a prefix the count is exact."""
    execute(
        "INSERT INTO users (id, username) SELECT gen_random_uuid(), 'p' || n FROM generate_series(1, 1100) n;"
        "INSERT INTO leaderboard_entries (user_id, session_date, category, score)"
        " SELECT id, '2026-03-02', 'c', 1 FROM users"
    )
    assert service.count_leaderboard("c", DAY) == 1_100
    assert service.count_leaderboard("c", DAY, prefix="P") == 1_000
    assert service.count_leaderboard("c", DAY, prefix="p110") == 2


def test_duplicate_players_and_sessions_give_one_score(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """`list_player_scores` returns one score for each player and session, also if the arguments repeat them.

    More than 5,000 pairs are refused.
    """
    for user in (alice, bob):
        service.update_leaderboard_entry(user.id, "c", ONE, DAY)
    days = [DAY, DAY - timedelta(days=1), DAY]
    scores = service.list_player_scores([bob.id, alice.id, str(bob.id)], "c", days)
    assert [(score.user_id, score.session_date) for score in scores] == sorted(
        [(alice.id, DAY), (bob.id, DAY)]
    )
    assert {score.rank for score in scores} == {None}
    with pytest.raises(InvalidInput, match="give at most 5000 pairs"):
        service.list_player_scores([new_id() for _ in range(5_001)], "c", [DAY])


def test_a_closed_session_has_stored_ranks(service: EnhancedDatabaseService, alice: User, bob: User) -> None:
    """After `close_session` the stored ranks are returned; a second call changes nothing."""
    service.update_leaderboard_entry(alice.id, "c", Decimal(2), DAY)
    service.update_leaderboard_entry(bob.id, "c", ONE, DAY)
    assert service.close_session(DAY) == service.close_session(DAY) == 2
    service.update_leaderboard_entry(bob.id, "c", Decimal(3), DAY)
    ranks = service.list_player_scores([alice.id, bob.id], "c", [DAY], ranked=True)
    assert {score.user_id: score.rank for score in ranks} == {alice.id: 1, bob.id: 2}
    assert service.get_user_rank(bob.id, "c", DAY).rank == 1, "counted"


def test_bins_have_one_round_width(service: EnhancedDatabaseService) -> None:
    """A summary has at most `bins` bins of one width, which is 1, 2 or 5 times a power of ten.

    Each score is in exactly one bin.
    """
    random = Random(5)
    users = [service.create_user(username=f"p{n}") for n in range(30)]
    scores = [Decimal(random.randrange(-100_000, 100_000)).scaleb(-2) for _ in users]
    service.batch_update_leaderboard(
        "c", [LeaderboardUpdate(user.id, score) for user, score in zip(users, scores, strict=True)], DAY
    )
    for bins, least in ((2, "0.01"), (7, "0.01"), (100, "25"), (24, "5000")):
        summary = service.find_leaderboard_summary("c", DAY, bins=bins, least_width=Decimal(least))
        assert summary is not None
        widths = {item.high - item.low for item in summary.bins}
        assert len(summary.bins) <= bins
        assert len(widths) == 1
        [width] = widths
        assert width >= Decimal(least)
        assert width.normalize().as_tuple().digits in {(1,), (2,), (5,)}
        assert all(one.high == two.low for one, two in pairwise(summary.bins))
        assert [item.players for item in summary.bins] == [
            sum(item.low <= score < item.high for score in scores) for item in summary.bins
        ]
        assert summary.median == statistics.median(scores)


def test_a_missing_session_counts_as_zero_in_a_period(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """The mean of a player's scores divides by all sessions of the period, also those without a score."""
    for back, user, score in ((0, alice, 9), (1, bob, 6), (2, bob, 6), (5, alice, 99)):
        service.update_leaderboard_entry(user.id, "c", Decimal(score), DAY - timedelta(days=back))
    board = service.get_period_leaderboard("c", DAY, sessions=3)
    assert board.days == (DAY, DAY - timedelta(days=1), DAY - timedelta(days=2))
    assert [(entry.username, entry.score, entry.sessions) for entry in board.entries] == [
        ("bob", Decimal(4), 2),
        ("alice", Decimal(3), 1),
    ]
    assert service.get_period_leaderboard("c", DAY - timedelta(days=1)).entries[0].username == "alice"


# -- market -----------------------------------------------------------------------------


def test_a_days_return_is_from_first_to_last_price(service: EnhancedDatabaseService) -> None:
    """A day's return is the mean of its symbols' returns from open (or first price) to last price.

    Both dates of the call are included.
    """
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    service.insert_market_ticks(
        [
            Tick("AAPL", midnight - timedelta(microseconds=1), Decimal(50)),
            Tick("AAPL", midnight, Decimal(100)),
            Tick("AAPL", midnight + timedelta(hours=23, minutes=59), Decimal(110)),
            Tick(
                "IBM", midnight + timedelta(hours=1), Decimal(20), open=Decimal(16), high=Decimal(20), low=ONE
            ),
            Tick("FB", midnight + timedelta(days=1), ONE),
        ]
    )
    before, day = service.get_market_returns(DAY - timedelta(days=1), DAY)
    assert (before.day, before.percent, before.symbols) == (DAY - timedelta(days=1), 0, 1)
    assert (day.day, day.percent, day.symbols) == (DAY, Decimal("17.5"), 2)
    assert len(service.get_market_returns(DAY - timedelta(days=3_658), DAY + timedelta(days=1))) == 3
    with pytest.raises(InvalidInput, match="3660 days"):
        service.get_market_returns(DAY - timedelta(days=3_660), DAY)


def test_prices_keep_their_digits(service: EnhancedDatabaseService) -> None:
    """A price with 39 decimal places is stored and returned unchanged."""
    price = Decimal("1.234567890123456789012345678901234567890")
    tick = service.insert_market_tick("AAPL", price, timestamp=NOON)
    service.insert_market_ticks([Tick("IBM", NOON, price)])
    service.load_market_ticks([Tick("MSFT", NOON, price)])
    assert tick.price == price
    assert {found.price for found in service.get_latest_market_data()} == {price}


def test_writes_and_deletes_of_ticks_return_their_number(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """If two ticks have the same symbol and time, the last one is stored.

    Inserting ticks returns the number of stored ticks. Deleting the ticks of a symbol returns their number
    and deletes the symbol.
    """
    ticks = [Tick("AAPL", NOON, Decimal(price)) for price in (1, 2)] + [
        Tick("AAPL", NOON - timedelta(1), ONE)
    ]
    assert service.insert_market_ticks(ticks) == 2
    assert service.get_latest_market_data(["AAPL"])[0].price == 2
    assert service.update_symbol_currencies({"AAPL": "USD", "NONE": "USD"}) == 1
    assert service.get_symbol_currencies() == {"AAPL": "USD"}
    assert service.delete_market_ticks("AAPL") == 2
    assert service.delete_market_ticks("AAPL") == 0
    assert service.get_symbol_currencies() == {}


def test_event_types_are_sorted_and_since_is_inclusive(service: EnhancedDatabaseService) -> None:
    """Event types are in alphabetical order. `since` is inclusive and `until` is exclusive."""
    for title, kind in (("1", "B"), ("2", "A"), ("3", "B")):
        service.create_market_event(type=kind, title=title, impact_magnitude=Decimal("1.235"))
    newest, middle, oldest = service.get_recent_market_events()
    assert [event.title for event in (newest, middle, oldest)] == ["3", "2", "1"]
    assert newest.impact_magnitude == Decimal("1.24")
    assert service.list_market_event_types() == ("A", "B")
    found = service.list_market_events(since=oldest.created_at, until=newest.created_at)
    assert found == (middle, oldest)
    assert (
        service.list_market_events(1, after=newest)
        == service.list_market_events(1, before=newest)
        == (middle,)
    )
    assert service.delete_market_event(middle.id) is True
    assert service.delete_market_event(middle.id) is False
    assert service.list_market_event_types() == ("B",)


# -- quests -----------------------------------------------------------------------------


def test_a_quest_changes_until_it_is_completed(service: EnhancedDatabaseService, alice: User) -> None:
    """A quest's progress may fall and is rounded half-even. A completed quest refuses new progress."""
    with pytest.raises(InvalidInput, match=r"expires_at is .* past"):
        service.create_quest(alice.id, type="T", title="T", target_value=ONE, expires_at=NOON)
    quest = service.create_quest(alice.id, type="T", title="T", target_value=Decimal("10.005"))
    assert (quest.status, quest.target_value) == ("ACTIVE", Decimal("10.00"))
    assert service.update_quest_progress(quest.id, Decimal("5.125")).current_progress == Decimal("5.12")
    assert service.update_quest_progress(quest.id, ONE).current_progress == 1
    assert service.update_quest_progress(quest.id, Decimal("9.996")).status == "COMPLETED"
    with pytest.raises(InvalidInput, match="is COMPLETED"):
        service.update_quest_progress(quest.id, ONE)
    assert service.count_completed_quests([alice.id]) == {alice.id: 1}
    assert service.count_completed_quests([alice.id], excluding=[quest.id]) == {alice.id: 0}
    assert service.expire_quests() == service.expire_quests() == 0


# -- portfolios -------------------------------------------------------------------------


def test_the_percentage_is_computed_from_value_and_change(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """The percentage is relative to the value before the change. A new portfolio has 10,000 in cash."""
    opened = service.get_current_portfolio(alice.id, DAY)
    assert opened.current_cash == opened.starting_cash == opened.total_value == 10_000
    changed = service.update_portfolio_value(alice.id, DAY, Decimal(12_500), Decimal(2_500))
    assert (changed.day_change_percent, changed.current_cash) == (Decimal(25), 10_000)
    assert service.update_portfolio_value(alice.id, DAY, Decimal(0), Decimal(0)).day_change_percent == 0


# -- operation --------------------------------------------------------------------------


def test_a_closed_service_reads_no_cache(
    service: EnhancedDatabaseService, settings: Settings, alice: User, redis_client: redis.Redis
) -> None:
    """After `close`, calls raise `PoolClosed` instead of reading the cache. A second `close` is no error."""
    with open_service(settings) as other:
        other.get_user_by_id(alice.id)
        other.get_leaderboard("c", DAY)
        other.get_latest_market_data()
    other.close()
    connections = len(redis_client.client_list())
    for call in (
        lambda: other.get_user_by_id(alice.id),
        lambda: other.get_leaderboard("c", DAY),
        other.get_latest_market_data,
        lambda: other.get_latest_market_data(["AAPL"]),
        lambda: other.touch_last_active(alice.id),
        lambda: next(other.stream_users()),
        lambda: other.clear_user_cache(alice.id),
        other.expire_quests,
    ):
        with pytest.raises(PoolClosed):
            call()
    assert len(redis_client.client_list()) == connections
    assert other.pool_stats().pool_size == 0
    assert other.cache_stats().caches["user"].requests >= 1
    assert other.health().database == "healthy"
    assert service.get_user_by_id(alice.id) == alice


def test_running_calls_have_time_to_end(settings: Settings, execute: Execute) -> None:
    """`close` waits for a running transaction, and its write is committed."""
    service: Any = open_service(settings)
    user = service.create_user(username="alice")
    inside, closing = threading.Event(), threading.Event()

    def write() -> None:
        with service.transaction():
            service.update_user_profile(user.id, name="Late")
            inside.set()
            closing.wait(30)

    thread = threading.Thread(target=write)
    thread.start()
    inside.wait(30)
    closer = threading.Thread(target=service.close, args=(30,))
    closer.start()
    closing.set()
    thread.join(30)
    closer.join(30)
    assert execute("SELECT name FROM users") == [("Late",)]


def test_health_is_checked_outside_an_exhausted_pool(settings: Settings, alice: User) -> None:
    """With an exhausted pool the health check works and reports degraded.

    A second call within two seconds returns the same result.
    """
    narrow = settings.model_copy(update={"database_connection_limit": 1})
    with open_service(narrow) as service, service.transaction():
        service.search_users("a")
        before = datetime.now(UTC)
        health = service.health()
        assert before - timedelta(seconds=2) <= health.timestamp <= datetime.now(UTC)
        assert (health.database, health.status) == ("healthy", "degraded")
        assert health.pool.is_exhausted
        assert service.health().timestamp == health.timestamp


def test_counters_begin_with_the_service(settings: Settings, alice: User) -> None:
    """The counters of a new service are 0. Requests are the sum of hits, misses and bypasses."""
    with open_service(settings.model_copy(update={"near_cache_size": 0})) as service:
        assert service.cache_stats().state == "enabled"
        assert service.cache_stats().caches["user"].requests == 0
        for _ in range(3):
            service.get_user_by_id(alice.id)
        counts = service.cache_stats().caches["user"]
        assert (counts.requests, counts.hits, counts.bypasses) == (3, 3 - counts.misses, 0)
        service.touch_last_active(alice.id)
        assert service.cache_stats().caches["user"].invalidations == 1
    with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
        assert service.cache_stats().state == "disabled"


def test_table_sizes_and_unused_indexes(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Partitions are counted with their table, and tables of other programs as `other`.

    Unused indexes are sorted by size.
    """
    execute("CREATE TABLE somebody_elses (a int); INSERT INTO somebody_elses VALUES (1); ANALYZE")
    sizes = {figures.table: figures for figures in service.list_table_sizes()}
    assert {"users", "ticks", "portfolios", "other"} <= set(sizes)
    assert not {"somebody_elses", "ticks_default"} & set(sizes)
    assert sizes["other"].rows >= 1
    unused = service.list_unused_indexes()
    assert [index.size_bytes for index in unused] == sorted(
        (index.size_bytes for index in unused), reverse=True
    )
    assert not {"users_pkey", "users_username", "portfolios_user_session"} & {index.index for index in unused}
    # the embedded server has no pg_stat_statements
    assert service.list_slowest_statements() is None


def test_warm_cache_fills_as_many_keys_as_it_reports(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """`warm_cache` fills leaderboards, prices, profiles and quests, and returns the number of keys."""
    service.touch_last_active(alice.id)
    service.update_leaderboard_entry(alice.id, "c", ONE)
    service.insert_market_tick("AAPL", ONE)
    redis_client.flushall()
    progress: list[tuple[int, int]] = []
    total = service.warm_cache(limits=(10, 10, 20), on_progress=lambda done, of: progress.append((done, of)))
    uncounted = (b"version:", KEY.encode())
    keys = {key.decode() for key in redis_client.scan_iter() if not key.startswith(uncounted)}
    today = datetime.now(UTC).date()
    assert keys == {
        "market:all", "market:AAPL", f"user:{alice.id}", f"quests:{alice.id}",
        f"leaderboard:c:{today}:10", f"leaderboard:c:{today}:20",
    }  # fmt: skip  # several keys a line, because they are short
    assert total == len(keys)
    assert progress[-1] == (total, total)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
