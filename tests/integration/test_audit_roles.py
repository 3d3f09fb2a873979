"""The audit log under the roles of the database: who may write, seal and remove what."""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg2 import errors

from core import open_service
from core.database.roles import APP, MONITOR, OWNER, PLAYER
from core.errors import DatabaseError
from core.migration import Migrator
from tests.conftest import connected
from tests.roles import cursor_as, settings_as

EVENT = "actor, action, target) VALUES ('mallory', 'sign_in', 'dashboard'"
REFUSED = (
    "UPDATE audit_events SET actor = 'mallory'",
    "DELETE FROM audit_events",
    "TRUNCATE audit_events",
    "DELETE FROM audit_events_default",
    "DROP TABLE audit_events_default",
    "ALTER TABLE audit_events DETACH PARTITION audit_events_default",
    "ALTER TABLE audit_events DISABLE TRIGGER ALL",
    "SET session_replication_role = replica",
    # neither a change that never was, nor one of another transaction
    f"INSERT INTO audit_events (row_key, {EVENT.replace('(', '(gen_random_uuid(), ')})",
    f"INSERT INTO audit_events (transaction_id, {EVENT.replace('(', '(1, ')})",
    f"INSERT INTO audit_events_default ({EVENT})",
    "INSERT INTO audit_seals SELECT * FROM audit_seals",
    "UPDATE audit_seals SET events = 0",
    "DELETE FROM audit_seals",
    "TRUNCATE audit_seals",
    "SELECT audit_create_month(now())",
    "SELECT audit_drop_month('audit_events_default')",
    "INSERT INTO audit_retention (keep_months) VALUES (1)",
    "UPDATE audit_retention SET keep_months = 1",
    "DELETE FROM audit_retention",
    "CREATE OR REPLACE FUNCTION audit_seal() RETURNS bigint LANGUAGE sql AS 'SELECT 1'",
    "DROP FUNCTION audit_seal()",
    "SET ROLE echo_markets_sealer",
)


@pytest.mark.parametrize("role", [APP, PLAYER, MONITOR])
@pytest.mark.parametrize("statement", REFUSED)
def test_nobody_who_serves_can_change_the_log(roles_url: str, role: str, statement: str) -> None:
    """They can change neither events nor seals nor the triggers that protect them."""
    with cursor_as(APP if role == PLAYER else role, roles_url) as cursor:
        if role == PLAYER:
            cursor.execute(f"SET ROLE {PLAYER}")
        with pytest.raises(errors.InsufficientPrivilege):
            cursor.execute(statement)


@pytest.mark.parametrize("statement", ["SELECT * FROM audit_events", "SELECT * FROM audit_seals"])
@pytest.mark.parametrize("role", [PLAYER, MONITOR])
def test_the_log_is_read_by_the_application_alone(roles_url: str, role: str, statement: str) -> None:
    """The audit log names who did what, so no other role can read the log."""
    with cursor_as(APP if role == PLAYER else role, roles_url) as cursor:
        if role == PLAYER:
            cursor.execute(f"SET ROLE {PLAYER}")
        with pytest.raises(errors.InsufficientPrivilege):
            cursor.execute(statement)


def test_the_owner_cannot_add_a_seal_as_the_application_does(roles_url: str) -> None:
    """The function belongs to the sealer; the owner may call it, and only the owner may become the sealer."""
    with connected(roles_url) as execute:
        [(owner,)] = execute("SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'audit_seal'")
    assert owner == "echo_markets_sealer"
    with cursor_as(OWNER, roles_url) as cursor:
        cursor.execute("SELECT audit_seal()")


def test_the_application_writes_seals_verifies_and_maintains(roles_url: str) -> None:
    """The application's role suffices for every call of the service."""
    old = datetime.now(UTC).replace(day=1) - timedelta(days=100)
    with connected(roles_url) as execute:
        [(month,)] = execute("SELECT audit_create_month(date_trunc('month', %s, 'UTC'))", (old,))
    with open_service(settings_as(APP, roles_url, enable_redis_cache=False)) as service:
        service.seal_audit_log()
        before = service.verify_audit_log().events
        with service.audited(actor="alice", action="warm_cache", target="all"):
            pass
        with service.acting_as("alice"):
            user = service.create_user(username="alice")
        [event] = service.list_audit_changes(row_key=user.id)
        assert (event.actor, event.action) == ("alice", "insert")
        assert service.seal_audit_log().events == 3
        with pytest.raises(DatabaseError, match="keeps all months"):
            service.maintain_audit_log(keep_months=1)
        Migrator(settings_as(APP, roles_url, audit_keep_months=1)).up()
        report = service.maintain_audit_log(months_ahead=3, keep_months=1)
        assert (len(report.created), report.dropped) == (1, (month,))
        result = service.verify_audit_log()
        assert (result.events, result.unsealed, result.broken) == (before + 3, 0, None)


def test_a_players_own_changes_are_recorded_as_theirs(roles_url: str) -> None:
    """A player may not write to the log; the trigger does it for whoever changes a row."""
    with open_service(settings_as(APP, roles_url, enable_redis_cache=False)) as service:
        user = service.create_user(username="bob")
        service.as_user(user.id).update_user_profile(name="Robert")
        with service.acting_as("support"):
            service.as_user(user.id).update_user_profile(name="Bob")
        changes = service.list_audit_changes(row_key=user.id)
        assert [(each.actor, each.after) for each in changes] == [
            ("support", {"name": "Bob"}), (str(user.id), {"name": "Robert"}),
        ]  # fmt: skip  # in pairs
