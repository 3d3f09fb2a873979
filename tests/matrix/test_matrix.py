"""On every kind of server the service gives the answers of the plain one, and keeps its limits."""

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
from tests.matrix.conftest import Place, Variant

FOREIGN = """SELECT (SELECT array_agg(username ORDER BY id) FROM public.users),
    (SELECT count(*) FROM public.ticks), (SELECT count(*) FROM public.schema_migration),
    (SELECT count(*) FROM public.leaderboard_counters), (SELECT count(*) FROM public.symbols)"""


def list_differences(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return the answers that are not those expected, with those."""
    assert found.keys() == expected.keys()
    return {name: (found[name], answer) for name, answer in expected.items() if found[name] != answer}


def test_answers_are_those_of_the_plain_server(
    fresh_place: Place, direct_answers: dict[str, Any], variant: Variant
) -> None:
    """Writes, reads, bulk loads, history, events and rollbacks answer alike, call by call."""
    with open_service(fresh_place.settings) as service:
        found = list_differences(play(service), direct_answers)
    if variant.locale:
        # which letters have two cases, and so their order by lower(username), is the locale's business
        calls = ("search_users", "board of", "count of", "by name")
        folded = {f"{call} {text}" for call in calls for text in FOLDED} | {
            "board username",
            "board -username",
        }
        found = {name: answer for name, answer in found.items() if name not in folded}
    assert not found


def test_everybody_is_found_by_the_exact_name(direct_answers: dict[str, Any]) -> None:
    """Search boxes and leaderboards find a name in any alphabet."""
    for name in NAMES:
        assert [user["username"] for user in direct_answers[f"search_users {name}"]][:1] == [repr(name)]
        found = direct_answers[f"board of {name}"]
        assert repr(name) in [entry["username"] for entry in found]
        assert direct_answers[f"count of {name}"] == str(len(found))


def test_no_statement_depends_on_the_zone_of_the_session(
    make_place: Callable[[Variant], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the pinned time zone the same instants, days and returns are read."""
    answers = []
    for settings in (PINNED, {name: value for name, value in PINNED.items() if name != "TimeZone"}):
        monkeypatch.setattr(session_settings, "PINNED", settings)
        place = make_place(Variant(has_odd_defaults=True))
        with open_service(place.settings) as service:
            with service._database.session("zone") as database:
                zone = database.execute_sql("SELECT current_setting('TimeZone')").fetchone()[0]
            assert zone == settings.get("TimeZone", "America/St_Johns")
            answers.append(play(service, ignores_zone=True))
    assert not list_differences(answers[1], answers[0])


def test_the_self_test_passes(service: EnhancedDatabaseService) -> None:
    """Every public call works, and what the self-test created is removed."""
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), [line for line in lines if "FAIL" in line]


def test_migrations_go_down_and_up(fresh_place: Place, variant: Variant) -> None:
    """All migrations are reverted and applied, and no table of another application is touched."""
    migrator = Migrator(fresh_place.settings)
    names = [row.name for row in migrator.status() if row.applied_at]
    assert migrator.down(names[0]) == names[::-1]
    assert not any(row.applied_at for row in migrator.status())
    assert migrator.up() == names
    assert migrator.up() == []
    if variant.has_own_schema:
        with connected(fresh_place.administrator_url) as execute:
            assert execute(FOREIGN) == [(["alice", "Bob"], 0, 0, 0, 0)]


def test_a_statement_ends_at_the_timeout(place: Place) -> None:
    """Inside and outside transactions the statement ends on the server too, and the service goes on."""
    settings = place.settings.model_copy(update={"database_query_timeout": 200})
    with open_service(settings) as service:
        for unit in (service._database.session, service._database.transaction_of):
            with pytest.raises(QueryTimeout), unit("slow") as database:
                database.execute_sql("SELECT pg_sleep(60) /* asleep */")
        running = """SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%asleep%%'
            AND datname = current_database() AND pid <> pg_backend_pid()"""
        with connected(place.administrator_url) as execute:
            assert execute(running) == [(0,)]
        assert service.search_users("nobody") == ()


def test_statements_of_many_threads_have_their_settings(service: EnhancedDatabaseService) -> None:
    """A pooler may use another session for every statement, but each runs with its settings."""
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
    """The health check connects as the pool does, and is healthy."""
    health = service.health()
    assert (health.status, health.migrations_pending) == ("healthy", 0)


def test_every_collector_finds_something(place: Place) -> None:
    """The exporter's connection is opened and used like any other, and every collector has samples."""
    collectors = (
        lambda connection: postgres.collect_activity(connection, ["job"]),
        postgres.collect_transactions,
        postgres.collect_tables,
        postgres.collect_replication,
    )
    with contextlib.closing(
        BoundedConnector(place.settings, "collector", limit_seconds=5).open()
    ) as connection:
        for collect in collectors:
            assert list(collect(connection))
        list(StatementCounters(["search_users"]).collect(connection))
        users = next(row for row in server_statistics.list_tables(connection) if row.table == "users")
    assert users.size_bytes + users.index_size_bytes > 0
