"""On every variant of server the service returns the same results, keeps its time limits and migrates."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from core import EnhancedDatabaseService, open_service
from core.database import session_settings
from core.database.bounded_connection import BoundedConnector
from core.database.session_settings import PINNED
from core.errors import QueryTimeout
from core.migration import Migrator
from core.queries import server_statistics
from core.selftest import run_self_test
from exporter.collectors import postgres
from exporter.collectors.statements import StatementCounters
from tests.conftest import connected
from tests.matrix.answers import FOLDED, NAMES, play
from tests.matrix.conftest import Target, Variant

OTHER_APPLICATION = """SELECT (SELECT array_agg(username ORDER BY id) FROM public.users),
    (SELECT count(*) FROM public.ticks), (SELECT count(*) FROM public.schema_migration),
    (SELECT count(*) FROM public.leaderboard_counters), (SELECT count(*) FROM public.symbols)"""


def list_differences(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return found and expected result of each call whose results differ."""
    assert found.keys() == expected.keys()
    return {name: (found[name], result) for name, result in expected.items() if found[name] != result}


def test_results_are_those_of_a_plain_server(
    fresh_target: Target, plain_results: dict[str, Any], variant: Variant
) -> None:
    """Calls of `play` have the results of a plain server, except those that depend on the locale."""
    with open_service(fresh_target.settings) as service:
        found = list_differences(play(service), plain_results)
    if variant.locale:
        # lower() depends on the locale, so searches for these texts and the order by username may differ
        calls = ("search_users", "leaderboard of", "count of", "by name")
        folded = {f"{call} {text}" for call in calls for text in FOLDED} | {
            "leaderboard username",
            "leaderboard -username",
        }
        found = {name: results for name, results in found.items() if name not in folded}
    assert not found


def test_every_username_is_found_by_its_exact_spelling(plain_results: dict[str, Any]) -> None:
    """The search and the prefix filter of a leaderboard find each username by its exact spelling."""
    for name in NAMES:
        assert [user["username"] for user in plain_results[f"search_users {name}"]][:1] == [repr(name)]
        found = plain_results[f"leaderboard of {name}"]
        assert repr(name) in [entry["username"] for entry in found]
        assert plain_results[f"count of {name}"] == str(len(found))


def test_no_statement_depends_on_the_session_time_zone(
    make_target: Callable[[Variant], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call has the same result with the session time zone America/St_Johns as with UTC."""
    answers = []
    for settings in (PINNED, {name: value for name, value in PINNED.items() if name != "TimeZone"}):
        monkeypatch.setattr(session_settings, "PINNED", settings)
        target = make_target(Variant(has_odd_defaults=True))
        with open_service(target.settings) as service:
            with service._database.session("zone") as database:
                zone = database.execute_sql("SELECT current_setting('TimeZone')").fetchone()[0]
            assert zone == settings.get("TimeZone", "America/St_Johns")
            answers.append(play(service, ignores_zone=True))
    assert not list_differences(answers[1], answers[0])


def test_the_self_test_passes(service: EnhancedDatabaseService) -> None:
    """The self-test passes on this variant of server."""
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), [line for line in lines if "FAIL" in line]


def test_migrations_can_be_reverted_and_applied_again(fresh_target: Target, variant: Variant) -> None:
    """All migrations can be reverted and applied again, and no table of another application changes."""
    migrator = Migrator(fresh_target.settings)
    names = [row.name for row in migrator.status() if row.applied_at]
    assert migrator.down(names[0]) == names[::-1]
    assert not any(row.applied_at for row in migrator.status())
    assert migrator.up() == names
    assert migrator.up() == []
    if variant.has_own_schema:
        with connected(fresh_target.administrator_url) as execute:
            assert execute(OTHER_APPLICATION) == [(["alice", "Bob"], 0, 0, 0, 0)]


def test_a_statement_ends_at_the_time_limit(target: Target) -> None:
    """A statement over the time limit raises `QueryTimeout` and ends on the server."""
    settings = target.settings.model_copy(update={"database_query_timeout": 200})
    with open_service(settings) as service:
        for unit in (service._database.session, service._database.transaction_of):
            with pytest.raises(QueryTimeout), unit("slow") as database:
                database.execute_sql("SELECT pg_sleep(60) /* asleep */")
        running = """SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%asleep%%'
            AND datname = current_database() AND pid <> pg_backend_pid()"""
        with connected(target.administrator_url) as execute:
            assert execute(running) == [(0,)]
        assert service.search_users("nobody") == ()


def test_statements_of_all_threads_have_the_pinned_settings(service: EnhancedDatabaseService) -> None:
    """Statements of six threads run with the pinned settings, although a pooler changes their sessions."""
    found: set[tuple[Any, ...]] = set()
    query = """SELECT current_setting('TimeZone'), current_setting('transaction_isolation'),
        current_setting('statement_timeout'), (now() AT TIME ZONE 'UTC')::date = current_date,
        pg_typeof((SELECT max(id::text)::uuid FROM users))::text"""

    def read_settings() -> None:
        for _ in range(20):
            with service._database.session("test") as database:
                for _ in range(3):
                    found.add(database.execute_sql(query).fetchone())

    threads = [threading.Thread(target=read_settings) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {("UTC", "read committed", "30s", True, "uuid")}


def test_health_is_healthy(service: EnhancedDatabaseService) -> None:
    """The health check is healthy and finds no pending migration."""
    health = service.health()
    assert (health.status, health.migrations_pending) == ("healthy", 0)


def test_every_postgresql_collector_has_samples(target: Target) -> None:
    """Every PostgreSQL collector of the exporter has samples on this variant of server."""
    collectors = (
        lambda connection: postgres.collect_activity(connection, ["job"]),
        postgres.collect_transactions,
        postgres.collect_tables,
        postgres.collect_replication,
    )
    with contextlib.closing(
        BoundedConnector(target.settings, "collector", limit_seconds=5).open()
    ) as connection:
        for collect in collectors:
            assert list(collect(connection))
        list(StatementCounters(["search_users"]).collect(connection))
        users = next(row for row in server_statistics.list_tables(connection) if row.table == "users")
    assert users.size_bytes + users.index_size_bytes > 0
