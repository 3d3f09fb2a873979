"""The counters of leaderboards are exact after every kind of write, after rollbacks and under concurrency."""

import io
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from random import Random

import psycopg2
import pytest
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ, connection

from core import EnhancedDatabaseService
from core.migration import Migrator
from core.records import LeaderboardUpdate, User
from core.settings import Settings
from tests.conftest import STATEMENT_TIMEOUT, Execute
from tests.integration.leaderboards import assert_counted, count_buckets

DAY = date(2026, 3, 2)
CATEGORIES = ("daily_returns", "total_value")


@pytest.fixture
def players(service: EnhancedDatabaseService) -> list[User]:
    """Return forty players."""
    return [service.create_user(username=f"player{n:02}") for n in range(40)]


@contextmanager
def transaction_on(url: str) -> Iterator[connection]:
    """Yield a connection with its own transaction, which is rolled back at the end if it is still open."""
    other = psycopg2.connect(url, options=STATEMENT_TIMEOUT)
    try:
        yield other
    finally:
        other.close()


def write(service: EnhancedDatabaseService, players: list[User], scores: list[int], category: str) -> None:
    """Write the scores, one for each player in order, in one batch."""
    updates = [LeaderboardUpdate(p.id, Decimal(score)) for p, score in zip(players, scores, strict=False)]
    service.batch_update_leaderboard(category, updates, DAY)


def fold(execute: Execute, target: int = 3, category: str = CATEGORIES[0]) -> None:
    """Fold a leaderboard into buckets of `target` entries."""
    # Disable the trigger that folds at random into buckets of the usual size. Do so in this session only,
    # because ALTER TABLE would wait for every transaction that updates counters.
    execute("SET session_replication_role = replica")
    execute("SELECT leaderboard_fold(%s, %s, %s)", (DAY, category, target))
    execute("RESET session_replication_role")


def test_every_kind_of_write_is_counted(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, database_url: str
) -> None:
    """Counters are exact after batches, single updates, COPY, deletes, cascades, moves and TRUNCATE."""
    write(service, players, list(range(30)), CATEGORIES[0])
    fold(execute)
    assert count_buckets(execute) > 5
    service.update_leaderboard_entry(players[3].id, CATEGORIES[0], Decimal(17), DAY)
    write(service, players, [5] * 40, CATEGORIES[0])
    assert_counted(execute)
    with transaction_on(database_url) as other, other.cursor() as cursor:
        rows = "".join(f"{uuid.uuid4()}\t{player.id}\t{DAY}\tcopied\t1\n" for player in players)
        cursor.copy_from(
            io.StringIO(rows),
            "leaderboard_entries",
            columns=("id", "user_id", "session_date", "category", "score"),
        )
        other.commit()
    service.delete_user(players[0].id)
    execute("UPDATE leaderboard_entries SET category = 'moved' WHERE category = 'copied'")
    execute("UPDATE leaderboard_entries SET id = gen_random_uuid(), created_at = now() WHERE score = 5")
    execute("DELETE FROM leaderboard_entries WHERE category = 'moved' AND user_id > %s", (players[9].id,))
    assert_counted(execute)
    execute("TRUNCATE leaderboard_entries")
    assert execute("SELECT count(*) FROM leaderboard_counters") == [(0,)]


