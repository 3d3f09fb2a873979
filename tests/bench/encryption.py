"""`python -m tests.bench.encryption`: compare users with an encrypted e-mail address and users without one.

Owns the pairs of calls that are compared. The two calls of a pair take turns, and each ratio compares two
times of the same round.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any

import click
from frozendict import frozendict
from rich.console import Console
from rich.table import Table

from core import EnhancedDatabaseService, open_service
from core.records import User
from core.service.writes import new_id
from tests.bench.growth import wait_for_near
from tests.bench.isolation import clock
from tests.bench.servers import run_servers

ROUNDS = 60
LOADED = 1_000
# Number of calls per turn, so that a turn takes at most 0.1 s.
CALLS = {"create": 20, "load 1,000": 1, "get": 100, "get, shared cache": 300, "get, near cache": 5_000}

Call = Callable[[], object]


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
def main(rounds: int) -> None:
    """Measure each call for users with and without an e-mail address."""
    table = Table("call", "without", "with", "ratio", box=None)
    with open_services() as services:
        for name, (plain, encrypted) in list_pairs(*services).items():
            figures = measure(plain, encrypted, rounds=rounds, calls=CALLS[name])
            ratio = statistics.median(after / before for before, after in figures)
            times = [f"{statistics.median(column) * 1e6:.2f} us" for column in zip(*figures, strict=True)]
            table.add_row(name, *times, f"{ratio:.3f}")
    console = Console(width=100)
    console.print(table)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"medians of {rounds} rounds, on {os.cpu_count()} cores at load {load}")


@contextmanager
def open_services() -> Iterator[list[EnhancedDatabaseService]]:
    """Yield a service without a cache, a service with the shared cache, and a service with both tiers."""
    changes: tuple[dict[str, Any], ...] = ({"enable_redis_cache": False}, {"near_cache_size": 0}, {})
    with run_servers() as settings, ExitStack() as stack:
        services = [
            stack.enter_context(open_service(settings.model_copy(update=change))) for change in changes
        ]
        wait_for_near(services[-1])
        yield services


def list_pairs(
    uncached: EnhancedDatabaseService, shared: EnhancedDatabaseService, near: EnhancedDatabaseService
) -> dict[str, tuple[Call, Call]]:
    """Return each call twice: for a user without an e-mail address, and for a user with one."""
    numbers = count()
    users = [
        uncached.create_user(username=f"reader{n}", email=email) for n, email in enumerate((None, "a@b.c"))
    ]

    def create(email: str | None) -> Call:
        return lambda: uncached.create_user(username=f"player{next(numbers)}", email=email)

    def load(domain: str | None) -> Call:
        def run() -> None:
            now, turn = datetime.now(UTC), next(numbers)
            names = [f"loaded{turn}-{n}" for n in range(LOADED)]
            uncached.load_users(
                User(new_id(), name, None, domain and name + domain, None, frozendict(), now, now)
                for name in names
            )

        return run

    def get(service: EnhancedDatabaseService) -> tuple[Call, Call]:
        first, second = (user.id for user in users)
        return lambda: service.get_user_by_id(first), lambda: service.get_user_by_id(second)

    return {
        "create": (create(None), create("alice@example.com")),
        "load 1,000": (load(None), load("@example.com")),
        "get": get(uncached),
        "get, shared cache": get(shared),
        "get, near cache": get(near),
    }


def measure(plain: Call, encrypted: Call, *, rounds: int, calls: int) -> list[tuple[float, float]]:
    """Return the seconds per call of `plain` and `encrypted` for each round; their order alternates."""
    figures = []
    for call in (plain, encrypted):
        clock(call, 1 + calls // 10)
    for number in range(rounds):
        if number % 2:
            after, before = clock(encrypted, calls), clock(plain, calls)
        else:
            before, after = clock(plain, calls), clock(encrypted, calls)
        figures.append((before, after))
    return figures


if __name__ == "__main__":
    main()
