"""Leaderboards of 200,000 entries equal a ranking by plain SQL and read a fraction of the rows."""

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID, uuid4

import pytest

from core import EnhancedDatabaseService, Settings, open_service
from core.queries import leaderboards
from core.records import LeaderboardUpdate
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.integration.leaderboards import assert_counted
from tests.integration.plans import count_reads, count_rows_read, list_scans

pytestmark = pytest.mark.slow

ENTRIES = 200_000
# A bucket has up to 900 entries. A page reads the bucket where it begins and the bucket where the rank of its
# first score begins. It reads equal scores and lower scores with two subqueries, and each of them may also
# read the next bucket.
MOST_ROWS = 4_500
# A leaderboard has 450 to 900 buckets, each with one or two counter rows.
MOST_COUNTERS = 2_500
FIRST_DAY = date(2026, 3, 2)
SCORES = {
    "percents": "(sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) * 2)",
    "values": "9000 + random() * 2000",
    "counts": "floor(random() * 11)",
    "distinct": "n / 100.0",
    "equal": "5",
}
# Each leaderboard has its own session, so that a test can close one session only.
DAYS = {category: FIRST_DAY + timedelta(days=n) for n, category in enumerate(SCORES)}
FILL = """
    INSERT INTO users (id, username)
        SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'player' || n
        FROM generate_series(1, {entries}) n"""
FILL_LEADERBOARD = """
    INSERT INTO leaderboard_entries (user_id, session_date, category, score, created_at)
        SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{day}', '{category}',
               ({score})::numeric(15, 2), '2026-03-02'::timestamptz + n / 500 * interval '1 second'
        FROM generate_series(1, {entries}) n"""
RANKED = """
    SELECT user_id, rank() OVER (ORDER BY score DESC)
    FROM leaderboard_entries WHERE session_date = %s AND category = %s
    ORDER BY score DESC, created_at, id"""

# HOT updates and all updates of the current transaction.
HOT_UPDATES = """
    SELECT pg_stat_get_xact_tuples_hot_updated(oid), pg_stat_get_xact_tuples_updated(oid)
    FROM pg_class WHERE relname = 'leaderboard_entries'"""


@pytest.fixture(scope="module")
def filled_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """Yield the URL of a database with one leaderboard for each distribution in `SCORES`."""
    with created_database(postgres_server, template=template_database) as url:
        with connected(url) as execute:
            execute("SELECT setseed(0.5)")
            execute(FILL.format(entries=ENTRIES))
            for category, score in SCORES.items():
                execute(
                    FILL_LEADERBOARD.format(
                        entries=ENTRIES, day=DAYS[category], category=category, score=score
                    )
                )
            execute("VACUUM ANALYZE leaderboard_entries")
            execute("VACUUM ANALYZE leaderboard_counters")
        yield url


