"""Tests of `audited`: an operator's action is recorded before it runs, and its outcome afterwards."""

from typing import Any

import pytest

from core import EnhancedDatabaseService
from core.errors import DatabaseError, InvalidInput
from tests.conftest import Execute
from tests.fleet_reading import read_own


def read_counter(service: EnhancedDatabaseService, name: str, **labels: str) -> float | None:
    """Return the value of a counter in the metrics of the service."""
    return read_own(service.metrics, name, **labels)


def test_an_action_is_recorded_before_it_runs(service: EnhancedDatabaseService, execute: Execute) -> None:
    """While an action runs, another connection sees its event with the outcome `started`."""
    with service.audited(actor="alice@example.com", action="expire_quests", target="all players"):
        rows = execute("SELECT actor, action, target, outcome FROM audit_events")
        [begun] = service.list_audit_events()
    assert rows == [("alice@example.com", "expire_quests", "all players", "started")]
    assert (begun.outcome, begun.finished_at) == ("started", None)
    [event] = service.list_audit_events()
    assert event.outcome == "done"
    assert event.finished_at is not None
    assert event.finished_at >= event.created_at
    assert read_counter(service, "echo_audit_events_total", action="expire_quests") == 1


def test_a_failed_action_records_its_error(service: EnhancedDatabaseService) -> None:
    """If an action raises an error, the caller gets it and the event stores its type and message."""
    with (
        pytest.raises(InvalidInput),
        service.audited(actor="alice@example.com", action="close_session", target="2013-03-28"),
    ):
        raise InvalidInput("session_date is None")
    [event] = service.list_audit_events()
    assert event.outcome == "failed"
    assert event.detail == "InvalidInput: session_date is None"


def test_an_action_that_cannot_be_recorded_does_not_run(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """If the table `audit_events` is missing, the action does not run, and a counter counts the failure."""
    execute("DROP TABLE audit_events")
    done: list[str] = []
    with (
        pytest.raises(DatabaseError),
        service.audited(actor="alice@example.com", action="clear_cache", target="market"),
    ):
        done.append("cleared")
    assert done == []
    assert read_counter(service, "echo_audit_write_failures_total", action="clear_cache") == 1
    assert not read_counter(service, "echo_audit_events_total", action="clear_cache")


def test_an_action_succeeds_if_its_outcome_cannot_be_recorded(
    service: EnhancedDatabaseService, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    """If the outcome cannot be stored, the call raises no error; the log and a counter report it."""
    with service.audited(actor="alice@example.com", action="clear_cache", target="market"):
        execute("DROP TABLE audit_events")
    assert read_counter(service, "echo_audit_write_failures_total", action="clear_cache") == 1
    assert "could not be recorded" in caplog.text


def test_newest_actions_are_listed_first(service: EnhancedDatabaseService) -> None:
    """`list_audit_events` returns the newest actions first and at most `limit` of them."""
    for target in ("first", "second", "third"):
        with service.audited(actor="alice@example.com", action="clear_cache", target=target):
            pass
    assert [event.target for event in service.list_audit_events(limit=2)] == ["third", "second"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"action": "drop_table"}, "action is 'drop_table'"),
        ({"actor": ""}, "actor is ''"),
        ({"target": "x" * 201}, "give a text of 1 to 200 characters"),
    ],
)
def test_an_invalid_action_actor_or_target_is_refused(
    service: EnhancedDatabaseService, changed: dict[str, Any], message: str
) -> None:
    """An unknown action, an empty actor or a too long target is refused before the action runs."""
    values = {"actor": "alice@example.com", "action": "clear_cache", "target": "market"} | changed
    with pytest.raises(InvalidInput, match=message), service.audited(**values):
        pytest.fail("the action was run")
    assert service.list_audit_events() == ()


def test_an_audited_action_inside_a_transaction_is_refused(service: EnhancedDatabaseService) -> None:
    """`audited` raises an error inside a transaction, because a rollback would remove the event."""
    with (
        pytest.raises(InvalidInput, match="inside a transaction"),
        service.transaction(),
        service.audited(actor="alice@example.com", action="clear_cache", target="market"),
    ):
        pytest.fail("the action was run")
