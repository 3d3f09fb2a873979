"""The tables refuse the values that the service refuses, because other programs write without its checks."""

from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings
from core.errors import MigrationFailed
from core.installation import MIGRATIONS
from core.migration import Migrator
from core.records import User
from tests.conftest import Execute
from tests.integration.test_loading import DAY, build_record

ID = UUID(int=1)
AMOUNTS = ("starting_cash", "current_cash", "total_value", "day_change", "day_change_percent")
# For each bulk load, invalid values of its columns.
INVALID_VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "load_users": {"username": ("a\nb", "a\x1b[31m", "a\x9b31m", "a\u2028b")},
    "load_portfolios": dict.fromkeys(AMOUNTS, ("NaN",)),
    "load_quests": {
        "type": ("",),
        "title": ("",),
        "description": ("", "d" * 10_001),
        "reward_type": ("",),
        "target_value": ("NaN",),
        "current_progress": ("NaN",),
        "reward_value": ("NaN", "-1"),
    },
    "load_leaderboard_entries": {
        "category": ("", "a b", "a\n", "é", "=1+1", "[a](b)"),
        "score": ("NaN",),
    },
    "load_market_events": {
        "type": ("",),
        "title": ("",),
        "description": ("", "d" * 10_001),
        "affected_symbols": (["aapl"], ["A B"], ["A", ""], [None], ["A\n"], ["é"]),
        "impact_magnitude": ("NaN",),
    },
}


@pytest.mark.parametrize("name", INVALID_VALUES)
def test_tables_refuse_invalid_values(
    service: EnhancedDatabaseService, alice: User, execute: Execute, name: str
) -> None:
    """A check constraint refuses each invalid value in a row that is valid otherwise."""
    record = build_record(name, alice.id)
    getattr(service, name)([record])
    table = name.removeprefix("load_")
    for column, values in INVALID_VALUES[name].items():
        for value in values:
            with pytest.raises(psycopg2.errors.CheckViolation):
                execute(f"UPDATE {table} SET {column} = %s WHERE id = %s", (value, str(record.id)))


def test_the_migration_names_invalid_rows(
    empty_database_url: str, empty_execute: Execute, tmp_path: Path
) -> None:
    """The migration fails and names the invalid rows; after they are corrected, it succeeds."""
    settings = Settings(database_url=SecretStr(empty_database_url))
    for path in MIGRATIONS.glob("0*.py"):
        if path.name < "0023":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    Migrator(settings, directory=tmp_path).up()
    empty_execute("INSERT INTO users (id, username) VALUES (%s, 'alice')", (str(ID),))
    empty_execute(
        """INSERT INTO leaderboard_entries (id, user_id, session_date, category, score)
           VALUES (%s, %s, %s, 'a b', 1)""",
        (str(ID), str(ID), DAY),
    )
    before = empty_execute("SELECT name FROM schema_migration ORDER BY 1")
    with pytest.raises(
        MigrationFailed, match=rf"1 rows of leaderboard_entries .* id {ID}; correct them"
    ) as caught:
        Migrator(settings).up()
    statement = str(caught.value).partition("lists them: ")[2].rpartition("; `echo")[0]
    assert [str(row[0]) for row in empty_execute(statement)] == [str(ID)]
    assert empty_execute("SELECT name FROM schema_migration ORDER BY 1") == before
    empty_execute("UPDATE leaderboard_entries SET category = 'a_b'")
    assert "0023_stored_values" in Migrator(settings).up()
