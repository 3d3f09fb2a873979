"""Tests of the migration that makes the audit log append-only."""

from pydantic import SecretStr

from core import Settings, open_service
from core.migration import Migrator
from tests.conftest import Execute

MIGRATION = "0021_audit_log"
EVENTS = """
    INSERT INTO audit_events (actor, action, target, outcome, detail, created_at, finished_at) VALUES
        ('alice', 'clear_cache', 'market', 'done', NULL, now() - interval '3 hours',
         now() - interval '2 hours'),
        ('bob', 'close_session', 'session 1', 'failed', 'KeyError: 1', now() - interval '70 days',
         now() - interval '70 days'),
        ('charlie', 'warm_cache', 'all', 'started', NULL, now() - interval '1 hour', NULL),
        ('alice', 'warm_cache', 'all', 'done', NULL, '2001-01-01', '2001-01-02')"""
READ = """
    SELECT id::text, actor, action, target, outcome, detail, created_at, finished_at FROM audit_events
    ORDER BY created_at DESC"""


def test_existing_audit_events_are_migrated(empty_database_url: str, empty_execute: Execute) -> None:
    """`up` keeps ids, times and outcomes of existing events, which can be sealed; `down` restores them."""
    settings = Settings(database_url=SecretStr(empty_database_url), enable_redis_cache=False)
    migrator = Migrator(settings)
    migrator.up()
    migrator.down(MIGRATION)
    empty_execute(EVENTS)
    before = empty_execute(READ)
    migrator.up()
    with open_service(settings) as service:
        events = service.list_audit_events()
        assert [
            (str(e.id), e.actor, e.action, e.target, e.outcome, e.detail, e.created_at, e.finished_at)
            for e in events
        ] == before
        with service.audited(actor="alice", action="warm_cache", target="new"):
            pass
        assert service.seal_audit_log().events == 9
        assert service.verify_audit_log().broken is None
        service.record_audit_event(actor="alice", action="sign_in", target="dashboard")
        with service.acting_as("alice"):
            service.create_user(username="alice")
    # an event of 2001 is in the default partition: monthly partitions do not go back for decades
    [(default,)] = empty_execute("SELECT count(*) FROM audit_events_default")
    assert default == 2
    migrator.down(MIGRATION)
    newest, *others = empty_execute(READ)
    assert newest[1:6] == ("alice", "warm_cache", "new", "done", None)
    assert others == before