def test_repeated_folds_stay_exact(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """After repeated folds of a leaderboard with random scores no entry is lost, and buckets are small."""
    random = Random(7)
    for _ in range(25):
        write(service, random.sample(players, 25), random.choices(range(6), k=25), CATEGORIES[0])
        fold(execute, random.randint(1, 5))
        assert_counted(execute)
    fold(execute, 1)
    sizes = "SELECT sum(entries) FROM leaderboard_counters GROUP BY depth, created_at, id"
    assert max(size for (size,) in execute(sizes)) <= 2


def test_empty_buckets_are_merged(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """When each of twelve batches raises all scores, the number of buckets stays bounded."""
    for hour in range(12):
        write(service, players, [100 * hour + n for n in range(40)], CATEGORIES[0])
        fold(execute, 4)
        assert_counted(execute)
    assert count_buckets(execute) <= 4 * (40 / 4 + 1) + 40 / 4


def test_equal_scores_are_split_by_entry_order(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """A leaderboard of forty equal scores is split into ten buckets of four entries."""
    write(service, players, [7] * 40, CATEGORIES[0])
    fold(execute, 4)
    assert count_buckets(execute) == 10
    assert_counted(execute)
    page = service.get_leaderboard(CATEGORIES[0], DAY, 5, offset=33)
    whole = service.get_leaderboard(CATEGORIES[0], DAY, 40)
    assert page == whole[33:38]
    assert {entry.rank for entry in page} == {1}


def test_a_rolled_back_write_is_not_counted(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, database_url: str
) -> None:
    """An uncommitted write changes no rank for other transactions, and none after its rollback."""
    write(service, players, list(range(40)), CATEGORIES[0])
    with transaction_on(database_url) as other, other.cursor() as cursor:
        cursor.execute("UPDATE leaderboard_entries SET score = score + 100")
        assert service.get_user_rank(players[0].id, CATEGORIES[0], DAY).rank == 40
        assert_counted(execute)
        other.rollback()
    assert_counted(execute)


def test_buckets_are_not_split_during_an_open_write(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, database_url: str
) -> None:
    """While a write to the leaderboard is uncommitted, a fold returns without a split and without a wait."""
    write(service, players[:20], list(range(20)), CATEGORIES[0])
    with transaction_on(database_url) as other, other.cursor() as cursor:
        cursor.execute("UPDATE leaderboard_entries SET score = 50 WHERE score = 3")
        fold(execute)
        assert count_buckets(execute) == 1
        other.commit()
    assert_counted(execute)
    fold(execute)
    assert count_buckets(execute) > 5
    assert_counted(execute)


def test_writes_at_repeatable_read_are_refused(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, database_url: str
) -> None:
    """A write at REPEATABLE READ is refused, because its snapshot may have buckets that were split since."""
    write(service, players, [1] * 40, CATEGORIES[0])
    with transaction_on(database_url) as other, other.cursor() as cursor:
        other.set_isolation_level(ISOLATION_LEVEL_REPEATABLE_READ)
        with pytest.raises(psycopg2.NotSupportedError, match="write at read committed"):
            cursor.execute("DELETE FROM leaderboard_entries")
    assert_counted(execute)


def test_concurrent_writers_do_not_deadlock(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """Four threads write two leaderboards in opposite orders during folds without a deadlock."""
    errors: list[Exception] = []

    def work(worker: int) -> None:
        random, own = Random(worker), players[worker::4]
        try:
            for _ in range(15):
                with service.transaction():
                    for category in CATEGORIES if worker % 2 else CATEGORIES[::-1]:
                        write(service, own, random.choices(range(9), k=10), category)
        except Exception as error:  # asserted below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for category in CATEGORIES:
            fold(execute, 2, category)
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert_counted(execute)
    assert service.get_leaderboard(CATEGORIES[1], DAY, 1)[0].rank == 1


def test_a_large_leaderboard_is_split_automatically(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """A commit of 20,000 entries makes 142 buckets of at most 141 entries, the square root of 20,000."""
    execute("INSERT INTO users (username) SELECT 'many' || n FROM generate_series(1, 20000) n")
    execute(
        "INSERT INTO leaderboard_entries (user_id, session_date, category, score)"
        " SELECT id, %s, %s, 5 FROM users",
        (DAY, CATEGORIES[0]),
    )
    [(size,)] = execute("SELECT leaderboard_bucket_size(%s, %s)", (DAY, CATEGORIES[0]))
    assert size == 141
    assert count_buckets(execute) == 142
    assert_counted(execute)


def test_counter_rows_are_folded_automatically(service: EnhancedDatabaseService, execute: Execute) -> None:
    """After 2,000 score updates in separate transactions there are few counter rows and small buckets."""
    execute("INSERT INTO users (username) SELECT 'many' || n FROM generate_series(1, 500) n")
    execute(
        "INSERT INTO leaderboard_entries (user_id, session_date, category, score)"
        " SELECT id, %s, %s, 0 FROM users",
        (DAY, CATEGORIES[0]),
    )
    random, users = Random(3), [user_id for (user_id,) in execute("SELECT id FROM users")]
    # a trigger folds at random, about once in a hundred updates; the seed makes this session repeatable
    execute("SELECT setseed(0.25)")
    for _ in range(2_000):
        execute(
            "SELECT FROM leaderboard_set_score(gen_random_uuid(), %s, %s, %s, %s, '{}')",
            (random.choice(users), DAY, CATEGORIES[0], random.randrange(10_000)),
        )
    assert_counted(execute)
    [(rows,)] = execute("SELECT count(*) FROM leaderboard_counters")
    sizes = "SELECT sum(entries) FROM leaderboard_counters GROUP BY depth, created_at, id"
    assert rows < 1_000
    assert max(size for (size,) in execute(sizes)) < 250


def test_the_migration_counts_existing_entries(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, settings: Settings
) -> None:
    """After `down` and `up` of the migration every entry is counted, and ranks are unchanged."""
    write(service, players, [n // 3 for n in range(40)], CATEGORIES[0])
    write(service, players, [1] * 40, CATEGORIES[1])
    before = service.get_leaderboard_around(players[20].id, CATEGORIES[0], DAY)
    migrator = Migrator(settings)
    migrator.down("0003_board_counters")
    assert execute("SELECT count(*) FROM leaderboard_entries") == [(80,)]
    migrator.up()
    assert_counted(execute)
    assert service.get_leaderboard_around(players[20].id, CATEGORIES[0], DAY) == before


def test_a_leaderboard_is_folded_once_per_transaction(execute: Execute) -> None:
    """A fold that writes counter rows does not trigger another fold in the same transaction."""
    execute("CREATE TABLE folds (category varchar)")
    execute(
        """
        CREATE OR REPLACE FUNCTION leaderboard_fold(day date, board varchar, target bigint DEFAULT 2000)
        RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO folds VALUES (board);
            IF (SELECT count(*) < 20 FROM folds) THEN
                -- so many entries that the row calls for a fold every time
                INSERT INTO leaderboard_counters VALUES (day, board, 0, now(), gen_random_uuid(), 1000000);
            END IF;
        END $$"""
    )
    row = "(%s, %s, 0, now(), gen_random_uuid(), 1000000)"
    categories = [*CATEGORIES, CATEGORIES[0]]
    execute(
        f"INSERT INTO leaderboard_counters VALUES {', '.join([row] * 3)}",
        [value for category in categories for value in (DAY, category)],
    )
    assert sorted(execute("SELECT category FROM folds")) == [(CATEGORIES[0],), (CATEGORIES[1],)]
