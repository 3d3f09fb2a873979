"""Pages and streams of every list return every row once and in order, and streams hold no connection."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.queries import users
from core.records import (
    AuditEvent,
    LeaderboardEntry,
    LeaderboardUpdate,
    Portfolio,
    Position,
    Quest,
    Tick,
    Trade,
    User,
)
from core.service import paging, portfolios
from core.service.writes import new_id
from tests.conftest import Execute
from tests.integration.plans import count_rows_read

DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PLAYERS = 11
ONE = Decimal(1)


class ListCalls(NamedTuple):
    """The calls `page` and `stream` of a list, the sort key of its rows, and their expected number."""

    page: Callable[[Any, int, Any], Sequence[Any]]
    stream: Callable[[Any, Any], Iterator[Any]]
    order: Callable[[Any], Any]
    rows: int
    of_another_list: Any = None


def newest_first(record: Any) -> Any:
    """Return the sort key for descending creation time and id."""
    return (-record.created_at.timestamp(), -record.id.int)


def find_player(service: EnhancedDatabaseService) -> Any:
    """Return the id of a player whose profile was changed, or a new id if there is none."""
    return next((user.id for user in service.search_users("player0")), new_id())


LISTS: dict[str, ListCalls] = {
    "users": ListCalls(
        lambda s, limit, after: s.list_users(limit=limit, after=after),
        lambda s, after: s.stream_users(after=after),
        lambda user: user.id,
        PLAYERS,
    ),
    "portfolios": ListCalls(
        lambda s, limit, after: s.list_portfolios(DAY, limit=limit, after=after),
        lambda s, after: s.stream_portfolios(DAY, after=after),
        lambda portfolio: portfolio.user_id,
        PLAYERS,
        Portfolio(new_id(), new_id(), date(2026, 3, 1), ONE, ONE, ONE, ONE, ONE, NOON, NOON),
    ),
    "ticks": ListCalls(
        lambda s, limit, after: s.list_market_ticks("AAPL", limit=limit, after=after),
        lambda s, after: s.stream_market_ticks("AAPL", after=after),
        lambda tick: tick.timestamp,
        14,
        Tick("IBM", NOON, Decimal(1)),
    ),
    "ticks of a range": ListCalls(
        lambda s, limit, after: s.list_market_ticks(
            "AAPL", start=NOON, end=NOON + timedelta(minutes=9), limit=limit, after=after
        ),
        lambda s, after: s.stream_market_ticks(
            "AAPL", start=NOON, end=NOON + timedelta(minutes=9), after=after
        ),
        lambda tick: tick.timestamp,
        9,
    ),
    "quests": ListCalls(
        lambda s, limit, after: s.list_quests(limit=limit, after=after),
        lambda s, after: s.stream_quests(after=after),
        lambda quest: quest.id,
        PLAYERS,
    ),
    "events": ListCalls(
        lambda s, limit, after: s.list_market_events(limit, after=after),
        lambda s, after: s.stream_market_events(after=after),
        newest_first,
        10,
    ),
    "events of a type": ListCalls(
        lambda s, limit, after: s.list_market_events(limit, type="A", symbol="AAPL", after=after),
        lambda s, after: s.stream_market_events(type="A", symbol="AAPL", after=after),
        newest_first,
        5,
    ),
    "audit events": ListCalls(
        lambda s, limit, after: s.list_audit_events(limit=limit, after=after),
        lambda s, after: s.stream_audit_events(after=after),
        newest_first,
        7,
        AuditEvent(new_id(), "a", "update", "users", "done", None, NOON, NOON, row_key=new_id()),
    ),
    "audit changes": ListCalls(
        lambda s, limit, after: s.list_audit_changes(limit=limit, after=after),
        lambda s, after: s.stream_audit_changes(after=after),
        newest_first,
        13,
    ),
    "audit changes of a row": ListCalls(
        lambda s, limit, after: s.list_audit_changes(row_key=find_player(s), limit=limit, after=after),
        lambda s, after: s.stream_audit_changes(row_key=find_player(s), after=after),
        newest_first,
        5,
        AuditEvent(new_id(), "a", "update", "users", "done", None, NOON, NOON, row_key=new_id()),
    ),
}


@pytest.fixture
def filled(service: EnhancedDatabaseService, execute: Execute) -> EnhancedDatabaseService:
    """Return a service with rows of every list, many of which have the same creation time."""
    players = [service.create_user(username=f"player{n}") for n in range(PLAYERS)]
    for user in players:
        service.get_current_portfolio(user.id, DAY)
        service.create_quest(user.id, type="T", title="T", target_value=Decimal(5))
    service.load_positions(
        Position(user.id, DAY, symbol, Decimal(1), Decimal(1))
        for user in players[::2]
        for symbol in ("AAPL", "IBM")
    )
    service.load_trades(
        Trade(new_id(), user.id, DAY, "AAPL", "BUY", Decimal(1), Decimal(1), NOON)
        for user in players[::2]
        for _ in range(2)
    )
    times = [NOON + timedelta(minutes=n) for n in range(10)] + [
        NOON - timedelta(days=400 * n) for n in (1, 2)
    ]
    times += [datetime.now(UTC) - timedelta(days=1), datetime.now(UTC)]
    service.insert_market_ticks(
        Tick(symbol, time, Decimal(1)) for symbol in ("AAPL", "IBM") for time in times
    )
    for n in range(10):
        service.create_market_event(type="AB"[n % 2], title=f"{n}", affected_symbols=["AAPL"])
    for n in range(4):
        with service.audited(actor="alice", action="clear_cache", target=f"{n}"):
            pass
    # insert with SQL, because the creation time of an audit event cannot be changed
    execute(
        "INSERT INTO audit_events (actor, action, target, created_at)"
        " SELECT 'alice', 'clear_cache', 'n', %s FROM generate_series(1, 3)",
        (NOON,),
    )
    with service.acting_as("alice"):
        for user in players[:5]:
            service.update_user_profile(user.id, name="Renamed")
            service.update_user_profile(user.id, name="Renamed again")
    execute(
        "INSERT INTO audit_events (actor, action, target, row_key, created_at)"
        " SELECT 'alice', 'update', 'users', %s, %s FROM generate_series(1, 3)",
        (str(players[0].id), NOON),
    )
    execute("UPDATE market_events SET created_at = %s WHERE title IN ('3', '4', '5', '6')", (NOON,))
    scores = [LeaderboardUpdate(user.id, Decimal(n // 3)) for n, user in enumerate(players)]
    service.batch_update_leaderboard("c", scores, DAY)
    return service


def read_pages(service: Any, listed: ListCalls, limit: int) -> list[Any]:
    """Return all rows of a list, read page by page."""
    rows: list[Any] = []
    while page := listed.page(service, limit, rows[-1] if rows else None):
        assert len(page) <= limit
        rows += page
    return rows


@pytest.mark.parametrize("name", LISTS)
def test_pages_and_streams_return_every_row_once(
    filled: EnhancedDatabaseService, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of every size and the stream return every row once, in order, and continue after a given row."""
    monkeypatch.setattr(paging, "STREAM_ROWS", 3)
    listed = LISTS[name]
    whole = list(listed.page(filled, 1_000, None))
    assert len(whole) == listed.rows
    assert whole == sorted(whole, key=listed.order)
    for limit in (1, 3, listed.rows, 1_000):
        assert read_pages(filled, listed, limit) == whole
    assert list(listed.stream(filled, None)) == whole
    assert list(listed.stream(filled, whole[3])) == whole[4:]
    assert listed.page(filled, 5, whole[-1]) == ()
    assert list(listed.stream(filled, whole[-1])) == []


