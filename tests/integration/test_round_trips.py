"""Every bulk load and every single write stores every text and JSON document unchanged."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from operator import attrgetter
from typing import Any, get_type_hints
from uuid import UUID

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import UserNotFound
from core.models import SYMBOL_PATTERN
from core.queries import loads
from core.records import (
    QUEST_STATUSES,
    SENTIMENTS,
    TRADE_SIDES,
    LeaderboardEntry,
    LeaderboardUpdate,
    User,
    freeze,
)
from core.service.writes import new_id
from core.testing import PostgresServer
from tests.conftest import KEYS as KEYS_OF_TESTS
from tests.conftest import Execute, administered, connected, created_database
from tests.integration.test_loading import DAY, TABLES, build_record

EXAMPLES = settings(
    max_examples=20, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Texts that COPY, CSV, JSON, arrays, SQL or terminals give a meaning to.
SPECIAL_TEXTS = (
    "é💥", "a\nb", "a\r\nb", "a\tb", "\\", "\\N", "\\.", "\\n", '"', '""', "'", "{}", "{a,b}", "NULL", "null",
    ",", "%s", "%(a)s", "\x7f", "\x1b[31m", "\u2028", "\u202e", "\u200b", "\ufeff", "\U0010ffff", " ", "=1+1",
    "<b>",
)  # fmt: skip  # keep several texts on a line
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")


def texts(max_length: int) -> st.SearchStrategy[str]:
    """Return a strategy for texts of 1 to `max_length` characters, many of them special."""
    special = st.lists(st.sampled_from(SPECIAL_TEXTS), min_size=1, max_size=9).map("".join)
    return (special | st.text(CHARACTERS, min_size=1, max_size=max_length)).map(
        lambda text: text[:max_length]
    )


KEYS = st.just("") | texts(50)
PLAIN = (
    KEYS | st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from((0.1, -2.5, 1e-300))
)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        PLAIN,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
SYMBOLS = st.from_regex(SYMBOL_PATTERN.removesuffix("$") + r"\Z")
# Composed of printable characters, because a filter of `texts` would discard most examples.
USERNAMES = (
    (
        st.lists(
            st.sampled_from([text for text in SPECIAL_TEXTS if text.isprintable()]), min_size=1, max_size=9
        )
        | st.lists(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1)
    )
    .map(lambda parts: "".join(parts)[:50].strip())
    .filter(bool)
)

# For each bulk load, the valid values of each field with a text or a document.
FIELD_VALUES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "load_users": {
        "username": USERNAMES,
        "name": st.none() | texts(200),
        "email": st.none() | st.sampled_from(("alice@example.com", "é💥\\@b", '"a"@b{},')),
        "preferences": DOCUMENTS,
    },
    "load_market_ticks": {"symbol": SYMBOLS},
    "load_portfolios": {},
    "load_positions": {"symbol": SYMBOLS},
    "load_trades": {"symbol": SYMBOLS, "side": st.sampled_from(TRADE_SIDES)},
    "load_leaderboard_entries": {
        "category": st.from_regex(r"\A[A-Za-z0-9_.-]{1,50}\Z"),
        "metadata": DOCUMENTS,
    },
    "load_quests": {
        "type": texts(50),
        "title": texts(200),
        "description": st.none() | texts(10_000),
        "status": st.sampled_from(QUEST_STATUSES),
        "reward_type": st.none() | texts(50),
    },
    "load_market_events": {
        "type": texts(50),
        "title": texts(200),
        "description": st.none() | texts(10_000),
        "affected_symbols": st.lists(SYMBOLS, max_size=4, unique=True).map(tuple),
        "sentiment": st.sampled_from(SENTIMENTS),
    },
}


def list_unencrypted(fields: Iterable[str]) -> list[str]:
    """Return the fields without the e-mail address, whose column is encrypted."""
    return [field for field in fields if field != "email"]


def test_every_text_field_is_tested() -> None:
    """FIELD_VALUES has every text field of every load, except an entry's username, which is not loaded."""
    for name, fields in FIELD_VALUES.items():
        kind = type(build_record(name, uuid.UUID(int=1)))
        hints = get_type_hints(kind).items()
        found = {field for field, hint in hints if "str" in str(hint)}
        assert found - set(fields) == ({"username"} if name == "load_leaderboard_entries" else set()), name
    assert set(FIELD_VALUES) == set(TABLES)


