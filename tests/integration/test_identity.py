"""On whose behalf statements run: what the server hears, for how long, and in which messages."""

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
READER = "pg_read_all_data"  # a role that every server has, and that sees every table
USER_ID = UUID("018f0000-0000-7000-8000-00000000000a")
ALICE = Identity(role=READER, user_id=USER_ID, actor="alice", request_id="r1")
HEARD = (READER, USER_ID, "alice", "r1")
# A driver, a server or a log could take each of these for something else.
HOSTILE = "'; RESET ROLE; --\\ %s %(a)s $$ \" é💥\n/* session */ "


@pytest.fixture
def direct(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """A service without a cache and with one connection, which every unit of work shares."""
    changes = {"enable_redis_cache": False, "database_connection_limit": 1}
    with open_service(settings.model_copy(update=changes)) as service:
        yield service


def read(database: Database) -> tuple[object, ...]:
    """Return what the server heard."""
    found: tuple[object, ...] = database.execute_sql(READ).fetchone()
    return found


def heard(service: EnhancedDatabaseService) -> tuple[object, ...]:
    """Return what the server hears of a unit of work that begins now."""
    return service._database.read("hear", read)


def test_each_unit_of_work_has_the_identity_of_its_block(direct: EnhancedDatabaseService) -> None:
    """This holds for a statement, a transaction and a COPY; the next unit of work has none."""
    assert heard(direct) == NOBODY
    with acting_as(ALICE):
        assert heard(direct) == HEARD
        with direct._database.transaction_of("ask") as database:
            assert read(database) == HEARD
            assert read(database) == HEARD
        with direct._database.transaction_of("ask") as database, database.cursor() as cursor:
            cursor.execute(READ)
            assert cursor.fetchone() == HEARD
        with direct._database.session("ask") as database, database.atomic("REPEATABLE READ"):
            assert read(database) == HEARD
    assert heard(direct) == NOBODY
    assert find_identity() is None


def test_the_innermost_block_counts(direct: EnhancedDatabaseService) -> None:
    """After it ends, the outer block counts again."""
    with acting_as(ALICE):
        with acting_as(Identity(actor="bob")):
            assert heard(direct) == ("postgres", None, "bob", None)
        assert heard(direct) == HEARD


def test_it_ends_with_an_error_or_a_lost_connection(direct: EnhancedDatabaseService) -> None:
    """However a unit of work ends, its connection keeps nothing of the identity."""

    def fail(statement: str) -> None:
        with acting_as(ALICE), direct._database.transaction_of("fail") as database:
            database.execute_sql(statement)

    for statement in ("SELECT 1 / 0", "SELECT pg_terminate_backend(pg_backend_pid())"):
        with pytest.raises(Exception, match="fail"):
            fail(statement)
        assert heard(direct) == NOBODY
        with acting_as(ALICE):
            assert heard(direct) == HEARD


def test_a_read_that_is_repeated_has_it_again(direct: EnhancedDatabaseService) -> None:
    """The first attempt loses its connection."""
    attempts: list[tuple[object, ...]] = []

    def lose(database: Database) -> None:
        attempts.append(read(database))
        if len(attempts) == 1:
            pid = database.connection().info.backend_pid
            database.execute_sql("RESET ROLE; SELECT pg_terminate_backend(%s)", (pid,))

    with acting_as(ALICE):
        direct._database.read("lose", lose)
    assert attempts == [HEARD, HEARD]


def test_a_text_is_heard_as_it_was_given(direct: EnhancedDatabaseService) -> None:
    """Any text is sent as a value."""
    with acting_as(Identity(actor=HOSTILE, request_id="100%")):
        assert heard(direct) == ("postgres", None, HOSTILE, "100%")


def test_the_log_leaves_it_out(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """The logged text of a statement is the same for every identity."""
    changed = settings.model_copy(update={"enable_redis_cache": False, "database_log_queries": "all"})
    with caplog.at_level(logging.INFO, "core.database.query_log"), open_service(changed) as service:
        with acting_as(Identity(actor=HOSTILE, user_id=USER_ID)):
            heard(service)
        texts = [vars(record)["fields"]["statement"] for record in caplog.records]
    # the first is that of a new connection
    assert texts[1:] == [" ".join(f"{READ} /* op=hear */".split())]


def test_a_call_of_another_identity_is_no_part_of_a_transaction(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """It is refused with and without an identity on either side, and writes nothing."""
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


def test_threads_and_tasks_have_their_own(direct: EnhancedDatabaseService) -> None:
    """A thread begins without one, a call of `asyncio.to_thread` with that of its task."""
    found = []
    with acting_as(ALICE):
        thread = threading.Thread(target=lambda: found.append(heard(direct)))
        thread.start()
        thread.join(10)

    async def ask(identity: Identity) -> tuple[object, ...]:
        with acting_as(identity):
            return await asyncio.to_thread(heard, direct)

    async def ask_both() -> list[tuple[object, ...]]:
        return [*await asyncio.gather(ask(ALICE), ask(Identity(actor="bob")))]

    assert found == [NOBODY]
    assert asyncio.run(ask_both()) == [HEARD, ("postgres", None, "bob", None)]


def test_a_role_that_is_missing_is_named(direct: EnhancedDatabaseService) -> None:
    """The call fails, and the next one works."""
    with acting_as(Identity(role="nobody")), pytest.raises(DatabaseError, match="hear"):
        heard(direct)
    with acting_as(ALICE), pytest.raises(UserNotFound):
        direct.get_user_by_id(USER_ID)
    assert heard(direct) == NOBODY
