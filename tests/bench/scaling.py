"""`python -m tests.bench.scaling`: compute the load by number of players, and the share of each limit.

Owns the assumptions about players, the unit costs (with the machine on which they were measured), and the
formulas. The argument `measure` measures the unit costs again. `docs/scaling.md` has the tables; a test
compares them with this module.
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import click
import psutil
import psycopg2
import redis

from core import EnhancedDatabaseService, open_service
from tests.bench.servers import run_servers

PLAYERS = (10_000, 1_000_000, 100_000_000)

# -- assumptions about a player of the demo, on a day on which this player plays ------------------

ACTIVE = 0.35
"""Share of all players that play on a given day."""
BUSY_HOURS = 4.0
"""The busiest hour has the load of a whole day divided by this number of hours."""
READS = 200
"""Read calls per active player and day: of profile, portfolio, quests, prices and a leaderboard."""
TRADES = 5
POSITIONS = 3
SCORES = 20
"""New portfolio values per active player and day; each also writes the player's scores."""
LEADERBOARDS = 3
QUESTS = 1
SYMBOLS = 500
TICK_SECONDS = 2.0
NEAR_HITS, SHARED_HITS = 0.6, 0.3
"""Shares of reads that the near cache and Redis answer; all other reads are cold."""
RETENTION_MONTHS = 12

# -- unit costs: measured, see `measure` -----------------------------------------------------------


class Costs(NamedTuple):
    """The cost of one row or value (bytes, with indexes) and of one call (CPU seconds)."""

    user_bytes: float
    portfolio_bytes: float
    position_bytes: float
    trade_bytes: float
    entry_bytes: float
    quest_bytes: float
    tick_bytes: float
    redis_value_bytes: float
    near_value_bytes: float
    score_server_seconds: float
    cold_read_server_seconds: float
    cold_read_process_seconds: float
    shared_read_process_seconds: float
    near_read_process_seconds: float


# Measured on two virtual cores, Linux, Python 3.11, with embedded PostgreSQL 18 and Valkey 9.
COSTS = Costs(
    user_bytes=320,
    portfolio_bytes=234,
    position_bytes=135,
    trade_bytes=214,
    entry_bytes=450,
    quest_bytes=281,
    tick_bytes=129,
    redis_value_bytes=260,
    near_value_bytes=1070,
    score_server_seconds=1.02e-3,
    cold_read_server_seconds=115e-6,
    cold_read_process_seconds=183e-6,
    shared_read_process_seconds=88.4e-6,
    near_read_process_seconds=4.27e-6,
)

# -- limits of one server or process ---------------------------------------------------------------

SERVER_CORES = 32
"""Cores of a large PostgreSQL server; players may use at most half of its CPU time in the busiest hour."""
SHARE = 0.5
CONNECTIONS = 500
"""Number of PostgreSQL connections that work well without a pooler."""
POOL = 10
DISK = 4e12
REDIS_MEMORY = 64e9
REDIS_COMMANDS = 100_000.0
"""Commands per second of one Redis, which runs all commands in a single thread."""
PUSHES = 20_000.0
"""Assumed number of invalidation pushes per second that a process can read beside its other work."""


MIN_SHOWN_SHARE = 0.01


class Demand(NamedTuple):
    """The load of a number of players in the busiest hour, and their rows of a month."""

    players: int
    reads: float
    scores: float
    invalidations: float
    processes: float
    connections: float
    server_cores: float
    redis_commands: float
    redis_bytes: float
    near_bytes: float
    month_bytes: float
    total_bytes: float


