"""The counters of leaderboards: exact whoever writes, whatever is rolled back, and under concurrency."""

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
BOARDS = ("daily_returns", "total_value")


@pytest.fixture
def players(service: EnhancedDatabaseService) -> list[User]:
    """Forty players."""
    return [service.create_user(username=f"player{n:02}") for n in range(40)]


@contextmanager
def transaction_on(url: str) -> Iterator[connection]:
    """A transaction of somebody else, rolled back at the end unless it was committed."""
    other = psycopg2.connect(url, options=STATEMENT_TIMEOUT)
    try:
        yield other
    finally:
        other.close()


def write(service: EnhancedDatabaseService, players: list[User], scores: list[int], board: str) -> None:
    """Write a score for each of the players in one batch."""
    updates = [LeaderboardUpdate(p.id, Decimal(score)) for p, score in zip(players, scores, strict=False)]
    service.batch_update_leaderboard(board, updates, DAY)


def fold(execute: Execute, target: int = 3, board: str = BOARDS[0]) -> None:
    """Fold a leaderboard into buckets of `target` entries."""
    # without the trigger that folds by chance, into buckets of the usual size; disabled for this
    # session alone, because ALTER TABLE waits for every transaction that counts
    execute("SET session_replication_role = replica")
    execute("SELECT leaderboard_fold(%s, %s, %s)", (DAY, board, target))
    execute("RESET session_replication_role")


def test_every_kind_of_write_is_counted(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, database_url: str
) -> None:
    """These are batches, single updates, COPY, deletes, cascades, moves and TRUNCATE."""
    write(service, players, list(range(30)), BOARDS[0])
    fold(execute)
    assert count_buckets(execute) > 5
    service.update_leaderboard_entry(players[3].id, BOARDS[0], Decimal(17), DAY)
    write(service, players, [5] * 40, BOARDS[0])
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


