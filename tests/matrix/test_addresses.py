"""No e-mail address in plaintext is in the statements that pg_stat_statements keeps."""

from collections.abc import Callable

import pytest

from core import open_service
from tests.addresses import list_address_parts, write_with_every_call
from tests.conftest import connected
from tests.matrix.conftest import Target, Variant

FIND = """
    SELECT query FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid
    WHERE datname = current_database()"""


@pytest.mark.parametrize("variant", [Variant(is_debian=True), Variant(is_debian=True, has_own_schema=True)])
def test_statistics_of_statements_have_no_address(
    make_target: Callable[[Variant], Target], variant: Variant
) -> None:
    """The statements of COPY, and of JSON documents for roles without temporary tables, have no address."""
    target = make_target(variant)
    with open_service(target.settings) as service:
        write_with_every_call(service)
    with connected(target.administrator_url) as execute:
        execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        texts = [text for (text,) in execute(FIND)]
    assert any("op=load_users" in text for text in texts)
    assert list_address_parts(str(texts)) == []
