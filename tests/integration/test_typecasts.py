"""The service converts uuid and jsonb columns to the same Python values as psycopg2's converters."""

import json
from uuid import UUID, uuid4

import pytest

from core import EnhancedDatabaseService

DOCUMENTS = [{}, {"a": [1, 2.5, None, "x"]}, [], {"large": 2**70}, "text", 5, None]


def fetch(service: EnhancedDatabaseService, statement: str, value: object) -> list[object]:
    """Return one row of a statement with one parameter."""
    with service._database.session("test") as database:
        return list(database.execute_sql(statement, (value,)).fetchone())


def test_a_uuid_column_gives_a_uuid(service: EnhancedDatabaseService) -> None:
    """A uuid column gives a `UUID`, also the lowest and the highest, and NULL gives None."""
    for given in (uuid4(), UUID(int=0), UUID(int=2**128 - 1)):
        assert fetch(service, "SELECT %s::uuid, NULL::uuid", str(given)) == [given, None]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_jsonb_column_gives_the_stored_document(service: EnhancedDatabaseService, document: object) -> None:
    """A jsonb column gives the stored document; a caller that modifies it does not change the next read."""
    [found] = fetch(service, "SELECT %s::jsonb", json.dumps(document))
    assert found == document
    if isinstance(found, dict):
        found["more"] = 1
        assert fetch(service, "SELECT %s::jsonb", json.dumps(document)) == [document]
