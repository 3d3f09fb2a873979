"""`python -m tests.bench`: how long the service takes, and how long the bare drivers do.

Owns the servers, which are started for the run and forgotten, with the settings
that they have in the stack, and the tables that are shown.
"""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import redis
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from core import Settings, open_service
from core.local.servers import PostgresServer, ValkeyServer, run_postgres, run_valkey
from core.migration import Migrator
from tests.bench.bulk import connect, measure_import, measure_seed
from tests.bench.calls import CATEGORY, Bench, measure_calls
from tests.bench.timing import Comparison

PRICES = Path(__file__).resolve().parents[2] / "data" / "market_history.csv.gz"


class Scale(NamedTuple):
    """How much is measured."""

    players: int
    sessions: int
    calls: int


SCALES = {"small": Scale(100, 50, 300), "full": Scale(1000, 250, 2000)}


@click.command()
@click.option("--scale", type=click.Choice(list(SCALES)), default="full", show_default=True)
def main(scale: str) -> None:
    """Measure bulk loads and single calls on servers of their own."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="echo-markets-bench-") as folder, _servers(folder) as settings:
        bulk, calls = _measure(settings, SCALES[scale], console)
    console.print(_bulk_table(bulk))
    console.print(_calls_table(calls))


@contextmanager
def _servers(folder: str) -> Iterator[Settings]:
    with run_postgres(Path(folder)) as postgres, run_valkey(Path(folder)) as valkey:
        yield _settings(postgres, valkey)


def _settings(postgres: PostgresServer, valkey: ValkeyServer) -> Settings:
    return Settings(
        database_url=SecretStr(postgres.url()),
        redis_url=SecretStr(valkey.url),
        redis_password=SecretStr(valkey.password),
        direct_url=None,
        metrics_dir=None,
    )


def _measure(settings: Settings, scale: Scale, console: Console) -> tuple[list[Comparison], list[Comparison]]:
    url = settings.database_url.get_secret_value()
    Migrator(settings).up()
    with closing(connect(url)) as bare, open_service(settings) as service:
        with console.status("importing prices"):
            imported = measure_import(service, bare, PRICES)
        with console.status("replaying sessions"):
            replayed = measure_seed(service, bare, players=scale.players, sessions=scale.sessions)
    with console.status("calling the service"), _bench(settings, scale) as bench:
        return [imported, replayed], list(measure_calls(bench))


@contextmanager
def _bench(settings: Settings, scale: Scale) -> Iterator[Bench]:
    password = settings.redis_password
    with (
        open_service(settings) as cached,
        open_service(settings.model_copy(update={"enable_redis_cache": False})) as uncached,
        closing(connect(settings.database_url.get_secret_value())) as database,
        redis.Redis.from_url(
            settings.redis_url.get_secret_value(), password=password and password.get_secret_value()
        ) as cache,
    ):
        database.autocommit = True
        [day] = cached.list_session_dates(limit=1)
        leader = cached.get_leaderboard(CATEGORY, day, 1)[0]
        user = cached.get_user_by_id(leader.user_id)
        yield Bench(cached, uncached, database, cache, day, user, scale.calls)


def _bulk_table(found: list[Comparison]) -> Table:
    table = Table("bulk work", "rows", "seconds", "rows/s", "COPY alone, s", "ratio", box=None)
    for item in found:
        table.add_row(
            item.name,
            f"{item.rows:,}",
            f"{item.median_seconds:.2f}",
            f"{item.rows / item.median_seconds:,.0f}",
            f"{item.bare_median_seconds:.2f}",
            f"{item.ratio:.1f}",
        )
    return table


def _calls_table(found: list[Comparison]) -> Table:
    table = Table("call", "median ms", "p95 ms", "bare driver, ms", "ratio", box=None)
    for item in found:
        table.add_row(
            item.name,
            f"{item.median_seconds * 1000:.3f}",
            f"{item.p95_seconds * 1000:.3f}",
            f"{item.bare_median_seconds * 1000:.3f}",
            f"{item.ratio:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