def compute(players: int, costs: Costs = COSTS) -> Demand:
    """Return the load of a number of players."""
    active = players * ACTIVE
    seconds = BUSY_HOURS * 3600
    reads = active * READS / seconds
    writes = active * (SCORES + TRADES + QUESTS) / seconds
    ticks = SYMBOLS / TICK_SECONDS
    cold = reads * (1 - NEAR_HITS - SHARED_HITS)
    # assumption: each write invalidates two keys. The ticks of all symbols are written in one batch
    invalidations = writes * 2 + SYMBOLS / TICK_SECONDS
    process_seconds = (
        cold * costs.cold_read_process_seconds
        + reads * SHARED_HITS * costs.shared_read_process_seconds
        + reads * NEAR_HITS * costs.near_read_process_seconds
        + writes * costs.cold_read_process_seconds * 2
    )
    processes = max(1.0, process_seconds / SHARE)
    player_days = active * 30
    month = (
        player_days
        * (
            costs.portfolio_bytes
            + POSITIONS * costs.position_bytes
            + TRADES * costs.trade_bytes
            + LEADERBOARDS * costs.entry_bytes
            + QUESTS * costs.quest_bytes
        )
        + ticks * 30 * 86_400 * costs.tick_bytes
    )
    hot = active * 3
    return Demand(
        players=players,
        reads=reads,
        scores=writes,
        invalidations=invalidations,
        processes=processes,
        connections=processes * POOL,
        server_cores=(writes * costs.score_server_seconds + cold * costs.cold_read_server_seconds) / SHARE,
        redis_commands=reads * (1 - NEAR_HITS) + cold * 2 + invalidations * 2,
        redis_bytes=hot * costs.redis_value_bytes,
        near_bytes=10_000 * costs.near_value_bytes,
        month_bytes=month,
        total_bytes=players * costs.user_bytes + month * RETENTION_MONTHS,
    )


class Limit(NamedTuple):
    """A limit of one server or process, and the measure that raises the limit."""

    name: str
    used: Callable[[Demand], float]
    most: float
    step: str


LIMITS = (
    Limit("one process", lambda demand: demand.processes, 1.0, "more processes, on more hosts"),
    Limit("connections", lambda demand: demand.connections, CONNECTIONS, "PgBouncer"),
    Limit(
        "processor of PostgreSQL",
        lambda demand: demand.server_cores,
        SERVER_CORES,
        "replicas for reads, then shards",
    ),
    Limit("disk of PostgreSQL", lambda demand: demand.total_bytes, DISK, "shorter retention, then shards"),
    Limit(
        "commands of Redis",
        lambda demand: demand.redis_commands,
        REDIS_COMMANDS,
        "a Redis for each group of players",
    ),
    Limit(
        "memory of Redis",
        lambda demand: demand.redis_bytes,
        REDIS_MEMORY,
        "eviction (fewer hits), or more memory",
    ),
    Limit(
        "pushes to each process",
        lambda demand: demand.invalidations,
        PUSHES,
        "`NEAR_CACHE_SIZE=0` where little is read twice",
    ),
)


def show_size(size: float) -> str:
    """Return a size as a text, in the largest unit in which it is at least 1."""
    for unit in ("TB", "GB", "MB", "kB"):
        factor = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}[unit]
        if size >= factor:
            return f"{size / factor:,.3g} {unit}"
    return f"{size:.0f} B"


def show_number(number: float) -> str:
    """Return a number as a text with at most three significant digits."""
    return f"{float(f'{number:.3g}'):,.0f}" if number >= 10 else f"{number:.2g}"


def show_share(share: float) -> str:
    """Return the used share of a limit as a text."""
    return show_number(share) if share >= MIN_SHOWN_SHARE else f"< {MIN_SHOWN_SHARE}"


def build_assumptions() -> str:
    """Return the assumptions and the measured unit costs, as Markdown."""
    assumed = f"""\
- {ACTIVE:.0%} of all players play on a day; the busiest hour has one in {BUSY_HOURS:.0f} of a day's calls
- each of them has {READS} calls that read, {TRADES} trades, {QUESTS} quest and {POSITIONS} positions
- each gets {SCORES} new values, which change its places on {LEADERBOARDS} leaderboards
- {SYMBOLS} symbols have a new price every {TICK_SECONDS:.0f} s; rows are kept for {RETENTION_MONTHS} months
- the near cache answers {NEAR_HITS:.0%} of the reads, Redis {SHARED_HITS:.0%}"""
    rows = [
        f"| {name.removesuffix('_bytes').replace('_', ' ')} | {show_size(value)} |"
        if name.endswith("_bytes")
        else f"| {name.removesuffix('_seconds').replace('_', ' ')} | {show_number(value * 1e6)} us |"
        for name, value in COSTS._asdict().items()
    ]
    return "\n".join([assumed, "", "| one | takes |", "| --- | --- |", *rows])


