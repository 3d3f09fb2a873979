"""The query log: which statements it logs, and that it never logs a parameter value."""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from psycopg2.extensions import cursor

from core import EnhancedDatabaseService, Settings, open_service
from core.database.query_log import QueryLog, shorten
from core.errors import EchoMarketsError
from core.records import Tick
from tests.conftest import Execute

LOGGER = "core.database.query_log"
NAME = "alice-in-the-log"


@contextmanager
def open_uncached_service(settings: Settings, **changes: Any) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a cache, with changed settings of the query log."""
    with open_service(settings.model_copy(update={"enable_redis_cache": False, **changes})) as service:
        yield service


def read_fields(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of every logged statement."""
    return [vars(record)["fields"] for record in caplog.records if record.name == LOGGER]


def test_all_logs_operation_duration_rows_and_placeholders(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """In mode `all` a statement is logged with its operation and placeholders, without parameter values."""
    with (
        caplog.at_level(logging.INFO, LOGGER),
        open_uncached_service(settings, database_log_queries="all") as service,
    ):
        service.create_user(username=NAME)
        service.get_user_by_username(NAME)
    fields = read_fields(caplog)
    read = next(item for item in fields if item["operation"] == "get_user_by_username")
    assert read["rows"] == 1
    assert read["duration_ms"] > 0
    assert "%s" in read["statement"]
    assert any(item["operation"] == "create_user" for item in fields)
    assert not any(NAME in str(item) for item in fields)


def test_a_bulk_load_is_logged_without_its_rows(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """COPY does not go through `execute`; it is logged with its row count and without its rows."""
    tick = Tick(symbol="AAPL", timestamp=datetime(2013, 3, 1, 21, tzinfo=UTC), price=Decimal("430.47"))
    with (
        caplog.at_level(logging.INFO, LOGGER),
        open_uncached_service(settings, database_log_queries="all") as service,
    ):
        service.load_market_ticks([tick])
    copied = [item for item in read_fields(caplog) if item["statement"].startswith("COPY")]
    assert [(item["operation"], item["rows"]) for item in copied] == [("load_market_ticks", 1)]
    assert not any("430.47" in str(item) for item in read_fields(caplog))


def test_slow_logs_only_slow_statements(
    settings: Settings, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    """In mode `slow` only a statement slower than the limit is logged: here an INSERT with a slow trigger."""
    with (
        caplog.at_level(logging.INFO, LOGGER),
        open_uncached_service(settings, database_slow_query=60_000) as service,
    ):
        service.create_user(username=NAME)
    assert read_fields(caplog) == []
    with (
        caplog.at_level(logging.INFO, LOGGER),
        open_uncached_service(settings, database_slow_query=1) as service,
    ):
        execute(
            "CREATE OR REPLACE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END'"
        )
        execute("CREATE TRIGGER wait BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION wait()")
        service.create_user(username="bob")
    slow = [item for item in read_fields(caplog) if item["statement"].startswith(("INSERT", "BEGIN; INSERT"))]
    assert [(item["operation"], item["rows"]) for item in slow] == [("create_user", 1)]
    assert slow[0]["duration_ms"] >= 10


@pytest.mark.parametrize("mode", ["slow", "all"])
def test_a_plain_log_format_shows_slow_statements(settings: Settings, mode: str) -> None:
    """In the format of `logging.basicConfig()` the line has operation, duration and outcome, and no value."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with open_uncached_service(settings, database_log_queries=mode, database_slow_query=1) as service:
            service.create_user(username=NAME)
            with service._database.session("get_report") as database:
                database.execute_sql("SELECT pg_sleep(0.01), %s", (NAME,))
            with pytest.raises(EchoMarketsError), service._database.session("get_report") as database:
                database.execute_sql("SELECT 1 / (count(*) - 1), %s FROM pg_sleep(0.01)", (NAME,))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    lines = [line for line in output.getvalue().splitlines() if line.startswith(f"WARNING:{LOGGER}:")]
    shown = [re.sub(r"[0-9.]+ ms", "N ms", line) for line in lines]
    assert f"WARNING:{LOGGER}:slow statement: get_report took N ms (rows 1)" in shown
    assert f"WARNING:{LOGGER}:slow statement: get_report took N ms (error 22012)" in shown
    assert NAME not in output.getvalue()


def test_off_logs_nothing_and_keeps_the_cursor_class(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """In mode `off` nothing is logged, and the driver's cursor class is used unchanged at no cost."""
    base = QueryLog("off", slow_seconds=0.0, find_operation=str)
    assert base.extend(cursor) is cursor
    changes = {"database_log_queries": "off", "database_slow_query": 1}
    with caplog.at_level(logging.INFO, LOGGER), open_uncached_service(settings, **changes) as service:
        service.create_user(username=NAME)
    assert read_fields(caplog) == []


def test_an_error_is_logged_as_its_sqlstate(
    settings: Settings, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    """Log and exception have the SQLSTATE but not the server's message, because it contains the value."""
    execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NEW.username::int::text::users; END'"
    )
    execute("CREATE TRIGGER refuse BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION refuse()")
    with (
        caplog.at_level(logging.DEBUG),
        open_uncached_service(settings, database_log_queries="all") as service,
        pytest.raises(EchoMarketsError) as caught,
    ):
        service.create_user(username=NAME)
    failed = [item for item in read_fields(caplog) if "error" in item]
    assert [item["error"] for item in failed] == ["22P02"]
    assert NAME not in str(failed)
    assert "22P02" in str(caught.value)
    assert NAME not in str(caught.value)


def test_a_long_statement_is_shortened() -> None:
    """A statement is logged on one line of at most 1,000 characters; bytes are not logged at all."""
    assert shorten("SELECT  1,\n  2") == "SELECT 1, 2"
    assert len(shorten("x" * 5_000)) == 1_001
    assert shorten(b"INSERT 'alice'") == "(bytes)"
