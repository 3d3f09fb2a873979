"""`python -m tests.bench.reports`: measure the reads of the pages Players and Quests by number of players.

Owns the rows of a game that has run for a year: players join on every day and play for some weeks, and a
quarter of them plays again after a pause. No read uses the cache, but PostgreSQL has already read the rows
into memory. The table compares CPU times of the server, because other programs affect durations more. There
is no pass or fail.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import click
import psycopg2
from rich.console import Console
from rich.table import Table

from core import EnhancedDatabaseService, Settings, open_service
from tests.bench.servers import run_servers

SIZES = (10_000, 100_000, 1_000_000)
ROUNDS = 3
QUERY_TIMEOUT_MS = 300_000

# `session_replication_role = replica` disables all triggers and the checks of foreign keys, which would take
# most of the time. It has its default value again when quests are inserted, because triggers must count them.
FILL = (
    "SET work_mem = '512MB'; SET session_replication_role = replica; SELECT setseed(0.5)",
    # the ids ascend with `created_at`, like UUIDs of version 7
    """INSERT INTO users (id, username, created_at, last_active)
       SELECT (lpad(to_hex((extract(epoch FROM joined) * 1000)::bigint), 12, '0') || '7'
               || substring(md5(n::text) FOR 3) || '8' || substring(md5(n::text) FROM 18))::uuid,
              'player' || n, joined, NULL
       FROM (SELECT n, now() - interval '365 days' * random() AS joined
             FROM generate_series(1, %(players)s) AS n) AS players ORDER BY joined""",
    # the second period of a player begins 20 to 100 days after the end of the first; Sundays have no session
    """INSERT INTO portfolios (user_id, session_date, created_at, updated_at, total_value)
       SELECT id, day, day, day, 10000 + floor(random() * 1000) FROM (
           SELECT id, day, row_number() OVER (PARTITION BY id, day) AS place FROM (
               SELECT id, eagerness, (created_at AT TIME ZONE 'UTC')::date AS joined,
                      (-ln(1 - random()) * 36)::integer AS days, (20 + random() * 80)::integer AS pause,
                      random() < 0.25 AS comes_back
               FROM (SELECT id, created_at, 0.1 + 0.7 * random() AS eagerness FROM users OFFSET 0) AS u
           ) AS players CROSS JOIN LATERAL (
               SELECT joined + age AS day, age FROM generate_series(0, days) AS age
               UNION ALL
               SELECT joined + days + pause + age, 1 FROM generate_series(0, days) AS age WHERE comes_back
           ) AS attended
           WHERE day <= (now() AT TIME ZONE 'UTC')::date AND (age = 0 OR random() < eagerness)
             AND extract(isodow FROM day) < 7
       ) AS played WHERE place = 1 ORDER BY day""",
    """UPDATE users SET last_active = played.last
       FROM (SELECT user_id, max(session_date) + interval '20 hours' AS last FROM portfolios GROUP BY 1)
            AS played
       WHERE played.user_id = users.id""",
    # trades of the last 91 days: about 70 % of the portfolios have one to four trades
    """INSERT INTO trades (user_id, session_date, symbol, side, quantity, price, executed_at)
       SELECT user_id, session_date, 'AAPL', 'BUY', 1, 100, session_date + interval '15 hours'
       FROM (SELECT user_id, session_date, (random() * 5)::integer - 1 AS trades FROM portfolios
             WHERE session_date > now() - interval '91 days' OFFSET 0) AS p
            CROSS JOIN LATERAL generate_series(1, trades)
       ORDER BY session_date""",
    "SET session_replication_role = DEFAULT",
    # of all portfolios, 10 % have a daily quest, 17 % a weekly quest and 2.5 % a milestone
    """INSERT INTO quests (user_id, type, title, target_value, current_progress, status, reward_type,
                           reward_value, created_at, expires_at, completed_at)
       SELECT user_id, type, title, 10,
              CASE WHEN luck < 0.5 THEN 10 ELSE floor(luck * 15 - 5)::integer %% 10 END,
              CASE WHEN luck < 0.5 AND completed_at <= now() THEN 'COMPLETED'
                   WHEN expires_at <= now() THEN 'EXPIRED' ELSE 'ACTIVE' END,
              CASE WHEN luck < 0.4 THEN 'CASH' ELSE 'BADGE' END, 25, created_at, expires_at,
              CASE WHEN luck < 0.5 AND completed_at <= now() THEN completed_at END
       FROM (
           SELECT *, created_at + days * random() * interval '1 day' AS completed_at,
                  created_at + days * interval '1 day' AS expires_at
           FROM (
               SELECT user_id, session_date + random() * interval '1 day' AS created_at, random() AS luck,
                      CASE WHEN kind < 0.10 THEN 'DAILY_GAIN' WHEN kind < 0.27 THEN 'WEEKLY_TRADES'
                           ELSE 'MILESTONE' END AS type,
                      CASE WHEN kind < 0.10 THEN 1 WHEN kind < 0.27 THEN 7 ELSE 60 END AS days,
                      'Reach the goal number ' || (kind * 100)::integer AS title
               FROM (SELECT user_id, session_date, random() AS kind FROM portfolios OFFSET 0) AS p
               WHERE kind < 0.295
           ) AS given WHERE created_at <= now()
       ) AS quests ORDER BY created_at""",
    "VACUUM ANALYZE",
)

Call = Callable[[EnhancedDatabaseService], object]


def _since() -> date:
    return datetime.now(UTC).date() - timedelta(days=83)


CALLS: dict[str, dict[str, Call]] = {
    "players": {
        "seen today": lambda service: service.get_seen_players(days=1),
        "today": lambda service: service.list_player_days(days=1),
        "report": lambda service: service.get_player_report(),
        "30 days": lambda service: service.list_player_days(days=30),
        "count of silent players": lambda service: service.count_silent_players(days=30),
        "page of silent players": lambda service: service.list_silent_players(days=30, limit=50),
    },
    "quests": {
        "totals": lambda service: service.get_quest_totals(),
        "outcomes": lambda service: service.list_quest_outcomes(since=_since()),
        "undated": lambda service: service.count_undated_quests(),
        "returns": lambda service: service.get_quest_returns(since=_since(), players=2_500),
        "times to complete": lambda service: service.get_completion_times(since=_since(), limit=20),
        "stuck": lambda service: service.list_stuck_quests(limit=100),
        "expiring": lambda service: service.list_expiring_quests(limit=25, within=timedelta(hours=24)),
    },
}


class Cost(NamedTuple):
    """The shortest CPU time of the server and the shortest duration of a read, over all rounds."""

    processor_ms: float
    duration_ms: float


def measure(players: int, rounds: int) -> dict[str, Cost]:
    """Start servers, create the players, and return the cost of each read and of each page."""
    with run_servers() as settings:
        with closing(psycopg2.connect(settings.database_url.get_secret_value())) as connection:
            connection.autocommit = True
            for statement in FILL:
                connection.cursor().execute(statement, {"players": players})
        return read_pages(settings, rounds)


def read_pages(settings: Settings, rounds: int) -> dict[str, Cost]:
    """Return the cost of each read without a cache, on one connection and without parallel workers."""
    changes = {"enable_redis_cache": False, "database_query_timeout": QUERY_TIMEOUT_MS}
    costs: dict[str, Cost] = {}
    with open_service(settings.model_copy(update=changes)) as service, service._database.session("bench"):
        execute = service._database.execute_sql
        execute("SET max_parallel_workers_per_gather = 0")
        [(server,)] = execute("SELECT pg_backend_pid()").fetchall()
        for page, calls in CALLS.items():
            found = {name: clock(call, service, server, rounds) for name, call in calls.items()}
            costs |= {f"{page}: {name}": cost for name, cost in found.items()}
            costs[f"{page}, all"] = Cost(*map(sum, zip(*found.values(), strict=True)))
    return costs


def clock(call: Call, service: EnhancedDatabaseService, server: int, rounds: int) -> Cost:
    """Return the cost of a call; `server` is the id of the PostgreSQL process."""
    processor, duration = [], []
    for _ in range(rounds):
        before, started = read_processor_seconds(server), time.perf_counter()
        call(service)
        duration.append(time.perf_counter() - started)
        processor.append(read_processor_seconds(server) - before)
    return Cost(min(processor) * 1000, min(duration) * 1000)


def read_processor_seconds(process: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
@click.option("--largest", type=click.IntRange(min(SIZES)), default=100_000, show_default=True)
def main(rounds: int, largest: int) -> None:
    """Measure the reads at every number of players up to the largest; a million takes half an hour."""
    sizes = [size for size in SIZES if size <= largest]
    costs = [measure(size, rounds) for size in sizes]
    console = Console(width=110)
    table = Table("server ms (duration)", *(f"{size:,} players" for size in sizes), box=None)
    for name in costs[0]:
        table.add_row(
            name, *(f"{cost[name].processor_ms:,.0f} ({cost[name].duration_ms:,.0f})" for cost in costs)
        )
    console.print(table)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"shortest of {rounds} rounds, on {os.cpu_count()} cores at load {load}")


if __name__ == "__main__":
    main()
