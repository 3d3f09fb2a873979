"""The identity (role, user id, actor, request id) that PostgreSQL knows while it runs a statement."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from core import EnhancedDatabaseService, Settings, open_service
from core.database import Database
from core.database.identity import Identity, acting_as, find_identity
from core.errors import DatabaseError, TransactionMisused, UserNotFound
from core.records import User

READ = """SELECT current_user::text, nullif(current_setting('app.user_id', true), '')::uuid,
    nullif(current_setting('app.actor', true), ''), nullif(current_setting('app.request_id', true), '')"""
NOBODY = ("postgres", None, None, None)
READER = "pg_read_all_data"  # a predefined role that can read every table
USER_ID = UUID("018f0000-0000-7000-8000-00000000000a")
ALICE = Identity(role=READER, user_id=USER_ID, actor="alice", request_id="r1")
ALICE_ON_SERVER = (READER, USER_ID, "alice", "r1")
# Each part has a special meaning for the driver, the server or the log.
HOSTILE = "'; RESET ROLE; --\\ %s %(a)s $$ \" é💥\n/* session */ "


@pytest.fixture
def direct(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a cache and with one connection, which every unit of work uses."""
    changes = {"enable_redis_cache": False, "database_connection_limit": 1}
    with open_service(settings.model_copy(update=changes)) as service:
        yield service


def read_identity(database: Database) -> tuple[object, ...]:
    """Return role, user id, actor and request id as the server knows them in this unit of work."""
    found: tuple[object, ...] = database.execute_sql(READ).fetchone()
    return found


def read_new_unit(service: EnhancedDatabaseService) -> tuple[object, ...]:
    """Return the identity that the server knows in a new unit of work."""
    return service._database.read("hear", read_identity)


def test_units_of_work_have_the_identity_of_their_block(direct: EnhancedDatabaseService) -> None:
    """Units of work in an `acting_as` block have its identity, and the next unit of work has none."""
    assert read_new_unit(direct) == NOBODY
    with acting_as(ALICE):
        assert read_new_unit(direct) == ALICE_ON_SERVER
        with direct._database.transaction_of("ask") as database:
            assert read_identity(database) == ALICE_ON_SERVER
            assert read_identity(database) == ALICE_ON_SERVER
        with direct._database.transaction_of("ask") as database, database.cursor() as cursor:
            cursor.execute(READ)
            assert cursor.fetchone() == ALICE_ON_SERVER
        with direct._database.session("ask") as database, database.atomic("REPEATABLE READ"):
            assert read_identity(database) == ALICE_ON_SERVER
    assert read_new_unit(direct) == NOBODY
    assert find_identity() is None


def test_the_innermost_identity_applies(direct: EnhancedDatabaseService) -> None:
    """A nested `acting_as` block replaces the identity; the outer identity applies again after it."""
    with acting_as(ALICE):
        with acting_as(Identity(actor="bob")):
            assert read_new_unit(direct) == ("postgres", None, "bob", None)
        assert read_new_unit(direct) == ALICE_ON_SERVER


def test_an_error_or_lost_connection_ends_the_identity(direct: EnhancedDatabaseService) -> None:
    """After an SQL error or a lost connection the next unit of work does not have the earlier identity."""

    def fail(statement: str) -> None:
        with acting_as(ALICE), direct._database.transaction_of("fail") as database:
            database.execute_sql(statement)

    for statement in ("SELECT 1 / 0", "SELECT pg_terminate_backend(pg_backend_pid())"):
        with pytest.raises(Exception, match="fail"):
            fail(statement)
        assert read_new_unit(direct) == NOBODY
        with acting_as(ALICE):
            assert read_new_unit(direct) == ALICE_ON_SERVER


def test_a_retried_read_has_the_identity_again(direct: EnhancedDatabaseService) -> None:
    """If a read loses its connection, the second attempt has the same identity."""
    attempts: list[tuple[object, ...]] = []

    def lose(database: Database) -> None:
        attempts.append(read_identity(database))
        if len(attempts) == 1:
            pid = database.connection().info.backend_pid
            database.execute_sql("RESET ROLE; SELECT pg_terminate_backend(%s)", (pid,))

    with acting_as(ALICE):
        direct._database.read("lose", lose)
    assert attempts == [ALICE_ON_SERVER, ALICE_ON_SERVER]


def test_the_server_receives_an_identity_unchanged(direct: EnhancedDatabaseService) -> None:
    """An actor and a request id with SQL syntax, `%` or line breaks reach the server unchanged."""
    with acting_as(Identity(actor=HOSTILE, request_id="100%")):
        assert read_new_unit(direct) == ("postgres", None, HOSTILE, "100%")


def test_the_query_log_omits_the_identity(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """The query log contains the statement without the actor and the user id."""
    changed = settings.model_copy(update={"enable_redis_cache": False, "database_log_queries": "all"})
    with caplog.at_level(logging.INFO, "core.database.query_log"), open_service(changed) as service:
        with acting_as(Identity(actor=HOSTILE, user_id=USER_ID)):
            read_new_unit(service)
        texts = [vars(record)["fields"]["statement"] for record in caplog.records]
    # the first logged statement sets up the new connection
    assert texts[1:] == [" ".join(f"{READ} /* op=hear */".split())]


def test_a_transaction_refuses_calls_of_another_identity(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """A call with another identity than its transaction raises TransactionMisused and writes no row."""
    operator = Identity(actor="operator")
    with service.transaction(), acting_as(operator), pytest.raises(TransactionMisused, match="identity"):
        service.update_user_profile(alice.id, name="No")
    with acting_as(operator), service.transaction():
        service.update_user_profile(alice.id, name="Yes")
        with acting_as(Identity(actor="operator")):
            assert service.get_user_by_id(alice.id).name == "Yes"
        with acting_as(Identity()), pytest.raises(TransactionMisused, match="identity"):
            service.get_user_by_id(alice.id)
    assert service.get_user_by_id(alice.id).name == "Yes"


def test_threads_and_tasks_have_their_own_identity(direct: EnhancedDatabaseService) -> None:
    """A new thread begins without an identity; `asyncio.to_thread` passes on the identity of its task."""
    found = []
    with acting_as(ALICE):
        thread = threading.Thread(target=lambda: found.append(read_new_unit(direct)))
        thread.start()
        thread.join(10)

    async def read_as(identity: Identity) -> tuple[object, ...]:
        with acting_as(identity):
            return await asyncio.to_thread(read_new_unit, direct)

    async def read_as_both() -> list[tuple[object, ...]]:
        return [*await asyncio.gather(read_as(ALICE), read_as(Identity(actor="bob")))]

    assert found == [NOBODY]
    assert asyncio.run(read_as_both()) == [ALICE_ON_SERVER, ("postgres", None, "bob", None)]


def test_a_missing_role_fails_the_call(direct: EnhancedDatabaseService) -> None:
    """A call with a role that does not exist raises DatabaseError, and the next call works."""
    with acting_as(Identity(role="nobody")), pytest.raises(DatabaseError, match="hear"):
        read_new_unit(direct)
    with acting_as(ALICE), pytest.raises(UserNotFound):
        direct.get_user_by_id(USER_ID)
    assert read_new_unit(direct) == NOBODY
