"""E-mail addresses in clear are in no statement that a server keeps, whichever way rows are written."""

from collections.abc import Callable

import pytest

from core import open_service
from tests.addresses import list_found, write_every_way
from tests.conftest import connected
from tests.matrix.conftest import Place, Variant

FIND = """
    SELECT query FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid
    WHERE datname = current_database()"""


@pytest.mark.parametrize("variant", [Variant(is_debian=True), Variant(is_debian=True, has_own_schema=True)])
def test_statistics_of_statements_have_no_address(
    make_place: Callable[[Variant], Place], variant: Variant
) -> None:
    """Bulk loads use COPY, or send a document if the role may not create temporary tables."""
    place = make_place(variant)
    with open_service(place.settings) as service:
        write_every_way(service)
    with connected(place.administrator_url) as execute:
        execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        texts = [text for (text,) in execute(FIND)]
    assert any("op=load_users" in text for text in texts)
    assert list_found(str(texts)) == []
