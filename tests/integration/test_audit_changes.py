"""Tests of the triggers that record changes of rows: they write an event only if an actor is set."""

import time
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from core import EnhancedDatabaseService
from core.errors import InvalidInput, TransactionMisused
from core.records import AuditEvent, LeaderboardUpdate, Portfolio, PortfolioUpdate, User
from core.service.writes import new_id
from tests.conftest import Execute
from tests.patience import stretch

DAY = date(2026, 3, 2)
ONE = Decimal(1)
NOW = datetime(2026, 3, 2, tzinfo=UTC)


def read_changes(service: EnhancedDatabaseService, **options: Any) -> list[tuple[str, str, Any, Any]]:
    """Return the recorded changes as tuples (action, table, old values, new values), oldest first."""
    changes = reversed(service.list_audit_changes(limit=1_000, **options))
    return [(each.action, each.target, each.before, each.after) for each in changes]


def test_an_update_event_has_only_the_changed_columns(service: EnhancedDatabaseService, alice: User) -> None:
    """The event of an update has the old and new values of the changed columns, as exact decimals.

    It also has the actor, the request id, the time and the id of the row.
    """
    opened = service.get_current_portfolio(alice.id, DAY)
    begun = datetime.now(UTC)
    with service.acting_as("alice@example.com", request_id="request 7"):
        service.update_portfolio_value(alice.id, DAY, Decimal("10500.10"), Decimal("500.10"))
    [event] = service.list_audit_changes()
    assert event.before == {
        "total_value": Decimal("10000.00"), "day_change": Decimal("0.00"),
        "day_change_percent": Decimal("0.00"),
    }  # fmt: skip  # the columns of one row
    assert event.after == {
        "total_value": Decimal("10500.10"), "day_change": Decimal("500.10"),
        "day_change_percent": Decimal("5.00"),
    }  # fmt: skip  # the columns of one row
    assert (event.actor, event.request_id) == ("alice@example.com", "request 7")
    assert (event.target, event.row_key, event.outcome) == ("portfolios", opened.id, "done")
    assert begun <= event.created_at <= datetime.now(UTC)


