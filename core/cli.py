"""The command line: `echo-markets`.

Owns commands, options and exit statuses: 0 done, 1 failed or not as it should be,
2 wrong settings or arguments, 3 the stack serves but is degraded. What a command does is
elsewhere; an error of the stack is one line here and never a traceback.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from core.app import configure_logging, open_service
from core.confirmation import confirm_loss
from core.errors import EchoMarketsError, InvalidInput, RowsWouldBeLost, SettingsError
from core.figures import read_fleet, show_health, show_stats
from core.metric_files import run_job
from core.migration import Migrator
from core.occupation import occupy_pool
from core.resources import DEMO_PRICES
from core.scrape import Scrape
from core.selftest import run_self_test
from core.settings import Settings
from core.stack.commands import stack

FAILED = 1
WRONG_INPUT = 2
INTERRUPTED = 130
PIPE_COLUMNS = 120
MOST_DAYS = 36_500
BULK_SLOW_MILLISECONDS = 10_000

PRICE_COLUMNS_HELP = (
    "Columns are found by name; case, spaces and marks do not count."
    " symbol: Symbol, Ticker, Name, Stock, Code, Security."
    " date: Date, Datetime, Timestamp, Time, Day, trade_date, or a first column without a name; and Time."
    " open, high, low. close: Close, Close/Last, Last, Price. adjusted: Adj Close, Adjusted."
    " volume: Volume, Vol, Shares Traded. split: Split Ratio, Stock Splits. currency: Currency."
    " A symbol may stand in the names (AAPL.Open) or in a second line."
    " docs/price-files.md has all of them, and examples."
)

# Commands of the simulation import it themselves: numpy costs every other command half a second.


class _EdgeGroup(click.Group):
    """Turns the stack's errors, and wrong arguments, into one line and an exit status."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _errors_in_one_line():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _errors_in_one_line():
            return super().invoke(ctx)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise  # it shows the help instead
    except click.UsageError as error:
        _fail(f"{_in_house_style(error.format_message())}{_help_for(error)}", WRONG_INPUT)
    except (SettingsError, InvalidInput) as error:
        _fail(error, WRONG_INPUT)
    except EchoMarketsError as error:
        _fail(error, FAILED)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)


def _in_house_style(message: str) -> str:
    line = " ".join(message.split())  # click lists choices on lines of their own
    return line[:1].lower() + line[1:].removesuffix(".")


def _help_for(error: click.UsageError) -> str:
    return f"; see `{error.ctx.command_path} --help`" if error.ctx else ""


def _fail(error: Exception | str, status: int) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(status)


@click.group(cls=_EdgeGroup)
@click.version_option(package_name="echo-markets", message="%(version)s")
def main() -> None:
    """Run the data stack of Echo Markets; settings come from the environment."""


main.add_command(stack)


@main.command()
@click.argument("direction", type=click.Choice(["up", "down", "status"]), default="up")
@click.option("--to", "target", metavar="NAME", help="With down: revert back through this one.")
@click.option("--drop-rows", is_flag=True, help="With down: also when tables with rows go.")
def migrate(direction: str, target: str | None, *, drop_rows: bool) -> None:
    """Bring the schema up (default), revert the newest migration with its tables, or list the state."""
    settings = _load_settings()
    migrator = Migrator(settings)
    for option, is_given in (("--to", target is not None), ("--drop-rows", drop_rows)):
        if is_given and direction != "down":
            raise InvalidInput(f"{option} is for down only; up always applies everything")
    with run_job(f"migrate_{direction}", settings.metrics_dir):
        if direction == "status":
            _show_status(migrator)
            return
        names = migrator.up() if direction == "up" else _revert(migrator, target, drop_rows=drop_rows)
    verb = "applied" if direction == "up" else "reverted"
    for name in names:
        click.echo(f"{verb} {name}")
    if not names:
        click.echo("nothing to do")


def _revert(migrator: Migrator, target: str | None, *, drop_rows: bool) -> list[str]:
    try:
        return migrator.down(target, drop_rows=drop_rows)
    except RowsWouldBeLost as error:
        # asked between two transactions: nobody waits for locks while somebody thinks
        confirm_loss(error, option="--drop-rows")
        return migrator.down(target)


def _show_status(migrator: Migrator) -> None:
    rows = migrator.status()
    for row in rows:
        state = f"applied {row.applied_at:%Y-%m-%d %H:%M:%S}" if row.applied_at else "pending"
        click.echo(f"{row.name:40} {state}")
    if any(row.applied_at is None for row in rows):
        sys.exit(FAILED)