@pytest.mark.parametrize("name", LISTS)
def test_a_list_continues_only_after_its_own_record(service: EnhancedDatabaseService, name: str) -> None:
    """A record of another list as `after` raises InvalidInput, because it would silently skip rows."""
    listed = LISTS[name]
    for wrong in (NOON, object(), listed.of_another_list):
        if wrong is None:
            continue
        with pytest.raises(InvalidInput, match="after is"):
            listed.page(service, 5, wrong)
        with pytest.raises(InvalidInput, match="after is"):
            # raises at the call, before the first row is requested
            listed.stream(service, wrong)


def test_a_stream_reads_one_page_at_a_time(
    filled: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream sends one statement per page and has no connection checked out between rows."""
    monkeypatch.setattr(paging, "STREAM_ROWS", 4)
    statements: list[str] = []
    filled._database.query_hooks.append(lambda event: statements.append(event.sql))
    stream = filled.stream_users()
    for _ in range(4):
        next(stream)
        assert filled.pool_stats().pool_in_use == 0
    assert len(statements) == 1
    next(stream)
    assert len(statements) == 2


def test_a_stream_returns_every_row_once_during_writes(
    filled: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream returns every portfolio once, with the value at the time when its page is read."""
    monkeypatch.setattr(paging, "STREAM_ROWS", 2)
    before = filled.list_portfolios(DAY)
    stream = filled.stream_portfolios(DAY)
    first = next(stream)
    filled.update_portfolio_value(before[-1].user_id, DAY, Decimal(9), Decimal(0))
    filled.get_current_portfolio(filled.create_user(username="late").id, DAY)
    rest = list(stream)
    assert [p.user_id for p in (first, *rest)][:PLAYERS] == [p.user_id for p in before]
    assert {p.total_value for p in rest} == {Decimal(10_000), Decimal(9)}


@pytest.mark.parametrize("name", ["stream_positions", "stream_trades"])
def test_positions_and_trades_of_all_players_are_streamed(
    filled: EnhancedDatabaseService, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The streams of positions and trades of a session return all rows, ordered by player."""
    monkeypatch.setattr(portfolios, "MAX_LIMIT", 4)
    rows: list[Any] = list(getattr(filled, name)(DAY))
    assert len(rows) == 12
    assert [row.user_id for row in rows] == sorted(row.user_id for row in rows)
    assert list(getattr(filled, name)(date(1999, 1, 1))) == []


@pytest.mark.parametrize("limit", [1, 2, 4, 11, 100])
@pytest.mark.parametrize("bucket", [0, 2, 4])
def test_leaderboard_pages_equal_the_whole_leaderboard(
    filled: EnhancedDatabaseService, execute: Execute, limit: int, bucket: int
) -> None:
    """Pages have the ranks of the whole leaderboard, even if a page begins between equal scores."""
    if bucket:
        execute("SELECT leaderboard_fold(%s, 'c', %s)", (DAY, bucket))
    whole = list(filled.get_leaderboard("c", DAY))
    rows: list[LeaderboardEntry] = []
    while page := filled.list_leaderboard_entries("c", DAY, limit=limit, after=rows[-1] if rows else None):
        rows += page
    assert rows == whole == list(filled.stream_leaderboard("c", DAY))
    assert [entry.rank for entry in rows[:3]] == [1, 1, 3]
    for wrong in (replace(rows[0], category="d"), replace(rows[0], session_date=date(2026, 3, 1)), NOON):
        with pytest.raises(InvalidInput, match="after is"):
            filled.list_leaderboard_entries("c", DAY, after=wrong)  # type: ignore[arg-type]  # on purpose


def test_a_leaderboard_page_continues_after_an_entry(filled: EnhancedDatabaseService) -> None:
    """After a score has changed, the next page continues after the given entry and has the new ranks."""
    first = filled.list_leaderboard_entries("c", DAY, limit=4)
    rest = filled.list_leaderboard_entries("c", DAY, after=first[-1])
    last = rest[-1]
    filled.update_leaderboard_entry(last.user_id, "c", Decimal(1_000), DAY)
    page = filled.list_leaderboard_entries("c", DAY, after=first[-1])
    assert [entry.user_id for entry in page] == [entry.user_id for entry in rest[:-1]]
    assert page[0].rank == rest[0].rank + 1


def test_a_players_quests_are_paged(service: EnhancedDatabaseService, alice: User, execute: Execute) -> None:
    """Quests of a player are paged by descending time and id; `after` must be a quest of the same player."""
    for n in range(7):
        service.create_quest(alice.id, type="T", title=f"{n}", target_value=Decimal(5))
    execute("UPDATE quests SET created_at = %s WHERE title IN ('1', '2', '3')", (NOON,))
    whole = list(service.get_user_quests(alice.id))
    rows: list[Quest] = []
    while page := service.get_user_quests(alice.id, limit=2, after=rows[-1] if rows else None):
        rows += page
    assert rows == whole == sorted(whole, key=newest_first)
    with pytest.raises(InvalidInput, match="after is"):
        service.get_user_quests(new_id(), after=whole[0])


def test_a_page_reads_only_its_own_rows(execute: Execute) -> None:
    """A page of 20 users after 2,500 others reads at most 20 rows."""
    execute(
        "INSERT INTO users (id, username) SELECT gen_random_uuid(), 'u' || n FROM generate_series(1, 3000) n;"
        " ANALYZE users"
    )
    [(last,)] = execute("SELECT id FROM users ORDER BY id OFFSET 2500 LIMIT 1")
    assert count_rows_read(execute, users.LIST, {"after": last, "limit": 20}, "users") <= 20
