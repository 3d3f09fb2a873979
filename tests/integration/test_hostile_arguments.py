"""Hostile values in every argument of every service call and in every field of every record.

A call returns or raises one of the stack's own errors, within seconds and with a short message. It raises
InvalidInput before it sends a statement, and a call that raises commits no row. New calls, parameters and
fields are tested automatically: the cases come from the table in `test_arguments.py` and from annotations.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple, get_args, get_type_hints
from uuid import UUID

import msgspec
import pandas as pd
import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import DatabaseUnavailable, EchoMarketsError, InvalidInput, QueryTimeout
from core.records import freeze
from core.testing import PostgresServer
from tests.conftest import KEYS, Execute, connected, created_database, read_row_versions
from tests.hostile_values import VALUES
from tests.integration.test_arguments import DAY, ID, NOON, VALID
from tests.integration.test_loading import build_record
from tests.patience import stretch

# Enough to scan a value of one megabyte twice.
MOST_SECONDS = 5.0
MOST_LETTERS = 500
# `close` would end the service, and an error that `on_progress` raises is the caller's own.
LEFT_OUT = {("close", "drain_seconds"), ("warm_cache", "on_progress")}
# These calls may query the database before they raise InvalidInput, because a username can be taken.
QUERY_BEFORE_REFUSAL = {"create_user", "update_user_profile"}
HINTS = {name: get_type_hints(getattr(EnhancedDatabaseService, name), localns={"pd": pd}) for name in VALID}


LIST_COMMITS = """
    SELECT count(*)
    FROM generate_series(%s::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1) AS n
    WHERE pg_xact_status(n::text::xid8) = 'committed'"""


class Game(NamedTuple):
    """A service, the list of statements that it has sent, and a separate connection to its database."""

    service: EnhancedDatabaseService
    sent: list[str]
    execute: Execute

    def find_next_transaction(self) -> int:
        """Return the id that the next writing transaction will have."""
        [[found]] = self.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        return int(found)

    def has_written(self, since: int) -> bool:
        """Return whether a transaction with this id or a later one has committed a row.

        Row versions are read too, because the server's own maintenance commits transactions without rows.
        """
        if not self.execute(LIST_COMMITS, (since,))[0][0]:
            return False
        newest = (newest for _, _, _, newest in read_row_versions(self.execute))
        return any(number is not None and number >= since for number in newest)


@pytest.fixture(scope="module")
def game(postgres_server: PostgresServer, template_database: str) -> Iterator[Game]:
    """Yield a service for the whole file, with a player who has a portfolio."""
    with created_database(postgres_server, template=template_database) as url:
        settings = Settings(
            database_url=SecretStr(url), encryption_keys=SecretStr(KEYS), enable_redis_cache=False
        )
        with open_service(settings) as service, connected(url) as execute:
            service.load_users([replace(build_record("load_users", ID), id=ID)])
            service.get_current_portfolio(ID, DAY)
            sent: list[str] = []
            watch = service._database._watch
            run = watch.run

            def record(raw: Any, limit: float, statement: Any, *arguments: Any) -> Any:
                sent.append(str(arguments[0])[:80])
                return run(raw, limit, statement, *arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(watch, "run", record)
                yield Game(service, sent, execute)


def find_records(hint: Any) -> set[type[msgspec.Struct]]:
    """Return the record types with at least one field in a type annotation."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {hint} if hint.__struct_fields__ else set()
    return set().union(*map(find_records, get_args(hint)))


def build_sample(hint: Any) -> Any:
    """Return a valid value for a type annotation."""
    plain = {str: "A", bool: False, int: 1, Decimal: Decimal(1), datetime: NOON, date: DAY, UUID: ID}
    kind = next((each for each in (hint, *get_args(hint)) if each in plain), None)
    if kind is not None and "tuple" not in str(hint) and "dict" not in str(hint):
        return plain[kind]
    return freeze({}) if "dict" in str(hint) else () if "tuple" in str(hint) else None


