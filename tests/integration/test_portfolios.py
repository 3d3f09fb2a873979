"""Portfolios: opened once, changed alone and in sets."""

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


def test_opens_with_the_starting_cash(service: EnhancedDatabaseService, alice: User) -> None:
    """A session begins with 10,000, all of it cash, and today is the UTC date."""
    portfolio = service.get_current_portfolio(alice.id)
    assert portfolio.session_date == datetime.now(UTC).date()
    assert portfolio.starting_cash == portfolio.current_cash == portfolio.total_value == 10_000
    assert portfolio.day_change == portfolio.day_change_percent == 0


def test_is_opened_once(service: EnhancedDatabaseService, alice: User, execute: Execute) -> None:
    """Eight callers at once get the same portfolio."""
    barrier = threading.Barrier(8)
    found: list[uuid.UUID] = []

    def ask() -> None:
        barrier.wait()
        found.append(service.get_current_portfolio(alice.id, DAY).id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert execute("SELECT count(*) FROM portfolios") == [(1,)]


def test_a_read_opens_nothing(
    service: EnhancedDatabaseService, alice: User, execute: Execute, redis_client: redis.Redis
) -> None:
    """Whatever date is asked for, however often; that there is none is remembered for five seconds."""
    for day in (None, DAY, date.min, date.max, DAY):
        assert service.find_portfolio(alice.id, day) is None
        with pytest.raises(PortfolioNotFound, match=f"user {alice.id} has no portfolio in session"):
            service.get_portfolio(alice.id, day)
    with pytest.raises(PortfolioNotFound):
        service.get_portfolio(uuid.uuid4(), DAY)
    assert execute("SELECT count(*) FROM portfolios") == [(0,)]
    assert 0 < redis_client.pttl(f"portfolio:{alice.id}:{DAY}") <= 5_000


def test_a_portfolio_that_is_opened_is_found_at_once(
    service: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """Also where it was missing a moment ago, in this process and in another."""
    # without a near cache, which hears of a change a moment later
    with open_service(settings.model_copy(update={"near_cache_size": 0})) as other:
        assert service.find_portfolio(alice.id, DAY) is None
        assert other.find_portfolio(alice.id, DAY) is None
        opened = service.get_current_portfolio(alice.id, DAY)
        assert service.find_portfolio(alice.id, DAY) == service.get_portfolio(str(alice.id), DAY) == opened
        assert other.get_portfolio(alice.id, DAY) == opened
        # the reads share one key with the call that opens
        service.update_portfolio_value(alice.id, DAY, Decimal(5), Decimal(0))
        assert service.find_portfolio(alice.id, DAY) == service.get_current_portfolio(alice.id, DAY)


def test_a_portfolio_opened_in_a_transaction_is_seen_there_and_nowhere_else(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """Until the commit; a rollback leaves nothing."""
    assert service.find_portfolio(alice.id, DAY) is None
    with pytest.raises(ZeroDivisionError), service.transaction():
        opened = service.get_current_portfolio(alice.id, DAY)
        assert service.find_portfolio(alice.id, DAY) == opened
        raise ZeroDivisionError
    assert service.find_portfolio(alice.id, DAY) is None
    with service.transaction():
        opened = service.get_current_portfolio(alice.id, DAY)
    assert service.find_portfolio(alice.id, DAY) == opened


def test_unknown_user_opens_nothing(service: EnhancedDatabaseService, execute: Execute) -> None:
    """No portfolio without a player."""
    with pytest.raises(UserNotFound):
        service.get_current_portfolio(uuid.uuid4(), DAY)
    assert execute("SELECT count(*) FROM portfolios") == [(0,)]


def test_update_sets_value_and_percent(service: EnhancedDatabaseService, alice: User) -> None:
    """The percent is of the value before the change; the cached portfolio follows."""
    service.get_current_portfolio(alice.id, DAY)
    changed = service.update_portfolio_value(alice.id, DAY, Decimal("10260.005"), Decimal("260.005"))
    assert changed.total_value == Decimal("10260.00"), "half-even cents"
    assert changed.day_change_percent == Decimal("2.60")
    assert service.get_current_portfolio(alice.id, DAY) == changed


def test_a_gain_of_a_thousand_percent_fits(service: EnhancedDatabaseService, alice: User) -> None:
    """numeric(5,2) would abort here."""
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
    """A session that the player has not opened is named, and not opened by it."""
    with pytest.raises(PortfolioNotFound, match=str(DAY)):
        service.update_portfolio_value(alice.id, DAY, Decimal(1), Decimal(0))
    assert execute("SELECT count(*) FROM portfolios") == [(0,)]


@pytest.mark.parametrize(
    ("total", "change"),
    [(math.nan, 0), (Decimal(-1), 0), (Decimal(1), math.inf), ("ten", 0), (None, 0), (10**13, 0)],
)
def test_bad_values_change_nothing(
    service: EnhancedDatabaseService, alice: User, total: Any, change: Any
) -> None:
    """Neither alone nor in a batch."""
    before = service.get_current_portfolio(alice.id, DAY)
    with pytest.raises(InvalidInput):
        service.update_portfolio_value(alice.id, DAY, total, change)
    good = PortfolioUpdate(alice.id, DAY, Decimal(1), Decimal(0))
    bad = PortfolioUpdate(alice.id, DAY, total, change)
    with pytest.raises(InvalidInput, match="update 1:"):
        service.batch_update_portfolios([good, bad])
    service.clear_user_cache(alice.id)
    assert service.get_current_portfolio(alice.id, DAY) == before


def test_batch_reports_what_is_missing(service: EnhancedDatabaseService, alice: User, bob: User) -> None:
    """Existing ones are written, the others are named; none aborts the rest."""
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


def test_batch_keeps_the_cash_that_was_not_given(service: EnhancedDatabaseService, alice: User) -> None:
    """A revaluation is not a trade."""
    service.get_current_portfolio(alice.id, DAY)
    service.batch_update_portfolios([PortfolioUpdate(alice.id, DAY, Decimal(9), Decimal(0), Decimal(7))])
    service.batch_update_portfolios([PortfolioUpdate(alice.id, DAY, Decimal(8), Decimal(0))])
    assert service.get_current_portfolio(alice.id, DAY).current_cash == 7


def test_of_two_updates_the_last_wins(service: EnhancedDatabaseService, alice: User) -> None:
    """Also when one names the player by text and the other by UUID."""
    service.get_current_portfolio(alice.id, DAY)
    result = service.batch_update_portfolios(
        [
            PortfolioUpdate(alice.id, DAY, Decimal(1), Decimal(0)),
            PortfolioUpdate(str(alice.id), DAY, Decimal(2), Decimal(0)),
        ]
    )
    assert result.updated == 1
    assert service.get_current_portfolio(alice.id, DAY).total_value == 2


def test_an_empty_batch_is_nothing(service: EnhancedDatabaseService) -> None:
    """No statement, no error."""
    assert service.batch_update_portfolios([]).updated == 0


def test_batch_is_set_based_and_atomic(
    service: EnhancedDatabaseService,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One statement per chunk in one transaction: a failure in the last undoes the first."""
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
    assert execute("SELECT count(*) FROM portfolios WHERE total_value = 5") == [(1,)], "the one of before"


def test_history_is_newest_first_in_pages(service: EnhancedDatabaseService, alice: User) -> None:
    """A page continues before the last day of the page before."""
    days = [DAY + timedelta(days=n) for n in range(5)]
    for day in days:
        service.get_current_portfolio(alice.id, day)
    first = service.get_portfolio_history(alice.id, limit=2)
    assert [p.session_date for p in first] == [days[4], days[3]]
    rest = service.get_portfolio_history(alice.id, before=first[-1].session_date)
    assert [p.session_date for p in rest] == [days[2], days[1], days[0]]
    assert service.get_portfolio_history(uuid.uuid4()) == ()


def test_session_dates_are_of_portfolios_and_leaderboards(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """A day counts once, newest first, in pages."""
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
    """The key is the design's, and lives up to 60 s."""
    service.get_current_portfolio(alice.id, DAY)
    assert 45 < redis_client.ttl(f"portfolio:{alice.id}:{DAY}") <= 60