def build_tables() -> tuple[str, str]:
    """Return two Markdown tables: the load, and the used share of each limit."""
    demands = [compute(players) for players in PLAYERS]
    heads = " | ".join(f"{players:,} players" for players in PLAYERS)
    rows: list[tuple[str, Callable[[Demand], str]]] = [
        ("reads a second", lambda d: show_number(d.reads)),
        ("writes a second", lambda d: show_number(d.scores)),
        ("invalidated keys a second", lambda d: show_number(d.invalidations)),
        ("processes of the service", lambda d: show_number(d.processes)),
        ("connections, a pool of 10 each", lambda d: show_number(d.connections)),
        ("cores of PostgreSQL", lambda d: show_number(d.server_cores)),
        ("commands of Redis a second", lambda d: show_number(d.redis_commands)),
        ("memory of Redis, everybody's values", lambda d: show_size(d.redis_bytes)),
        ("near cache of a process, 10,000 values", lambda d: show_size(d.near_bytes)),
        ("rows of a month", lambda d: show_size(d.month_bytes)),
        (f"rows of {RETENTION_MONTHS} months", lambda d: show_size(d.total_bytes)),
    ]
    line = "| --- |" + " --- |" * len(PLAYERS)
    asked = [f"| in the busiest hour | {heads} |", line]
    asked += [f"| {name} | {' | '.join(map(show, demands))} |" for name, show in rows]
    used = [f"| limit of one | {heads} | step that removes it |", line + " --- |"]
    for limit in LIMITS:
        shares = " | ".join(show_share(limit.used(demand) / limit.most) for demand in demands)
        used.append(f"| {limit.name} | {shares} | {limit.step} |")
    return "\n".join(asked), "\n".join(used)


# -- measuring the unit costs ------------------------------------------------------------------------

USERS = 20_000
CALLS = 2_000
DAY = "2026-03-02"
FILL = f"""
INSERT INTO users (id, username, name, last_active)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'clever_player' || n, 'Clever Player',
       now()
FROM generate_series(1, {USERS}) AS n;
INSERT INTO portfolios (id, user_id, session_date, total_value, day_change, day_change_percent)
SELECT id, id, '{DAY}', 10123.45, 123.45, 1.23 FROM users;
INSERT INTO positions (user_id, session_date, symbol, quantity, average_price)
SELECT id, '{DAY}', symbol, 12.5, 150.25 FROM users, unnest(ARRAY['AAPL', 'MSFT', 'NVDA']) AS symbol;
INSERT INTO trades (id, user_id, session_date, symbol, side, quantity, price)
SELECT gen_random_uuid(), id, '{DAY}', 'AAPL', 'BUY', 12.5, 150.25
FROM users, generate_series(1, {TRADES}) ORDER BY id;
INSERT INTO quests (id, user_id, type, title, target_value, reward_type, reward_value, expires_at)
SELECT gen_random_uuid(), id, 'BIG_GAIN', 'Gain three percent in a day', 3, 'CASH', 100,
       now() + interval '1 day'
FROM users;
INSERT INTO leaderboard_entries (id, user_id, session_date, category, score)
SELECT gen_random_uuid(), id, '{DAY}', category, (random() * 100)::numeric(15, 2)
FROM users, unnest(ARRAY['daily_returns', 'total_value', 'quests_completed']) AS category;
INSERT INTO ticks (symbol, timestamp, price, volume, bid, ask)
SELECT 'S' || n % {SYMBOLS}, now() - n * interval '1 second', 150.25, 1000 + n, 150.2, 150.3
FROM generate_series(1, {USERS * 5}) AS n;
"""

TABLES = {
    "user": ("users", 1),
    "portfolio": ("portfolios", 1),
    "position": ("positions", POSITIONS),
    "trade": ("trades", TRADES),
    "entry": ("leaderboard_entries", LEADERBOARDS),
    "quest": ("quests", 1),
}