def test_folding_again_and_again_stays_exact(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """Random leaderboards are folded into random buckets: no entry is lost, and buckets stay small."""
    random = Random(7)
    for _ in range(25):
        write(service, random.sample(players, 25), random.choices(range(6), k=25), BOARDS[0])
        fold(execute, random.randint(1, 5))
        assert_counted(execute)
    fold(execute, 1)
    sizes = "SELECT sum(entries) FROM leaderboard_counters GROUP BY depth, created_at, id"
    assert max(size for (size,) in execute(sizes)) <= 2


def test_empty_buckets_are_merged(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """Scores that change during the day do not leave more and more buckets."""
    for hour in range(12):
        write(service, players, [100 * hour + n for n in range(40)], BOARDS[0])
        fold(execute, 4)
        assert_counted(execute)
    assert count_buckets(execute) <= 4 * (40 / 4 + 1) + 40 / 4


def test_equals_are_split_by_who_came_first(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """A leaderboard with equal scores has buckets as small as any other."""
    write(service, players, [7] * 40, BOARDS[0])
    fold(execute, 4)
    assert count_buckets(execute) == 10
    assert_counted(execute)
    page = service.get_leaderboard(BOARDS[0], DAY, 5, offset=33)
    whole = service.get_leaderboard(BOARDS[0], DAY, 40)
    assert page == whole[33:38]
    assert {entry.rank for entry in page} == {1}


def test_a_rolled_back_write_was_never_counted(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, database_url: str
) -> None:
    """It counts neither for others while it runs, nor afterwards."""
    write(service, players, list(range(40)), BOARDS[0])
    with transaction_on(database_url) as other, other.cursor() as cursor:
        cursor.execute("UPDATE leaderboard_entries SET score = score + 100")
        assert service.get_user_rank(players[0].id, BOARDS[0], DAY).rank == 40
        assert_counted(execute)
        other.rollback()
    assert_counted(execute)


def test_nothing_is_split_while_somebody_counts(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, database_url: str
) -> None:
    """A write that is not committed uses the old buckets; the split gives up and does not wait."""
    write(service, players[:20], list(range(20)), BOARDS[0])
    with transaction_on(database_url) as other, other.cursor() as cursor:
        cursor.execute("UPDATE leaderboard_entries SET score = 50 WHERE score = 3")
        fold(execute)
        assert count_buckets(execute) == 1
        other.commit()
    assert_counted(execute)
    fold(execute)
    assert count_buckets(execute) > 5
    assert_counted(execute)


def test_an_old_snapshot_may_not_write(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, database_url: str
) -> None:
    """It would use buckets that may have been split since."""
    write(service, players, [1] * 40, BOARDS[0])
    with transaction_on(database_url) as other, other.cursor() as cursor:
        other.set_isolation_level(ISOLATION_LEVEL_REPEATABLE_READ)
        with pytest.raises(psycopg2.NotSupportedError, match="write at read committed"):
            cursor.execute("DELETE FROM leaderboard_entries")
    assert_counted(execute)


def test_concurrent_writers_of_the_same_leaderboards_do_not_deadlock(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """Each writes its own players to both leaderboards, in opposite orders, during folds."""
    errors: list[Exception] = []

    def work(worker: int) -> None:
        random, own = Random(worker), players[worker::4]
        try:
            for _ in range(15):
                with service.transaction():
                    for board in BOARDS if worker % 2 else BOARDS[::-1]:
                        write(service, own, random.choices(range(9), k=10), board)
        except Exception as error:  # reported below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for board in BOARDS:
            fold(execute, 2, board)
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert_counted(execute)
    assert service.get_leaderboard(BOARDS[1], DAY, 1)[0].rank == 1


def test_a_large_leaderboard_is_split_by_itself(service: EnhancedDatabaseService, execute: Execute) -> None:
    """A commit of many entries leaves buckets of about the square root of their number."""
    execute("INSERT INTO users (username) SELECT 'many' || n FROM generate_series(1, 20000) n")
    execute(
        "INSERT INTO leaderboard_entries (user_id, session_date, category, score)"
        " SELECT id, %s, %s, 5 FROM users",
        (DAY, BOARDS[0]),
    )
    [(size,)] = execute("SELECT leaderboard_bucket_size(%s, %s)", (DAY, BOARDS[0]))
    assert size == 141
    assert count_buckets(execute) == 142
    assert_counted(execute)


def test_scores_that_move_are_summed_up_by_themselves(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Two thousand single scores, each a transaction, leave few rows of counters and small buckets."""
    execute("INSERT INTO users (username) SELECT 'many' || n FROM generate_series(1, 500) n")
    execute(
        "INSERT INTO leaderboard_entries (user_id, session_date, category, score)"
        " SELECT id, %s, %s, 0 FROM users",
        (DAY, BOARDS[0]),
    )
    random, users = Random(3), [user_id for (user_id,) in execute("SELECT id FROM users")]
    # counters are summed up by chance, about once for a hundred scores; the chance is this session's own
    execute("SELECT setseed(0.25)")
    for _ in range(2_000):
        execute(
            "SELECT FROM leaderboard_set_score(gen_random_uuid(), %s, %s, %s, %s, '{}')",
            (random.choice(users), DAY, BOARDS[0], random.randrange(10_000)),
        )
    assert_counted(execute)
    [(rows,)] = execute("SELECT count(*) FROM leaderboard_counters")
    sizes = "SELECT sum(entries) FROM leaderboard_counters GROUP BY depth, created_at, id"
    assert rows < 1_000
    assert max(size for (size,) in execute(sizes)) < 250


def test_what_is_there_is_counted_by_the_migration(
    service: EnhancedDatabaseService, players: list[User], execute: Execute, settings: Settings
) -> None:
    """After `down` and `up` every entry is in its bucket."""
    write(service, players, [n // 3 for n in range(40)], BOARDS[0])
    write(service, players, [1] * 40, BOARDS[1])
    before = service.get_leaderboard_around(players[20].id, BOARDS[0], DAY)
    migrator = Migrator(settings)
    migrator.down("0003_board_counters")
    assert execute("SELECT count(*) FROM leaderboard_entries") == [(80,)]
    migrator.up()
    assert_counted(execute)
    assert service.get_leaderboard_around(players[20].id, BOARDS[0], DAY) == before


def test_a_leaderboard_is_folded_once_in_a_transaction(execute: Execute) -> None:
    """The rows that a fold writes cause no further fold in the same transaction."""
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
    boards = [*BOARDS, BOARDS[0]]
    execute(
        f"INSERT INTO leaderboard_counters VALUES {', '.join([row] * 3)}",
        [value for board in boards for value in (DAY, board)],
    )
    assert sorted(execute("SELECT category FROM folds")) == [(BOARDS[0],), (BOARDS[1],)]
