"""`python -m tests.bench.audit`: measure how much the audit log slows down writes.

Each round makes each write in three ways: without the audit triggers, with the triggers but without an actor,
and with both. The order of the ways rotates. The fastest turns are compared, because other load on the
machine can only make a turn slower.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date
from decimal import Decimal
from itertools import count

import click
import psycopg2

from core import EnhancedDatabaseService, open_service
from core.records import LeaderboardUpdate, PortfolioUpdate, User
from tests.bench.servers import run_servers

DAY = date(2026, 3, 2)
WAYS = ("without triggers", "without actor", "with actor")
TABLES = ("users", "portfolios", "quests", "leaderboard_entries")
# Many short turns, so that other load on the machine affects every way equally.
SINGLE_CALLS, SINGLE_ROUNDS = 20, 60
BATCH_ROUNDS = 15
EVENTS = ("inserted", "updated", "deleted")

Write = Callable[[int], object]


def list_writes(service: EnhancedDatabaseService, users: list[User]) -> Iterator[tuple[str, int, Write]]:
    """Yield the name, the calls per turn and the function of each write; the function takes a new number."""
    player = users[0].id
    quest = service.create_quest(player, type="T", title="T", target_value=Decimal(10) ** 12)

    def change(number: int) -> list[PortfolioUpdate]:
        return [PortfolioUpdate(user.id, DAY, Decimal(10_000 + number), Decimal(number)) for user in users]

    def score(number: int) -> list[LeaderboardUpdate]:
        return [LeaderboardUpdate(user.id, Decimal(number)) for user in users]

    yield "one profile", SINGLE_CALLS, lambda n: service.update_user_profile(player, name=f"Name {n}")
    yield (
        "one portfolio",
        SINGLE_CALLS,
        lambda n: service.update_portfolio_value(player, DAY, Decimal(10_000 + n), Decimal(n)),
    )
    yield (
        "one score",
        SINGLE_CALLS,
        lambda n: service.update_leaderboard_entry(player, "one", Decimal(n), DAY),
    )
    yield "one quest", SINGLE_CALLS, lambda n: service.update_quest_progress(quest.id, Decimal(n))
    yield f"{len(users):,} portfolios", 1, lambda n: service.batch_update_portfolios(change(n))
    yield f"{len(users):,} scores", 1, lambda n: service.batch_update_leaderboard("many", score(n), DAY)


@click.command()
@click.option("--players", default=10_000, show_default=True)
def main(players: int) -> None:
    """Print the time of each write in the three ways, and the ratio to the time without triggers."""
    with run_servers() as settings, open_service(settings) as service:
        with service.transaction():
            users = [service.create_user(username=f"player{n}") for n in range(players)]
            for user in users:
                service.get_current_portfolio(user.id, DAY)
        connection = psycopg2.connect(settings.database_url.get_secret_value())
        connection.autocommit = True
        with connection.cursor() as cursor:

            def switch(way: str) -> None:
                verb = "DISABLE" if way == WAYS[0] else "ENABLE"
                for table in TABLES:
                    for event in EVENTS:
                        cursor.execute(f"ALTER TABLE {table} {verb} TRIGGER {table}_audit_{event}")

            for name, calls, write in list_writes(service, users):
                click.echo(_compare(service, name, calls, write, switch=switch))
        connection.close()


def _compare(
    service: EnhancedDatabaseService,
    name: str,
    calls: int,
    write: Write,
    *,
    switch: Callable[[str], None],
) -> str:
    numbers = count(1)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(BATCH_ROUNDS if calls == 1 else SINGLE_ROUNDS):
        for way in WAYS[turn % 3 :] + WAYS[: turn % 3]:
            switch(way)
            with service.acting_as("operator") if way == WAYS[2] else nullcontext():
                # this call is not measured: after ALTER TABLE the server plans the trigger functions again
                write(next(numbers))
                started = time.perf_counter()
                for _ in range(calls):
                    write(next(numbers))
                seconds[way].append((time.perf_counter() - started) / calls)
    fastest = [min(seconds[way]) for way in WAYS]
    figures = ", ".join(
        f"{way} {value * 1000:.2f} ms ({value / fastest[0]:.2f})"
        for way, value in zip(WAYS, fastest, strict=True)
    )
    return f"{name}: {figures}"


if __name__ == "__main__":
    main()
