"""Portfolios: creation, updates of one and of many, history and cache."""

import math
import threading
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import InvalidInput, PortfolioNotFound, UserNotFound
from core.records import PlayerSession, PortfolioUpdate, User
from core.service import portfolios
from tests.conftest import Execute

DAY = date(2026, 3, 2)


def test_a_new_portfolio_has_the_starting_cash(service: EnhancedDatabaseService, alice: User) -> None:
    """A new portfolio is for today's UTC date and has 10,000 in cash."""
    portfolio = service.get_current_portfolio(alice.id)
    assert portfolio.session_date == datetime.now(UTC).date()
    assert portfolio.starting_cash == portfolio.current_cash == portfolio.total_value == 10_000
    assert portfolio.day_change == portfolio.day_change_percent == 0


def test_concurrent_calls_create_one_portfolio(
    service: EnhancedDatabaseService, alice: User, execute: Execute
) -> None:
    """Eight concurrent calls return the same portfolio, and one row is stored."""
    barrier = threading.Barrier(8)
    found: list[uuid.UUID] = []

    def open_portfolio() -> None:
        barrier.wait()
        found.append(service.get_current_portfolio(alice.id, DAY).id)

    threads = [threading.Thread(target=open_portfolio) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert execute("SELECT count(*) FROM portfolios") == [(1,)]


def test_a_read_creates_no_portfolio(
    service: EnhancedDatabaseService, alice: User, execute: Execute, redis_client: redis.Redis
) -> None:
    """Reads of a missing portfolio create no row, and Redis caches its absence for at most five seconds."""
    for day in (None, DAY, date.min, date.max, DAY):
        assert service.find_portfolio(alice.id, day) is None
        with pytest.raises(PortfolioNotFound, match=f"user {alice.id} has no portfolio in session"):
            service.get_portfolio(alice.id, day)
    with pytest.raises(PortfolioNotFound):
        service.get_portfolio(uuid.uuid4(), DAY)
    assert execute("SELECT count(*) FROM portfolios") == [(0,)]
    assert 0 < redis_client.pttl(f"portfolio:{alice.id}:{DAY}") <= 5_000


def test_a_new_portfolio_is_found_at_once(
    service: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """A new portfolio is found at once in this and another process, although both have cached its absence."""
    # no near cache in the other process: it receives invalidations a moment later
    with open_service(settings.model_copy(update={"near_cache_size": 0})) as other:
        assert service.find_portfolio(alice.id, DAY) is None
        assert other.find_portfolio(alice.id, DAY) is None
        opened = service.get_current_portfolio(alice.id, DAY)
        assert service.find_portfolio(alice.id, DAY) == service.get_portfolio(str(alice.id), DAY) == opened
        assert other.get_portfolio(alice.id, DAY) == opened
        # find_portfolio and get_current_portfolio use the same cache key
        service.update_portfolio_value(alice.id, DAY, Decimal(5), Decimal(0))
        assert service.find_portfolio(alice.id, DAY) == service.get_current_portfolio(alice.id, DAY)


def test_a_rollback_removes_a_new_portfolio(service: EnhancedDatabaseService, alice: User) -> None:
    """A transaction finds the portfolio it creates. After a rollback the portfolio is absent again."""
    assert service.find_portfolio(alice.id, DAY) is None
    with pytest.raises(ZeroDivisionError), service.transaction():
        opened = service.get_current_portfolio(alice.id, DAY)
        assert service.find_portfolio(alice.id, DAY) == opened
        raise ZeroDivisionError
    assert service.find_portfolio(alice.id, DAY) is None
    with service.transaction():
        opened = service.get_current_portfolio(alice.id, DAY)
    assert service.find_portfolio(alice.id, DAY) == opened


def test_an_unknown_user_gets_no_portfolio(service: EnhancedDatabaseService, execute: Execute) -> None:
    """A portfolio for an unknown user raises UserNotFound, and no row is stored."""
    with pytest.raises(UserNotFound):
        service.get_current_portfolio(uuid.uuid4(), DAY)
    assert execute("SELECT count(*) FROM portfolios") == [(0,)]


def test_update_sets_value_and_percentage(service: EnhancedDatabaseService, alice: User) -> None:
    """The percentage is relative to the value before the change, and the cached portfolio is updated."""
    service.get_current_portfolio(alice.id, DAY)
    changed = service.update_portfolio_value(alice.id, DAY, Decimal("10260.005"), Decimal("260.005"))
    assert changed.total_value == Decimal("10260.00"), "rounded to cents, half to even"
    assert changed.day_change_percent == Decimal("2.60")
    assert service.get_current_portfolio(alice.id, DAY) == changed


def test_a_gain_of_a_thousand_percent_is_stored(service: EnhancedDatabaseService, alice: User) -> None:
    """Percentages above 999.99 are stored; a column of numeric(5,2) would refuse them."""
    service.get_current_portfolio(alice.id, DAY)
    changed = service.update_portfolio_value(alice.id, DAY, Decimal(120_000), Decimal(110_000))
    assert changed.day_change_percent == 1100
    huge = service.update_portfolio_value(
        alice.id, DAY, Decimal("9999999999999.99"), Decimal("9999999999999.98")
    )
    assert huge.day_change_percent == Decimal("99999999999999800.00")
    from_nothing = service.update_portfolio_value(alice.id, DAY, Decimal(5), Decimal(5))
    assert from_nothing.day_change_percent == 0


def test_update_needs_a_portfolio(service: EnhancedDatabaseService, alice: User, execute: Execute) -> None:
    """An update of a missing portfolio raises an error that names the date, and creates no row."""
    with pytest.raises(PortfolioNotFound, match=str(DAY)):
        service.update_portfolio_value(alice.id, DAY, Decimal(1), Decimal(0))
    assert execute("SELECT count(*) FROM portfolios") == [(0,)]


@pytest.mark.parametrize(
    ("total", "change"),
    [(math.nan, 0), (Decimal(-1), 0), (Decimal(1), math.inf), ("ten", 0), (None, 0), (10**13, 0)],
)
def test_invalid_values_change_nothing(
    service: EnhancedDatabaseService, alice: User, total: Any, change: Any
) -> None:
    """Invalid values are refused in a single update and in a batch, and the portfolio is unchanged."""
    before = service.get_current_portfolio(alice.id, DAY)
    with pytest.raises(InvalidInput):
        service.update_portfolio_value(alice.id, DAY, total, change)
    good = PortfolioUpdate(alice.id, DAY, Decimal(1), Decimal(0))
    bad = PortfolioUpdate(alice.id, DAY, total, change)
    with pytest.raises(InvalidInput, match="update 1:"):
        service.batch_update_portfolios([good, bad])
    service.clear_user_cache(alice.id)
    assert service.get_current_portfolio(alice.id, DAY) == before


def test_batch_returns_missing_portfolios(service: EnhancedDatabaseService, alice: User, bob: User) -> None:
    """A batch writes the existing portfolios and returns the player and date of every missing one."""
    nobody = uuid.uuid4()
    service.get_current_portfolio(alice.id, DAY)
    result = service.batch_update_portfolios(
        [
            PortfolioUpdate(alice.id, DAY, Decimal(9_000), Decimal(-1_000), Decimal(100)),
            PortfolioUpdate(bob.id, DAY, Decimal(1), Decimal(0)),
            PortfolioUpdate(str(nobody), DAY, Decimal(1), Decimal(0)),
            PortfolioUpdate(alice.id, DAY + timedelta(days=1), Decimal(1), Decimal(0)),
        ]
    )
    assert result.updated == 1
    assert set(result.missing) == {
        PlayerSession(bob.id, DAY),
        PlayerSession(nobody, DAY),
        PlayerSession(alice.id, DAY + timedelta(days=1)),
    }
    portfolio = service.get_current_portfolio(alice.id, DAY)
    assert (portfolio.total_value, portfolio.current_cash) == (9_000, 100)
    assert portfolio.day_change_percent == -10


def test_batch_without_cash_keeps_the_cash(service: EnhancedDatabaseService, alice: User) -> None:
    """An update without cash keeps the stored cash: a change of prices is not a trade."""
    service.get_current_portfolio(alice.id, DAY)
    service.batch_update_portfolios([PortfolioUpdate(alice.id, DAY, Decimal(9), Decimal(0), Decimal(7))])
    service.batch_update_portfolios([PortfolioUpdate(alice.id, DAY, Decimal(8), Decimal(0))])
    assert service.get_current_portfolio(alice.id, DAY).current_cash == 7


def test_the_last_of_two_updates_is_stored(service: EnhancedDatabaseService, alice: User) -> None:
    """Of two updates of one portfolio in a batch the last is stored, also if one has the user id as text."""
    service.get_current_portfolio(alice.id, DAY)
    result = service.batch_update_portfolios(
        [
            PortfolioUpdate(alice.id, DAY, Decimal(1), Decimal(0)),
            PortfolioUpdate(str(alice.id), DAY, Decimal(2), Decimal(0)),
        ]
    )
    assert result.updated == 1
    assert service.get_current_portfolio(alice.id, DAY).total_value == 2


def test_an_empty_batch_updates_nothing(service: EnhancedDatabaseService) -> None:
    """An empty batch updates no portfolio and raises no error."""
    assert service.batch_update_portfolios([]).updated == 0


def test_batch_is_atomic(
    service: EnhancedDatabaseService,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch runs one statement per chunk in one transaction; an error in a chunk undoes all chunks."""
    monkeypatch.setattr(portfolios, "CHUNK_ROWS", 40)
    execute(
        "INSERT INTO users (username) SELECT 'player' || n FROM generate_series(1, 100) n;"
        f"INSERT INTO portfolios (user_id, session_date) SELECT id, '{DAY}' FROM users"
    )
    users = [row[0] for row in execute("SELECT id FROM users ORDER BY id")]
    updates = [PortfolioUpdate(user, DAY, Decimal(n), Decimal(0)) for n, user in enumerate(users)]
    statements: list[str] = []
    service._database.query_hooks.append(lambda event: statements.append(event.sql))
    assert service.batch_update_portfolios(updates).updated == 100
    assert len([s for s in statements if "UPDATE portfolios" in s]) == 3
    execute("ALTER TABLE portfolios ADD CONSTRAINT trap CHECK (total_value <> 777);")
    last = max(updates, key=lambda update: str(update.user_id))
    trapped = [PortfolioUpdate(u.user_id, DAY, Decimal(777 if u is last else 5), Decimal(0)) for u in updates]
    with pytest.raises(Exception, match="trap"):
        service.batch_update_portfolios(trapped)
    assert execute("SELECT count(*) FROM portfolios WHERE total_value = 5") == [(1,)], (
        "only the row of the first batch"
    )


def test_history_is_newest_first_in_pages(service: EnhancedDatabaseService, alice: User) -> None:
    """The history is newest first; a page with `before` starts with the session before that date."""
    days = [DAY + timedelta(days=n) for n in range(5)]
    for day in days:
        service.get_current_portfolio(alice.id, day)
    first = service.get_portfolio_history(alice.id, limit=2)
    assert [p.session_date for p in first] == [days[4], days[3]]
    rest = service.get_portfolio_history(alice.id, before=first[-1].session_date)
    assert [p.session_date for p in rest] == [days[2], days[1], days[0]]
    assert service.get_portfolio_history(uuid.uuid4()) == ()


def test_session_dates_include_portfolios_and_leaderboards(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """A date with a portfolio and a leaderboard entry is listed once; the newest date is first."""
    service.get_current_portfolio(alice.id, DAY)
    service.update_leaderboard_entry(alice.id, "total_value", Decimal(1), DAY)
    service.update_leaderboard_entry(alice.id, "total_value", Decimal(1), DAY + timedelta(days=1))
    service.get_current_portfolio(alice.id, DAY - timedelta(days=1))
    dates = service.list_session_dates()
    assert dates == (DAY + timedelta(days=1), DAY, DAY - timedelta(days=1))
    assert service.list_session_dates(limit=1) == dates[:1]
    assert service.list_session_dates(before=DAY) == dates[2:]


def test_portfolio_key_and_ttl(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """A portfolio is cached under `portfolio:<user id>:<date>` for 45 to 60 s."""
    service.get_current_portfolio(alice.id, DAY)
    assert 45 < redis_client.ttl(f"portfolio:{alice.id}:{DAY}") <= 60
