"""The counters of quests equal a recount under concurrent writes, rollbacks and folds (merges of rows)."""

import io
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import psycopg2
import pytest
from psycopg2 import IntegrityError
from psycopg2.extensions import (
    ISOLATION_LEVEL_READ_COMMITTED,
    ISOLATION_LEVEL_REPEATABLE_READ,
    TransactionRollbackError,
)

from core import EnhancedDatabaseService, Settings
from core.migration import Migrator
from core.records import Quest
from tests.conftest import STATEMENT_TIMEOUT, Execute
from tests.integration.test_quest_reports import build_quest

NOW = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)
COUNTERS = """
    SELECT ended_on, type, reward_type, status, sum(quests), sum(started), sum(halfway), sum(rewards)
    FROM quest_counters GROUP BY 1, 2, 3, 4
    HAVING (sum(quests), sum(started), sum(halfway), sum(rewards)) <> (0, 0, 0, 0) ORDER BY 1, 2, 3, 4"""
RECOUNT = """
    SELECT CASE status WHEN 'COMPLETED' THEN (completed_at AT TIME ZONE 'UTC')::date
           ELSE ((expires_at - interval '1 microsecond') AT TIME ZONE 'UTC')::date END,
           type, reward_type, status, count(*),
           count(CASE WHEN status = 'COMPLETED' OR current_progress > 0 THEN 1 END),
           count(CASE WHEN status = 'COMPLETED' OR current_progress / target_value >= 0.5 THEN 1 END),
           COALESCE(sum(reward_value), 0)
    FROM quests GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""

# one statement, so that counters and recount read the same snapshot
DIFFERENCE = f"""
    (SELECT c::text FROM ({COUNTERS}) AS c EXCEPT ALL SELECT q::text FROM ({RECOUNT}) AS q)
    UNION ALL (SELECT q::text FROM ({RECOUNT}) AS q EXCEPT ALL SELECT c::text FROM ({COUNTERS}) AS c)"""


def assert_counted(execute: Execute) -> None:
    """Assert that the counters equal a recount of the quests."""
    assert execute(COUNTERS) == execute(RECOUNT)


@pytest.fixture
def quests(service: EnhancedDatabaseService) -> list[Quest]:
    """Store and return forty quests of four players: some ended, some running, some without a deadline."""
    players = [service.create_user(username=f"player{n}") for n in range(4)]
    quests = []
    for n in range(40):
        created_at = NOW - timedelta(days=n)
        end = created_at + timedelta(days=(1, 7, 30)[n % 3]) if n % 5 else None
        is_completed = n % 7 == 0
        quests.append(
            build_quest(
                players[n % 4].id,
                created_at,
                end,
                progress=10 if is_completed else n % 10,
                status="COMPLETED" if is_completed else "ACTIVE",
                completed_at=created_at + timedelta(hours=1) if n % 14 == 0 else None,
            )
        )
    service.load_quests(quests)
    return quests


def test_every_kind_of_write_is_counted(
    service: EnhancedDatabaseService, quests: list[Quest], execute: Execute, database_url: str
) -> None:
    """Loads, progress, completion, expiry, COPY, updates, deleted users and TRUNCATE change the counters."""
    assert_counted(execute)
    # the same quests again, five new ones, and one that ended months ago
    late = build_quest(quests[0].user_id, NOW - timedelta(days=200), NOW - timedelta(days=190), progress=6)
    changed = [build_quest(q.user_id, q.created_at, q.expires_at, progress=1) for q in quests[:5]]
    service.load_quests([*quests, *changed, late])
    assert_counted(execute)
    alice = service.create_user(username="alice")
    for target in (Decimal(4), Decimal(8)):
        running = service.create_quest(alice.id, type="NEW", title="Trade", target_value=target)
        for progress in (1, 3, 4):
            service.update_quest_progress(running.id, Decimal(progress))
            assert_counted(execute)
    service.expire_quests()
    assert_counted(execute)
    with psycopg2.connect(database_url, options=STATEMENT_TIMEOUT) as other, other.cursor() as cursor:
        rows = "".join(f"{uuid.uuid4()}\t{alice.id}\tCOPIED\tt\t1\n" for _ in range(3))
        cursor.copy_from(
            io.StringIO(rows), "quests", columns=("id", "user_id", "type", "title", "target_value")
        )
        other.commit()
    assert_counted(execute)
    execute("UPDATE quests SET type = 'MOVED', reward_type = NULL, reward_value = 3 WHERE type = 'COPIED'")
    execute("UPDATE quests SET expires_at = expires_at + interval '3 days' WHERE status = 'EXPIRED'")
    assert_counted(execute)
    service.delete_user(quests[1].user_id)
    assert_counted(execute)
    execute("TRUNCATE quests")
    assert execute("SELECT count(*) FROM quest_counters") == [(0,)]


def test_folding_leaves_one_row_for_each_group(quests: list[Quest], execute: Execute) -> None:
    """After a fold each group has one row and an empty group has none; a second fold changes nothing."""
    execute("UPDATE quests SET type = 'OTHER' WHERE id = ANY(%s::uuid[])", ([q.id for q in quests[:10]],))
    execute("UPDATE quests SET current_progress = current_progress + 1 WHERE status = 'ACTIVE'")
    execute("DELETE FROM quests WHERE type = 'OTHER'")
    execute("SELECT quest_fold()")
    assert_counted(execute)
    rows = "SELECT count(*) FROM quest_counters"
    assert execute(rows) == execute(f"SELECT count(*) FROM ({RECOUNT}) AS groups")
    before = execute("SELECT ctid FROM quest_counters ORDER BY ctid")
    execute("SELECT quest_fold()")
    assert execute("SELECT ctid FROM quest_counters ORDER BY ctid") == before


def test_writers_and_folds_do_not_block_a_fold(
    quests: list[Quest], execute: Execute, database_url: str
) -> None:
    """Two writers and a fold in open transactions block no other fold; the counters are exact afterwards."""
    first, second, folding = (psycopg2.connect(database_url, options=STATEMENT_TIMEOUT) for _ in range(3))
    move = "UPDATE quests SET current_progress = current_progress + 5 WHERE id = %s AND status = 'ACTIVE'"
    try:
        for other, quest in ((first, quests[1]), (second, quests[2])):
            other.cursor().execute(move, (str(quest.id),))
        folding.cursor().execute("SELECT quest_fold()")
        # this fold does nothing, because the open transaction of the other fold holds the advisory lock
        execute("SELECT quest_fold()")
        assert_counted(execute)
        first.commit()
        second.rollback()
        assert_counted(execute)
        folding.commit()
        assert_counted(execute)
    finally:
        for other in (first, second, folding):
            other.close()


def test_an_old_snapshot_does_not_fold(quests: list[Quest], execute: Execute, database_url: str) -> None:
    """At REPEATABLE READ a fold does nothing, because it would fail on rows changed since its snapshot."""
    with psycopg2.connect(database_url, options=STATEMENT_TIMEOUT) as other:
        other.set_isolation_level(ISOLATION_LEVEL_REPEATABLE_READ)
        cursor = other.cursor()
        cursor.execute("SELECT count(*) FROM quests")
        execute("UPDATE quests SET current_progress = 9 WHERE status = 'ACTIVE'")
        execute("SELECT quest_fold()")
        cursor.execute("SELECT quest_fold()")
        cursor.execute("DELETE FROM quests WHERE id = %s", (str(quests[0].id),))
        other.commit()
    other.close()
    assert_counted(execute)


def test_random_statements_are_counted(
    service: EnhancedDatabaseService, quests: list[Quest], execute: Execute
) -> None:
    """The counters are exact after 200 random statements, some of which are folds."""
    random = Random(7)
    statements = (
        "UPDATE quests SET current_progress = %(n)s WHERE id = %(id)s",
        "UPDATE quests SET status = 'EXPIRED' WHERE id = %(id)s AND status = 'ACTIVE'",
        "UPDATE quests SET status = 'COMPLETED', completed_at = created_at WHERE id = %(id)s",
        "UPDATE quests SET reward_value = %(n)s, reward_type = NULLIF('r%(n)s', 'r0') WHERE id = %(id)s",
        "UPDATE quests SET expires_at = NULLIF(%(n)s, 3) * interval '1 day' + created_at WHERE id = %(id)s",
        "DELETE FROM quests WHERE id = %(id)s AND %(n)s = 1",
        "SELECT quest_fold()",
    )
    for _ in range(200):
        values = {"id": str(random.choice(quests).id), "n": random.randrange(12)}
        execute(random.choice(statements), values)
    assert_counted(execute)


FAST_DEADLOCKS = "-c deadlock_timeout=20ms"
CHANGES = (
    "UPDATE quests SET current_progress = %(n)s WHERE id = ANY(%(ids)s::uuid[])",
    "UPDATE quests SET status = 'EXPIRED' WHERE id = ANY(%(ids)s::uuid[]) AND status = 'ACTIVE'",
    """UPDATE quests SET expires_at = CASE %(n)s WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity'
        WHEN 2 THEN NULL ELSE created_at + %(n)s * interval '9 hours' END WHERE id = ANY(%(ids)s::uuid[])""",
    "DELETE FROM quests WHERE id = ANY(%(ids)s::uuid[]) AND %(n)s = 3",
    # deletes a user with all quests; the leaderboard triggers permit that at READ COMMITTED only
    """DELETE FROM users WHERE %(n)s = 4 AND current_setting('transaction_isolation') = 'read committed'
        AND id = (SELECT user_id FROM quests WHERE id = (%(ids)s::uuid[])[1])""",
    """INSERT INTO quests (id, user_id, type, title, target_value, reward_value)
        SELECT gen_random_uuid(), id, 'NEW', 't', 2, %(n)s FROM users LIMIT %(n)s""",
    *("SELECT quest_fold()",) * 6,
    "SAVEPOINT before; UPDATE quests SET type = 'LOST'; ROLLBACK TO SAVEPOINT before",
)


def run_random_transactions(url: str, quests: list[Quest], *, seed: int) -> None:
    """Run 25 random transactions on one connection and roll back a quarter of them."""
    random = Random(seed)
    zone = ("UTC", "Asia/Tokyo", "America/Los_Angeles")[seed % 3]
    options = f"{STATEMENT_TIMEOUT} -c TimeZone={zone} {FAST_DEADLOCKS}"
    with closing(psycopg2.connect(url, options=options)) as other:
        for _ in range(25):
            level = random.choice((ISOLATION_LEVEL_READ_COMMITTED, ISOLATION_LEVEL_REPEATABLE_READ))
            other.set_isolation_level(level)
            cursor = other.cursor()
            # a serialization failure, a deadlock, or a user whom another writer has deleted
            with suppress(TransactionRollbackError, IntegrityError):
                for _ in range(random.randrange(1, 5)):
                    some = [str(quest.id) for quest in random.sample(quests, 3)]
                    cursor.execute(random.choice(CHANGES), {"ids": some, "n": random.randrange(12)})
                if random.random() < 0.75:
                    other.commit()
            other.rollback()


def test_concurrent_writes_are_counted_in_every_snapshot(
    quests: list[Quest], execute: Execute, database_url: str
) -> None:
    """While four connections write and fold, the counters equal a recount in every snapshot."""
    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(run_random_transactions, database_url, quests, seed=seed) for seed in range(4)]
        while not all(writer.done() for writer in writers):
            assert execute(DIFFERENCE) == []
        for writer in writers:
            writer.result()
    execute("SELECT quest_fold()")
    assert execute(DIFFERENCE) == []
    assert execute("SELECT min(least(quests, started, halfway, rewards)) >= 0 FROM quest_counters") == [
        (True,)
    ]


def test_the_migration_counts_existing_quests(
    quests: list[Quest], execute: Execute, settings: Settings
) -> None:
    """The migration counts existing quests, also those changed while it was reverted."""
    migrator = Migrator(settings)
    migrator.down("0027_quest_counters")
    execute("DELETE FROM quests WHERE id = %s", (str(quests[3].id),))
    migrator.up()
    assert_counted(execute)
    execute("SELECT quest_fold()")
    assert_counted(execute)
