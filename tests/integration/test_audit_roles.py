"""Tests of the database roles: which role may write, seal and remove events of the audit log."""

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
    # a role may neither invent a change of a row nor record an event for another transaction
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
def test_serving_roles_cannot_change_the_audit_log(roles_url: str, role: str, statement: str) -> None:
    """The application, player and monitor roles cannot change events, seals or their triggers."""
    with cursor_as(APP if role == PLAYER else role, roles_url) as cursor:
        if role == PLAYER:
            cursor.execute(f"SET ROLE {PLAYER}")
        with pytest.raises(errors.InsufficientPrivilege):
            cursor.execute(statement)


@pytest.mark.parametrize("statement", ["SELECT * FROM audit_events", "SELECT * FROM audit_seals"])
@pytest.mark.parametrize("role", [PLAYER, MONITOR])
def test_other_roles_cannot_read_the_audit_log(roles_url: str, role: str, statement: str) -> None:
    """The player and monitor roles cannot read the audit log, because it names the actors."""
    with cursor_as(APP if role == PLAYER else role, roles_url) as cursor:
        if role == PLAYER:
            cursor.execute(f"SET ROLE {PLAYER}")
        with pytest.raises(errors.InsufficientPrivilege):
            cursor.execute(statement)


def test_the_sealer_owns_the_seal_function(roles_url: str) -> None:
    """The sealer role owns the function `audit_seal`, and the owner of the tables may call it."""
    with connected(roles_url) as execute:
        [(owner,)] = execute("SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'audit_seal'")
    assert owner == "echo_markets_sealer"
    with cursor_as(OWNER, roles_url) as cursor:
        cursor.execute("SELECT audit_seal()")


def test_the_application_role_can_maintain_the_audit_log(roles_url: str) -> None:
    """The application role can record, seal, verify and drop months of events through the service."""
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


def test_a_players_changes_are_recorded_for_the_player(roles_url: str) -> None:
    """A change through `as_user` is recorded for the player, or for the actor of `acting_as`.

    The trigger writes the event, because the player role may not write to the audit log.
    """
    with open_service(settings_as(APP, roles_url, enable_redis_cache=False)) as service:
        user = service.create_user(username="bob")
        service.as_user(user.id).update_user_profile(name="Robert")
        with service.acting_as("support"):
            service.as_user(user.id).update_user_profile(name="Bob")
        changes = service.list_audit_changes(row_key=user.id)
        assert [(each.actor, each.after) for each in changes] == [
            ("support", {"name": "Bob"}), (str(user.id), {"name": "Robert"}),
        ]  # fmt: skip  # one event a line