@main.command("import-prices", epilog=PRICE_COLUMNS_HELP)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option(
    "--demo",
    is_flag=True,
    help="Load the price history that comes with the stack, moved by weeks to end within the last one.",
)
@click.option("--keep-dates", is_flag=True, help="With --demo: leave the history at its own dates.")
@click.option(
    "--dry-run", is_flag=True, help="Say how the files are understood, show the first rows, and stop."
)
@click.option("--skip-invalid", is_flag=True, help="Load the valid rows and count the others by reason.")
@click.option("--strict", is_flag=True, help="Refuse what is otherwise a warning.")
@click.option("--symbol", help="The symbol of files without one; else the file's name is taken.")
@click.option(
    "--columns",
    multiple=True,
    metavar="LIST",
    help="date,open,high,low,close for a file without"
    " header, in order, '-' for a column to ignore; or close=Settle,volume=- for some columns.",
)
@click.option("--date-format", metavar="FORM", help="DD/MM/YYYY, MM/DD/YYYY, %d.%m.%Y and others.")
@click.option("--decimal", type=click.Choice([".", ","]), help="The decimal mark.")
@click.option("--timezone", metavar="ZONE", help="In which zone a day is, for times that name one.")
@click.option("--encoding", metavar="NAME", help="The encoding, such as gb18030.")
@click.option("--scale", type=float, metavar="N", help="Divide all prices by N, such as 10000 for LEAN.")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="Take these rows only, such as series=EQ."
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="SYMBOL:DAY:NEW:OLD",
    help="Divide the prices before a"
    " day, as AAPL:2014-06-09:7:1 does by 7; 1:1 says that a jump is no split.",
)
def import_prices_command(
    files: tuple[Path, ...],
    *,
    demo: bool,
    keep_dates: bool,
    dry_run: bool,
    skip_invalid: bool,
    strict: bool,
    splits: tuple[str, ...],
    **options: Any,
) -> None:
    """Load daily prices from files, folders, archives or standard input (-).

    Says how the files are understood and refuses what can be read in two ways, with the option that
    decides it. Nothing is loaded unless every row of every file can be; loading again changes nothing.
    """
    if bool(files) == demo:
        raise InvalidInput("name the FILE to load, or give --demo for the prices that come with the stack")
    if keep_dates and not demo:
        raise InvalidInput("--keep-dates is for --demo only; files keep their dates")
    from core.simulation.moved_history import move_to_today  # noqa: PLC0415  # see above
    from core.simulation.price_options import parse_options, parse_split  # noqa: PLC0415  # see above
    from core.simulation.price_plan import describe_rows  # noqa: PLC0415  # see above
    from core.simulation.prices import load_prices, read_prices  # noqa: PLC0415  # see above
    from core.simulation.progress import show_progress  # noqa: PLC0415  # see above

    reading_options, given = parse_options(**options), [parse_split(text) for text in splits]
    with show_progress() as progress:
        reading = read_prices(
            files or [DEMO_PRICES],
            reading_options,
            splits=given,
            strict=strict,
            skip_invalid=skip_invalid,
            progress=progress,
        )
    for line in reading.plan.describe(reading.table):
        click.echo(line)
    if dry_run:
        click.echo("\n".join([*describe_rows(reading.table), "nothing was loaded: --dry-run"]))
        return
    with open_service(_load_bulk_settings()) as service, show_progress() as progress:
        today = datetime.now(UTC).date()
        weeks = move_to_today(service, reading, today, keep_dates=keep_dates) if demo else 0
        result = load_prices(service, reading, progress=progress)
        service.update_moved_weeks(dict.fromkeys(result.symbols, weeks) if demo else {})
    if weeks:
        click.echo(f"moved by {weeks} weeks, to {result.first_day} to {result.last_day}")
    click.echo(
        f"{result.rows} days of {len(result.symbols)} symbols read, {result.changed} new or changed,"
        f" {result.skipped} invalid rows skipped, {result.repeated} repeated"
    )


@main.command("seed")
@click.option("--players", type=int, default=100, show_default=True)
@click.option("--sessions", type=int, help="The last N trading days; all without it.")
@click.option("--seed", "number", type=int, default=1, show_default=True, help="Same number, same game.")
@click.option(
    "--replace", is_flag=True, help="Also where there are players or sessions that no seed has made."
)
def seed_command(players: int, sessions: int | None, number: int, *, replace: bool) -> None:
    """Replay imported trading days as game sessions; replaces the players of another replay."""
    from core.simulation.progress import show_progress  # noqa: PLC0415  # see above
    from core.simulation.replay import plan_seed  # noqa: PLC0415  # see above

    with open_service(_load_bulk_settings()) as service:
        plan = plan_seed(service, players=players, sessions=sessions, seed=number)
        found = plan.survey()
        if found.is_of_people and not replace:
            confirm_loss(RowsWouldBeLost(str(found)), option="--replace")
        if found.replaced:
            click.echo(f"replacing {found.replaced} simulated players of another replay", err=True)
        with show_progress() as progress:
            result = plan.run(progress)
    click.echo(str(result))


