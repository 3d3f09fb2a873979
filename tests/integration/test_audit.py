"""What operators do: written down before it is done, with its outcome afterwards."""

from typing import Any

import pytest

from core import EnhancedDatabaseService
from core.errors import DatabaseError, InvalidInput
from tests.conftest import Execute
from tests.fleet_reading import read_own


def read_counter(service: EnhancedDatabaseService, name: str, **labels: str) -> float | None:
    """Return the value of a counter of this process."""
    return read_own(service.metrics, name, **labels)


def test_an_action_is_written_down_before_it_is_done(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Another connection sees the event while the action runs, without an outcome."""
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


def test_a_failed_action_says_why(service: EnhancedDatabaseService) -> None:
    """The caller gets the error, and the event stores its name."""
    with (
        pytest.raises(InvalidInput),
        service.audited(actor="alice@example.com", action="close_session", target="2013-03-28"),
    ):
        raise InvalidInput("session_date is None")
    [event] = service.list_audit_events()
    assert event.outcome == "failed"
    assert event.detail == "InvalidInput: session_date is None"


def test_what_cannot_be_written_down_is_not_done(service: EnhancedDatabaseService, execute: Execute) -> None:
    """When the table is missing, no action starts, and the failure is counted."""
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


def test_an_outcome_that_cannot_be_written_fails_nothing(
    service: EnhancedDatabaseService, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    """The action is not undone; the log and a counter report the missing outcome."""
    with service.audited(actor="alice@example.com", action="clear_cache", target="market"):
        execute("DROP TABLE audit_events")
    assert read_counter(service, "echo_audit_write_failures_total", action="clear_cache") == 1
    assert "could not be recorded" in caplog.text


def test_newest_actions_come_first(service: EnhancedDatabaseService) -> None:
    """At most `limit` actions are returned."""
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
def test_the_set_of_actions_is_closed(
    service: EnhancedDatabaseService, changed: dict[str, Any], message: str
) -> None:
    """An unknown action is refused before it is done."""
    values = {"actor": "alice@example.com", "action": "clear_cache", "target": "market"} | changed
    with pytest.raises(InvalidInput, match=message), service.audited(**values):
        pytest.fail("the action was run")
    assert service.list_audit_events() == ()


def test_a_transaction_cannot_undo_what_was_written_down(service: EnhancedDatabaseService) -> None:
    """Inside a transaction nothing is audited, because a rollback would remove the event."""
    with (
        pytest.raises(InvalidInput, match="inside a transaction"),
        service.transaction(),
        service.audited(actor="alice@example.com", action="clear_cache", target="market"),
    ):
        pytest.fail("the action was run")