@pytest.fixture(scope="module")
def large(filled_url: str) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a cache on the database of `filled_url`."""
    settings = Settings(
        database_url=filled_url,  # type: ignore[arg-type]  # coerced
        enable_redis_cache=False,
        database_query_timeout=300_000,
    )
    with open_service(settings) as service:
        yield service


@pytest.fixture(scope="module")
def run(filled_url: str) -> Iterator[Execute]:
    """Yield a function that runs SQL on the database of `filled_url`."""
    with connected(filled_url) as execute:
        yield execute


def list_ranked(run: Execute, category: str) -> list[tuple[UUID, int]]:
    """Return the users and ranks of a leaderboard, ranked by plain SQL without counters."""
    return [(UUID(str(user_id)), rank) for user_id, rank in run(RANKED, (DAYS[category], category))]


def check_answers(service: EnhancedDatabaseService, run: Execute, category: str) -> None:
    """Assert that pages, ranks and neighbours at twelve offsets equal the ranking by plain SQL."""
    ranked = list_ranked(run, category)
    places = [0, 1, 4_000, len(ranked) - 1, *Random(category).choices(range(len(ranked)), k=8)]
    for place in places:
        page = service.get_leaderboard(category, DAYS[category], 20, offset=place)
        assert [(e.user_id, e.rank) for e in page] == ranked[place : place + 20]
        user_id, rank = ranked[place]
        assert service.get_user_rank(user_id, category, DAYS[category]).rank == rank
        around = service.get_leaderboard_around(user_id, category, DAYS[category], radius=5)
        assert [(e.user_id, e.rank) for e in around] == ranked[max(0, place - 5) : place + 6]


@pytest.mark.parametrize("category", SCORES)
def test_reads_equal_a_plain_sql_ranking(large: EnhancedDatabaseService, run: Execute, category: str) -> None:
    """Pages, ranks and neighbours equal a ranking by plain SQL, before and after 3,000 score updates."""
    check_answers(large, run, category)
    random = Random(category)
    for _ in range(3):
        changed = random.sample(range(1, ENTRIES + 1), 1_000)
        large.batch_update_leaderboard(
            category,
            [LeaderboardUpdate(UUID(int=n + (7 << 76) + (8 << 60)), Decimal(n % 9)) for n in changed],
            DAYS[category],
        )
    check_answers(large, run, category)
    assert_counted(run, DAYS[category])


@pytest.mark.parametrize("category", SCORES)
@pytest.mark.parametrize("place", [1_000, ENTRIES // 2, ENTRIES - 1_000])
def test_a_read_or_write_reads_a_fraction_of_the_leaderboard(run: Execute, category: str, place: int) -> None:
    """For every distribution of scores a statement reads a few buckets and never scans the whole table."""
    [(user_id,)] = run(
        "SELECT user_id FROM leaderboard_entries WHERE session_date = %s AND category = %s"
        " ORDER BY score DESC, created_at, id LIMIT 1 OFFSET %s",
        (DAYS[category], category, place),
    )
    leaderboard = {"day": DAYS[category], "category": category, "user_id": user_id}
    for statement, more in (
        (leaderboards.PAGE, {"limit": 50, "offset": place}),
        (leaderboards.AROUND, {"radius": 5}),
    ):
        parameters = {**leaderboard, **more}
        assert count_rows_read(run, statement, parameters, "leaderboard_entries") < MOST_ROWS
        assert ("Seq Scan", "leaderboard_entries") not in list_scans(run, statement, parameters)
    score = {**leaderboard, "id": uuid4(), "score": 5, "metadata": "{}"}
    for statement, parameters in ((leaderboards.RANK, leaderboard), (leaderboards.SET_SCORE, score)):
        reads = count_reads(run, statement, parameters, "leaderboard_entries")
        assert reads.table_scans == 0
        assert 0 < reads.entries < MOST_ROWS
        assert count_reads(run, statement, parameters, "leaderboard_counters").entries < MOST_COUNTERS


def test_a_session_is_closed_in_one_statement(large: EnhancedDatabaseService, run: Execute) -> None:
    """`close_session` stores correct ranks with one UPDATE statement and leaves the counters unchanged."""
    statements: list[str] = []
    large._database.query_hooks.append(lambda event: statements.append(event.sql))
    try:
        with large.transaction():
            assert large.close_session(DAYS["counts"]) == ENTRIES
            hot, updated = large._database.execute_sql(HOT_UPDATES).fetchone()
    finally:
        large._database.query_hooks.pop()
    assert sum("UPDATE leaderboard_entries" in statement for statement in statements) == 1
    wrong = """
        SELECT count(*) FROM (
            SELECT rank, rank() OVER (PARTITION BY category ORDER BY score DESC) AS expected
            FROM leaderboard_entries WHERE session_date = %s
        ) AS ranked WHERE rank IS DISTINCT FROM expected"""
    assert run(wrong, (DAYS["counts"],)) == [(0,)]
    # HOT updates add no index entries, which would be most of the cost
    assert updated == ENTRIES
    assert hot > 0.8 * updated
    assert_counted(run, DAYS["counts"])
