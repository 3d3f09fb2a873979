"""Tables, records, checks of bulk loads and docs/service.md agree with each other."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from peewee import Model

from core import EnhancedDatabaseService, models, records
from core.queries import loads
from core.records import Record
from core.service import record_checks
from core.service.record_checks import RecordChecks

# Reads about the server itself; their results differ from server to server.
SERVER_READS = {"list_slowest_statements", "list_unused_indexes"}
READS = re.compile(r"(count|find|get|list|search|stream)_")
# Fields of a record that come from another table.
JOINED = {"LeaderboardEntry": {"username"}, "AuditEvent": {"finished_at"}}
# Columns that the service uses but does not return.
INTERNAL = {"AuditEvent": {"start_id", "transaction_id"}, "User": {"email_index"}}


@pytest.mark.parametrize("model", models.ALL_MODELS, ids=lambda model: str(model.__name__))
def test_a_record_has_the_columns_of_its_table(model: type[Model]) -> None:
    """The fields of a record are the columns of its table, plus joined fields and minus internal columns."""
    record: type[Record] | None = getattr(records, model.__name__, None)
    if record is None:
        # the service returns no rows of these tables
        counters = {models.LeaderboardCounter, models.QuestCounter}
        assert model in {*counters, models.Symbol, models.AuditSeal, models.AuditRetention}
        return
    fields = {field.name for field in msgspec.structs.fields(record)} - JOINED.get(model.__name__, set())
    columns = {field.column_name for field in model._meta.sorted_fields}
    assert fields == columns - INTERNAL.get(model.__name__, set())


@pytest.mark.parametrize("target", [t for t in vars(loads).values() if isinstance(t, loads.Target)])
def test_every_loaded_column_is_checked(target: loads.Target) -> None:
    """Each column of a bulk load has a check of its values, unless the database derives it."""
    checks: dict[str, RecordChecks[Any]] = {
        name.lower(): value for name, value in vars(record_checks).items() if isinstance(value, RecordChecks)
    }
    assert set(target.columns) - set(target.derived) == set(checks[target.table].columns)


def test_the_document_lists_each_call_under_its_module(repository: Path) -> None:
    """docs/service.md lists each public call in the row of the module of core/service that defines it."""
    document = (repository / "docs/service.md").read_text(encoding="utf-8")
    for area, calls in re.findall(r"^\| ([a-z_]+) \| (`.*`) \|$", document, re.MULTILINE):
        for call in re.findall(r"`(\w+)`", calls):
            module = getattr(EnhancedDatabaseService, call).__module__.rpartition(".")[2]
            assert module == {"service": module if module == "writes" else "service"}.get(area, area), call


def test_every_read_is_compared_between_servers(repository: Path) -> None:
    """tests/matrix/answers.py calls each public read, to compare the results of different servers."""
    played = (repository / "tests/matrix/answers.py").read_text(encoding="utf-8")
    reads = {name for name in dir(EnhancedDatabaseService) if READS.match(name)} - SERVER_READS
    assert reads - set(re.findall(r"\bservice\.(\w+)", played)) == set()