def test_changes_in_every_table_of_a_player_are_recorded(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """Changes of a user, portfolio, quest or leaderboard entry are recorded, including deletes by cascade."""
    with service.acting_as("operator"):
        bob = service.create_user(username="bob", name="Bob")
        service.update_user_profile(bob.id, name="Robert")
        service.get_current_portfolio(bob.id, DAY)
        quest = service.create_quest(bob.id, type="T", title="T", target_value=ONE)
        service.update_quest_progress(quest.id, ONE)
        service.update_leaderboard_entry(bob.id, "total_value", ONE, DAY)
        service.update_leaderboard_entry(bob.id, "total_value", ONE * 2, DAY)
        service.delete_user(bob.id)
    written = [(action, table) for action, table, _, _ in read_changes(service)]
    assert written[:7] == [
        ("insert", "users"), ("update", "users"), ("insert", "portfolios"), ("insert", "quests"),
        ("update", "quests"), ("insert", "leaderboard_entries"), ("update", "leaderboard_entries"),
    ]  # fmt: skip  # several pairs a line
    # the cascade deletes the player's rows in the other tables, and each delete is recorded
    assert sorted(written[7:]) == [
        ("delete", name) for name in ("leaderboard_entries", "portfolios", "quests", "users")
    ]
    [(_, _, before, after)] = read_changes(service, row_key=bob.id)[-1:]
    assert before["name"] == "Robert"
    assert after is None


def test_batches_write_one_event_for_each_row_that_changed(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """A batch writes one event for each row that it inserts or changes, and none for an unchanged row."""
    for user in (alice, bob):
        service.get_current_portfolio(user.id, DAY)
    updates = [
        PortfolioUpdate(alice.id, DAY, ONE * 20_000, ONE * 10_000),
        PortfolioUpdate(bob.id, DAY, ONE * 10_000, ONE * 0),
    ]
    with service.acting_as("operator"):
        service.batch_update_portfolios(updates)
        service.batch_update_leaderboard("c", [LeaderboardUpdate(u.id, ONE) for u in (alice, bob)], DAY)
        service.load_users([replace(alice, name="Loaded"), bob])
    assert [(action, table) for action, table, _, _ in read_changes(service)] == [
        ("update", "portfolios"), ("insert", "leaderboard_entries"), ("insert", "leaderboard_entries"),
        ("update", "users"),
    ]  # fmt: skip  # several pairs a line


def test_a_large_batch_after_a_small_one_is_fast(service: EnhancedDatabaseService, alice: User) -> None:
    """A batch of 4,000 rows after a batch of one row takes less than 3 s.

    The connection may have kept a plan for one row, which would compare each of the 4,000 rows with all
    others.
    """
    with service.transaction():
        users = [service.create_user(username=f"player{n}") for n in range(4_000)]
    with service.acting_as("operator"):
        for users_of_batch in ([alice], users):
            service.load_portfolios(
                Portfolio(new_id(), user.id, DAY, ONE, ONE, ONE, ONE, ONE, NOW, NOW)
                for user in users_of_batch
            )
            started = time.monotonic()
            updates = [PortfolioUpdate(user.id, DAY, ONE * 2, ONE) for user in users_of_batch]
            assert service.batch_update_portfolios(updates).updated == len(users_of_batch)
    # comparing each row with all others would take more than 10 s
    assert time.monotonic() - started < stretch(3)
    assert len(list(service.stream_audit_changes())) == 2 * 4_001


def test_changes_without_an_actor_are_not_recorded(service: EnhancedDatabaseService, alice: User) -> None:
    """A change without an actor is not recorded.

    Changes of activity, ranks and ticks are not recorded even with an actor.
    """
    service.update_user_profile(alice.id, name="Simulated")
    service.update_leaderboard_entry(alice.id, "c", ONE, DAY)
    with service.acting_as("operator"):
        service.touch_last_active(alice.id)
        service.close_session(DAY)
        service.insert_market_tick("AAPL", ONE)
    service.update_user_profile(alice.id, name="Simulated again")
    assert read_changes(service) == []


def test_an_e_mail_address_is_never_recorded(
    service: EnhancedDatabaseService, execute: Execute, alice: User
) -> None:
    """The event of a changed e-mail address contains the text `hidden` in place of the address."""
    with service.acting_as("operator"):
        service.update_user_profile(alice.id, email="secret-2@example.com")
        service.update_user_profile(alice.id, email=None)
        bob = service.create_user(username="bob", email="secret-3@example.com")
        service.delete_user(bob.id)
    [changed, removed] = [(before, after) for _, _, before, after in read_changes(service, row_key=alice.id)]
    assert (changed[0]["email"], changed[1]["email"]) == ("hidden", "hidden")
    assert (removed[0]["email"], removed[1]["email"]) == ("hidden", None)
    [(text,)] = execute("SELECT string_agg(e::text, '') FROM audit_events e")
    assert "secret" not in text
    assert "example.com" not in text


def test_a_change_and_its_event_are_committed_together(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """A rollback removes both the change and its event."""
    with service.acting_as("operator"):
        with pytest.raises(KeyError), service.transaction():
            service.update_user_profile(alice.id, name="Rolled back")
            raise KeyError
        with service.transaction():
            service.update_user_profile(alice.id, name="Committed")
            with pytest.raises(InvalidInput, match="taken"):
                service.update_user_profile(alice.id, username="bob")
    assert [after for _, _, _, after in read_changes(service)] == [{"name": "Committed"}]


def test_the_innermost_actor_is_recorded(service: EnhancedDatabaseService, alice: User) -> None:
    """In nested `acting_as` blocks the inner actor is recorded, and each block has its own request id."""
    with service.acting_as("operator"):
        service.update_user_profile(alice.id, name="1")
        with service.acting_as("other"):
            service.update_user_profile(alice.id, name="2")
        service.update_user_profile(alice.id, name="3")
    events: tuple[AuditEvent, ...] = service.list_audit_changes()[::-1]
    assert [event.actor for event in events] == ["operator", "other", "operator"]
    first, second, third = (event.request_id for event in events)
    assert first == third != second


def test_a_transaction_has_one_actor(service: EnhancedDatabaseService, alice: User) -> None:
    """`acting_as` inside a transaction is refused, because a transaction records one actor."""
    with (
        pytest.raises(TransactionMisused, match="another identity"),
        service.transaction(),
        service.acting_as("operator"),
    ):
        service.update_user_profile(alice.id, name="1")
    assert read_changes(service) == []


@pytest.mark.parametrize("actor", ["", "x" * 321, None, "a\0b"])
def test_an_invalid_actor_is_refused(service: EnhancedDatabaseService, actor: Any) -> None:
    """`acting_as` refuses an actor that is empty, too long, None or contains a NUL byte."""
    with pytest.raises(InvalidInput, match="actor is"), service.acting_as(actor):
        pytest.fail("the block was run")


@pytest.mark.parametrize("actor", ["Robert'); DROP TABLE users; --", "100 %s \\ é💥", "a\nb"])
def test_an_actor_is_stored_unchanged(service: EnhancedDatabaseService, alice: User, actor: str) -> None:
    """The actor and the request id are stored with all their characters."""
    with service.acting_as(actor, request_id=actor):
        service.update_user_profile(alice.id, name="A")
    [event] = service.list_audit_changes()
    assert (event.actor, event.request_id) == (actor, actor)


def test_changes_can_carry_the_id_of_an_action(service: EnhancedDatabaseService, alice: User) -> None:
    """The changes of an action have its event id as request id, so a reader can find them."""
    with (
        service.audited(actor="operator", action="expire_quests", target="all") as event,
        service.acting_as("operator", request_id=str(event.id)),
    ):
        service.update_user_profile(alice.id, name="A")
    [change] = service.list_audit_changes()
    assert change.request_id == str(event.id)


REFUSED = (
    "UPDATE audit_events SET actor = 'another'",
    "UPDATE audit_events_default SET actor = 'another'",
    "DELETE FROM audit_events",
    "DELETE FROM audit_events_default",
    "TRUNCATE audit_events",
    "TRUNCATE audit_events_default",
    "UPDATE audit_seals SET events = 0",
    "DELETE FROM audit_seals",
    "TRUNCATE audit_seals",
)


@pytest.mark.parametrize("sql", REFUSED)
def test_the_owner_cannot_change_the_audit_log(
    service: EnhancedDatabaseService, execute: Execute, sql: str
) -> None:
    """The owner of the tables cannot update, delete or truncate events or seals; the triggers refuse it."""
    execute("INSERT INTO audit_events (actor, action, target) VALUES ('a', 'sign_in', 't')")
    # this event is in the default partition, because no monthly partition has its time
    execute(
        "INSERT INTO audit_events (actor, action, target, created_at)"
        " VALUES ('a', 'sign_in', 't', '2013-01-01')"
    )
    service.seal_audit_log()
    with pytest.raises(Exception, match="the audit log is append-only"):
        execute(sql)
    assert execute("SELECT count(*) FROM audit_events") == [(2,)]
    assert service.verify_audit_log().broken is None


def test_a_finished_action_is_recorded_as_one_event(service: EnhancedDatabaseService) -> None:
    """`record_audit_event` stores a finished action: a sign-in, or a refused action with its reason."""
    service.record_audit_event(actor="alice", action="sign_in", target="dashboard")
    given = service.record_audit_event(
        actor="bob", action="close_session", target="session 1", outcome="refused", detail="no operator"
    )
    refused, signed_in = service.list_audit_events()
    assert refused == given
    assert (refused.outcome, refused.detail, refused.finished_at) == (
        "refused", "no operator", refused.created_at,
    )  # fmt: skip  # one row
    assert (signed_in.action, signed_in.outcome) == ("sign_in", "done")
    with pytest.raises(InvalidInput, match="outcome is 'started'"):
        service.record_audit_event(actor="a", action="sign_in", target="t", outcome="started")