def build_base(name: str, kind: type[msgspec.Struct]) -> Any:
    """Return a valid record of this type for a call."""
    if name.startswith("load_"):
        return build_record(name, ID)
    hints = get_type_hints(kind)
    return kind(**{field: build_sample(hints[field]) for field in kind.__struct_fields__})


def find_faults(game: Game, name: str, cases: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Call a method with each case (its name and its arguments), and yield every fault found."""
    since = game.find_next_transaction()
    for case, arguments in cases:
        game.sent.clear()
        started = monotonic()
        refusal = call(game.service, name, arguments)
        seconds = monotonic() - started
        if seconds > stretch(MOST_SECONDS):
            yield f"{case}: {seconds:.1f} s"
        if refusal is not None:
            yield from (f"{case}: {fault}" for fault in find_faults_of_refusal(game, name, refusal, since))
        if game.sent:
            since = game.find_next_transaction()


def call(service: EnhancedDatabaseService, name: str, arguments: dict[str, Any]) -> Exception | None:
    """Call a method with these arguments, the rest valid, and return the exception raised, or None."""
    try:
        answer = getattr(service, name)(**{**VALID[name], **arguments})
        if isinstance(answer, AbstractContextManager):
            with answer:
                pass
        elif isinstance(answer, Iterator):
            list(islice(answer, 3))
    except Exception as error:
        return error
    return None


def find_faults_of_refusal(game: Game, name: str, error: Exception, since: int) -> Iterator[str]:
    """Yield the faults of a refusal: a foreign or long error, or a statement or commit before it."""
    is_known = isinstance(error, EchoMarketsError) and not isinstance(
        error, DatabaseUnavailable | QueryTimeout
    )
    if not is_known or len(str(error)) > MOST_LETTERS:
        yield f"{type(error).__name__} {str(error)[:200]}"
    if type(error) is InvalidInput and game.sent and name not in QUERY_BEFORE_REFUSAL:
        yield f"{len(game.sent)} statements before {str(error)[:200]}"
    if game.sent and game.has_written(since):
        yield f"a write was committed before {str(error)[:200]}"


def test_has_written_detects_a_committed_row(game: Game) -> None:
    """`has_written` is true after a call that stores a row and false after a call that only reads."""
    # an earlier test may have deleted the player of the fixture
    player = replace(build_record("load_users", ID), username="erin", email="erin@example.com")
    game.service.load_users([player])
    for name, is_write in (("get_user_by_id", False), ("update_leaderboard_entry", True)):
        since = game.find_next_transaction()
        game.sent.clear()
        assert call(game.service, name, {"user_id": player.id}) is None
        assert game.sent
        assert game.has_written(since) is is_write


@pytest.mark.parametrize("name", VALID)
def test_no_argument_leads_to_a_foreign_error(game: Game, name: str) -> None:
    """A call with one hostile argument and valid others returns, or raises one of the stack's own errors."""
    # another test may have loaded a completed quest, and a call would query it before the refusal
    game.execute("DELETE FROM quests")
    cases = (
        (f"{parameter}, value {place}", {parameter: value})
        for parameter in VALID[name]
        if (name, parameter) not in LEFT_OUT
        for place, value in enumerate(VALUES)
    )
    assert not list(find_faults(game, name, cases))


RECORDS = [
    (name, parameter, kind)
    for name, hints in HINTS.items()
    for parameter, hint in hints.items()
    if parameter in VALID[name]
    for kind in sorted(find_records(hint), key=str)
]


@pytest.mark.parametrize(("name", "parameter", "kind"), RECORDS)
def test_no_field_of_a_record_leads_to_a_foreign_error(
    game: Game, name: str, parameter: str, kind: type[msgspec.Struct]
) -> None:
    """A call with a record that has one hostile field returns, or raises one of the stack's own errors."""
    base = build_base(name, kind)
    is_list = any(word in str(HINTS[name][parameter]) for word in ("Iterable", "Sequence"))
    cases = (
        (f"{field}, value {place}", {parameter: [record] if is_list else record})
        for field in kind.__struct_fields__
        for place, value in enumerate(VALUES)
        for record in [replace(base, **{field: value})]
    )
    assert not list(find_faults(game, name, cases))