@main.command("catch-up")
def catch_up() -> None:
    """Play the sessions between the last one and today, so that the game has no hole."""
    from core.simulation.missed_sessions import play_missed_sessions  # noqa: PLC0415  # see above
    from core.simulation.progress import show_progress  # noqa: PLC0415  # see above

    with open_service(_load_bulk_settings()) as service, show_progress() as progress:
        days = play_missed_sessions(service, datetime.now(UTC).date(), progress=progress)
    click.echo(f"played {len(days)} sessions from {days[0]} to {days[-1]}" if days else "nothing to do")


@main.command()
def simulate() -> None:
    """Continue the market and the players live until SIGTERM."""
    from core.simulation.live import run_simulator  # noqa: PLC0415  # see above

    settings = _load_settings()
    seconds = settings.simulator_interval / 1000
    with (
        open_service(settings, role="simulator") as service,
        service.metrics.regular_task("simulator", interval_seconds=seconds) as count_success,
    ):
        run_simulator(service, interval_seconds=seconds, on_step=count_success)


@main.command()
@click.option("--months-ahead", type=int, default=2, show_default=True)
@click.option("--keep-days", type=int, metavar="N", help="Drop months of ticks wholly older than N days.")
def maintain(months_ahead: int, keep_days: int | None) -> None:
    """Create the coming months' partitions of the ticks; with --keep-days drop old ones."""
    keep = None if keep_days is None else _parse_days(keep_days)
    with open_service(_load_settings()) as service:
        report = service.maintain_partitions(months_ahead=months_ahead, keep=keep)
    for name in report.created:
        click.echo(f"created {name}")
    for name in report.dropped:
        click.echo(f"dropped {name}")
    if report.moved:
        click.echo(f"moved {report.moved} ticks")
    if not (report.created or report.dropped):
        click.echo("nothing to do")


def _parse_days(days: int) -> timedelta:
    if not 1 <= days <= MOST_DAYS:
        raise InvalidInput(f"--keep-days is {days}; give at least 1 and at most {MOST_DAYS}")
    return timedelta(days=days)


@main.command("self-test")
def self_test() -> None:
    """Run every call of the service on a throw-away player, which is removed again."""
    with _interrupted_by_signals(), open_service(_load_settings()) as service:
        is_passed = run_self_test(service, report=click.echo)
    sys.exit(0 if is_passed else FAILED)


@main.command()
def health() -> None:
    """Print the health of the stack; exit status 0 healthy, 3 degraded, 1 anything else."""
    sys.exit(show_health(*_read_fleet(), _open_console()))


@main.command()
def stats() -> None:
    """Print the figures of pools, caches and operations; exit status as `health`."""
    sys.exit(show_stats(*_read_fleet(), _open_console()))


@main.command("occupy-pool", hidden=True)
def occupy_pool_command() -> None:
    """Hold every connection of this process's pool until SIGTERM, while more threads want one; for drills."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings = _load_settings()
    with open_service(settings, role="drill") as service:
        occupy_pool(service, connections=settings.database_connection_limit, stopping=stopping)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let the first signal that ends a process raise `KeyboardInterrupt`, and none disturb what follows."""
    # a background job of a script ignores SIGINT, and nohup SIGHUP
    heard = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]

    def interrupt(*_: object) -> None:
        for number in heard:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = [signal.signal(number, interrupt) for number in heard]
    try:
        yield
    finally:
        for number, handler in zip(heard, previous, strict=True):
            signal.signal(number, handler)


def _read_fleet() -> tuple[Scrape, str]:
    settings = _load_settings()
    return read_fleet(settings, lambda: open_service(settings))


def _open_console() -> Console:
    # a pipe has no width of its own, and what reads it wants whole lines
    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def _load_settings() -> Settings:
    settings = Settings.load()
    configure_logging(settings)
    return settings


def _load_bulk_settings() -> Settings:
    settings = _load_settings()
    if "database_slow_query" in settings.model_fields_set:
        return settings
    # a chunk of 20,000 rows takes a second on a small machine and is no sign of trouble
    return settings.model_copy(update={"database_slow_query": BULK_SLOW_MILLISECONDS})


if __name__ == "__main__":
    main()