def measure_rows(cursor: Any) -> dict[str, float]:
    """Return the bytes of one row of each table, including its indexes."""
    cursor.execute("VACUUM ANALYZE")
    sizes = {}
    for name, (table, rows) in TABLES.items():
        cursor.execute(
            f"SELECT pg_total_relation_size('{table}')"
        )  # the table names are constants of this file
        sizes[f"{name}_bytes"] = cursor.fetchone()[0] / (USERS * rows)
    cursor.execute("SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('ticks') WHERE isleaf")
    sizes["tick_bytes"] = float(cursor.fetchone()[0]) / (USERS * 5)
    return sizes


def time_calls(call: Callable[[int], object], server: psutil.Process) -> tuple[float, float]:
    """Return the mean CPU seconds of one call in this process and in PostgreSQL."""
    call(0)

    def server_seconds() -> float:
        times = [process.cpu_times() for process in (server, *server.children())]
        return sum(each.user + each.system for each in times)

    before, own = server_seconds(), time.process_time()
    for number in range(1, CALLS + 1):
        call(number)
    return (time.process_time() - own) / CALLS, (server_seconds() - before) / CALLS


def find_server(url: str) -> psutil.Process:
    """Return the postmaster process of the PostgreSQL server at `url`."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        row = cursor.fetchone()
    parent = psutil.Process(row[0] if row else 0).parent()
    if parent is None:
        raise RuntimeError("the server has no process")
    return parent


def measure() -> Costs:
    """Start servers and measure the unit costs."""
    with run_servers() as settings:
        url = settings.database_url.get_secret_value()
        connection = psycopg2.connect(url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(FILL)
            costs = measure_rows(cursor)
            cursor.execute(f"SELECT id FROM users LIMIT {CALLS + 1}")  # CALLS is a constant of this file
            users = [row[0] for row in cursor.fetchall()]
        connection.close()
        server = find_server(url)
        day = datetime.fromisoformat(DAY).date()

        def score(service: EnhancedDatabaseService, number: int) -> None:
            service.update_leaderboard_entry(users[number], "daily_returns", Decimal(number) / 7, day)

        with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
            _, costs["score_server_seconds"] = time_calls(lambda number: score(service, number), server)
            costs["cold_read_process_seconds"], costs["cold_read_server_seconds"] = time_calls(
                lambda number: service.get_user_by_id(users[number]), server
            )
        with open_service(settings.model_copy(update={"near_cache_size": 0})) as service:
            for user in users:
                service.get_user_by_id(user)
            costs["shared_read_process_seconds"], _ = time_calls(
                lambda number: service.get_user_by_id(users[number]), server
            )
        address = settings.read_redis_address()
        password = settings.redis_password.get_secret_value() if settings.redis_password else None
        with redis.Redis(address.host, address.port, password=password) as client:
            keys = client.keys("user:*")
            costs["redis_value_bytes"] = statistics.mean(client.memory_usage(key) for key in keys[:500])
        with open_service(settings) as service:
            cache: Any = service._cache
            while not cache._near.is_live:
                time.sleep(0.01)
            tracemalloc.start()
            for user in users:
                service.get_user_by_id(user)
            # the near cache and the fail-safe values hold the same decoded value, so both are measured
            # together
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            costs["near_value_bytes"] = held / len(users)
            service.get_user_by_id(users[0])
            costs["near_read_process_seconds"], _ = time_calls(
                lambda _: service.get_user_by_id(users[0]), server
            )
    return Costs(**costs)


@click.command()
@click.argument("what", type=click.Choice(["tables", "measure"]), default="tables")
def main(what: str) -> None:
    """Print the tables of docs/scaling.md, or measure the unit costs again and print them."""
    if what == "measure":
        for name, value in measure()._asdict().items():
            click.echo(f"    {name}={value:.3g},")
    else:
        click.echo("\n\n".join((build_assumptions(), *build_tables())))


if __name__ == "__main__":
    main()
