"""On every kind of server the service gives the answers of the plain one, and keeps its limits."""

import threading
from typing import Any

import pytest

from core import EnhancedDatabaseService, open_service
from core.errors import QueryTimeout
from core.migration import Migrator
from core.selftest import run_self_test
from tests.conftest import Execute
from tests.matrix.answers import play
from tests.matrix.conftest import Place, Variant

FOREIGN = """SELECT (SELECT array_agg(username ORDER BY id) FROM public.users),
    (SELECT count(*) FROM public.ticks), (SELECT count(*) FROM public.schema_migration),
    (SELECT count(*) FROM public.leaderboard_counters), (SELECT count(*) FROM public.symbols)"""


def test_answers_are_those_of_the_plain_server(
    service: EnhancedDatabaseService, direct_answers: dict[str, Any]
) -> None:
    """Call by call: writes, reads, bulk loads, leaderboards, history, events, what was rolled back."""
    found = play(service)
    assert found.keys() == direct_answers.keys()
    differing = {
        name: (found[name], expected) for name, expected in direct_answers.items() if found[name] != expected
    }
    assert not differing


def test_the_self_test_passes(service: EnhancedDatabaseService) -> None:
    """Every public call, cleaned up afterwards."""
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), [line for line in lines if "FAIL" in line]


def test_migrations_go_down_and_up(place: Place, execute: Execute, variant: Variant) -> None:
    """All of them, and nothing of another application is touched."""
    migrator = Migrator(place.settings)
    names = [row.name for row in migrator.status() if row.applied_at]
    before = execute(FOREIGN) if variant.has_own_schema else []
    assert migrator.down(names[0]) == names[::-1]
    assert not any(row.applied_at for row in migrator.status())
    assert migrator.up() == names
    assert migrator.up() == []
    if variant.has_own_schema:
        assert execute(FOREIGN) == before == [(["alice", "Bob"], 0, 0, 0, 0)]


def test_a_statement_ends_at_the_timeout(place: Place, execute: Execute) -> None:
    """On the server too, inside of a transaction and outside; then the service goes on."""
    settings = place.settings.model_copy(update={"database_query_timeout": 200})
    with open_service(settings) as service:
        for unit in (service._database.session, service._database.transaction_of):
            with pytest.raises(QueryTimeout), unit("slow") as database:
                database.execute_sql("SELECT pg_sleep(60) /* asleep */")
        running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%asleep%%'"
        assert execute(running + " AND pid <> pg_backend_pid()") == [(0,)]
        assert service.search_users("nobody") == ()


def test_statements_of_many_threads_have_their_settings(service: EnhancedDatabaseService) -> None:
    """Sessions of a pooler change hands between any two statements."""
    found: set[tuple[Any, ...]] = set()
    question = """SELECT current_setting('TimeZone'), current_setting('transaction_isolation'),
        current_setting('statement_timeout'), (now() AT TIME ZONE 'UTC')::date = current_date,
        pg_typeof((SELECT max(id::text)::uuid FROM users))::text"""

    def ask() -> None:
        for _ in range(20):
            with service._database.session("ask") as database:
                for _ in range(3):
                    found.add(database.execute_sql(question).fetchone())

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {("UTC", "read committed", "30s", True, "uuid")}


def test_health_is_healthy(service: EnhancedDatabaseService) -> None:
    """The check connects as the pool does."""
    health = service.health()
    assert (health.status, health.migrations_pending) == ("healthy", 0)