@contextmanager
def open_uncached_service(url: str) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a cache, so that each read comes from the tables."""
    settings = Settings(
        database_url=SecretStr(url), encryption_keys=SecretStr(KEYS_OF_TESTS), enable_redis_cache=False
    )
    with open_service(settings) as service:
        yield service


@pytest.fixture(scope="module", params=["staged", "as a document"])
def loader(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, template_database: str
) -> Iterator[tuple[EnhancedDatabaseService, Execute]]:
    """Yield a service with or without the permission to create temporary tables, and direct SQL access."""
    with created_database(postgres_server, template=template_database) as url, connected(url) as execute:
        if request.param == "staged":
            with open_uncached_service(url) as service:
                yield service, execute
            return
        role, name = f"loader_{uuid.uuid4().hex}", url.rpartition("/")[2]
        execute(f"CREATE ROLE {role} LOGIN PASSWORD 'loader'")
        execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
        execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        try:
            with open_uncached_service(
                f"postgresql://{role}:loader@127.0.0.1:{postgres_server.port}/{name}"
            ) as service:
                yield service, execute
        finally:
            execute(f"DROP OWNED BY {role}")
            with administered(postgres_server) as administer:
                administer(f"DROP ROLE {role}")


TARGETS = {
    "load_users": loads.USERS,
    "load_market_ticks": loads.TICKS,
    "load_positions": loads.POSITIONS,
    "load_trades": loads.TRADES,
    "load_leaderboard_entries": loads.LEADERBOARD_ENTRIES,
    "load_quests": loads.QUESTS,
    "load_market_events": loads.MARKET_EVENTS,
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_load_stores_texts_unchanged(loader: tuple[EnhancedDatabaseService, Execute], name: str) -> None:
    """Rows that are read without the service have every text and document of the loaded records."""
    service, execute = loader
    user_id = service.load_users([replace(build_record("load_users", new_id()), username="owner")])["owner"]
    service.load_portfolios([build_record("load_portfolios", user_id)])
    fields, target = FIELD_VALUES[name], TARGETS[name]
    columns = list_unencrypted(fields)
    where = " AND ".join(f"{column} = %s" for column in target.key)

    @EXAMPLES
    @given(st.lists(st.fixed_dictionaries(fields), min_size=1, max_size=5))
    def load_and_compare(rows: list[dict[str, Any]]) -> None:
        records = [replace(build_record(name, user_id), **freeze(row)) for row in rows]
        getattr(service, name)(records)
        for record in {attrgetter(*target.key)(record): record for record in records}.values():
            [stored] = execute(
                f"SELECT {', '.join(columns)} FROM {target.table} WHERE {where}",
                [str(getattr(record, column)) for column in target.key],
            )
            assert freeze(stored) == tuple(getattr(record, column) for column in columns)
            if "email" in fields:
                assert service.get_user_by_username(record.username).email == record.email

    load_and_compare()


@EXAMPLES
@given(st.lists(st.lists(texts(20), max_size=4).map(tuple), min_size=1, max_size=5))
def test_an_array_holds_any_text(database_url: str, arrays: list[tuple[str, ...]]) -> None:
    """COPY stores any text in an array, also one that needs quotes."""
    with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE arrays (place int, texts text[])")
        cursor.copy_expert("COPY arrays FROM STDIN", loads.encode_rows([range(len(arrays)), arrays]))
        cursor.execute("SELECT texts FROM arrays ORDER BY place")
        assert [tuple(row) for (row,) in cursor.fetchall()] == arrays
        connection.rollback()


# -- single writes ----------------------------------------------------------------------

USER_FIELDS, EVENT_FIELDS = FIELD_VALUES["load_users"], FIELD_VALUES["load_market_events"]
QUEST_FIELDS = {field: values for field, values in FIELD_VALUES["load_quests"].items() if field != "status"}


def create_user(service: EnhancedDatabaseService, _: UUID, row: dict[str, Any]) -> User:
    """Create a user; first delete a user of the same name, which an earlier example may have created."""
    with suppress(UserNotFound):
        service.delete_user(service.get_user_by_username(row["username"]).id)
    return service.create_user(**row)


def update_entry(service: EnhancedDatabaseService, _: UUID, row: dict[str, Any]) -> LeaderboardEntry:
    """Write an entry of a new user: an existing entry would keep its metadata if none is given."""
    user_id = service.create_user(username=new_id().hex).id
    service.batch_update_leaderboard("c", [LeaderboardUpdate(user_id, Decimal(1), row["metadata"])], DAY)
    return service.get_user_rank(user_id, "c", DAY)


WRITES: dict[str, tuple[dict[str, st.SearchStrategy[Any]], Callable[[Any, UUID, dict[str, Any]], Any]]] = {
    "create_user": (USER_FIELDS, create_user),
    "batch_update_leaderboard": ({"metadata": DOCUMENTS}, update_entry),
    "create_market_event": (EVENT_FIELDS, lambda s, _, row: s.create_market_event(**row)),
    "create_quest": (QUEST_FIELDS, lambda s, user_id, row: s.create_quest(user_id, target_value=1, **row)),
    "update_user_profile": (USER_FIELDS, lambda s, user_id, row: s.update_user_profile(user_id, **row)),
    "update_leaderboard_entry": (
        {"metadata": DOCUMENTS},
        lambda s, user_id, row: s.update_leaderboard_entry(user_id, "c", 1, DAY, **row),
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_single_write_stores_texts_unchanged(
    service: EnhancedDatabaseService, alice: User, execute: Execute, name: str
) -> None:
    """The returned record and the stored row have every text and document unchanged."""
    fields, write = WRITES[name]
    columns = list_unencrypted(fields)
    table = {"create_market_event": "market_events", "create_quest": "quests"}.get(
        name, "users" if "user" in name else "leaderboard_entries"
    )

    @EXAMPLES
    @given(st.fixed_dictionaries(fields))
    def write_and_compare(row: dict[str, Any]) -> None:
        written = write(service, alice.id, row)
        [stored] = execute(f"SELECT {', '.join(columns)} FROM {table} WHERE id = %s", (str(written.id),))
        assert freeze(stored) == tuple(getattr(written, column) for column in columns)
        assert {field: getattr(written, field) for field in fields} == freeze(row)

    write_and_compare()
