"""The command line: `echo-markets`.

Owns commands, options and exit statuses: 0 done, 1 failed or unhealthy, 2 wrong settings or arguments,
3 degraded, 130 interrupted. An `EchoMarketsError` is printed as one line, never as a traceback.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from core.app import configure_logging, open_process_lock, open_service
from core.database.privileges import hand_over
from core.database.roles import APP, MONITOR, OWNER, REPLICATION, create_roles, open_administrator
from core.deletion_prompt import confirm_loss
from core.errors import EchoMarketsError, InvalidInput, RowsWouldBeLost, SettingsError
from core.installation import DEMO_PRICES
from core.key_rotation import rotate_keys
from core.metrics import run_job
from core.metrics.scrape import Scrape
from core.migration import Migrator
from core.pool_drill import occupy_pool
from core.selftest import run_self_test
from core.service.audit_chain import describe_break
from core.settings import RoleSettings, Settings
from core.stack.commands import stack
from core.status import read_fleet, show_health, show_stats

FAILED = 1
WRONG_INPUT = 2
INTERRUPTED = 130
PIPE_COLUMNS = 120
MAX_KEEP_DAYS = 36_500
BULK_SLOW_MILLISECONDS = 10_000

PRICE_COLUMNS_HELP = (
    "Columns are found by name; upper case, spaces and punctuation are ignored."
    " symbol: Symbol, Ticker, Name, Stock, Code, Security."
    " date: Date, Datetime, Timestamp, Time, Day, trade_date, or a first column without a name; and Time."
    " open, high, low. close: Close, Close/Last, Last, Price. adjusted: Adj Close, Adjusted."
    " volume: Volume, Vol, Shares Traded. split: Split Ratio, Stock Splits. currency: Currency."
    " A symbol may be part of the names (AAPL.Open) or in a second line."
    " docs/price-files.md lists all names, with examples."
)


class _MainGroup(click.Group):
    """Prints an `EchoMarketsError` or a wrong argument as one line, and exits with the status for it."""

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
        raise  # click prints the help text for this error
    except click.UsageError as error:
        # join the lines: click writes each allowed choice on a separate line
        message = " ".join(error.format_message().split()).removesuffix(".")
        remedy = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        _fail(f"{message[:1].lower()}{message[1:]}{remedy}", WRONG_INPUT)
    except (SettingsError, InvalidInput) as error:
        _fail(error, WRONG_INPUT)
    except EchoMarketsError as error:
        _fail(error, FAILED)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)


def _fail(error: Exception | str, status: int) -> NoReturn:
    click.echo(f"error: {error}", err=True)
    sys.exit(status)


@click.group(cls=_MainGroup)
@click.version_option(package_name="echo-markets", message="%(version)s")
def main() -> None:
    """Commands of the Echo Markets data stack; settings are read from the environment."""


main.add_command(stack)


@main.command()
@click.argument("direction", type=click.Choice(["up", "down", "status"]), default="up")
@click.option(
    "--to",
    "target",
    metavar="NAME",
    help="With down: revert all migrations back to this one, and this one too.",
)
@click.option("--drop-rows", is_flag=True, help="With down: revert even if that deletes rows.")
def migrate(direction: str, target: str | None, *, drop_rows: bool) -> None:
    """Apply pending migrations (up, the default), revert the newest one (down), or list all (status)."""
    settings = _load_settings()
    migrator = Migrator(settings)
    for option, is_given in (("--to", target is not None), ("--drop-rows", drop_rows)):
        if is_given and direction != "down":
            raise InvalidInput(f"{option} is for down only; leave it out, or revert with `migrate down`")
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
        # the transaction has ended, so no lock is held while the user is asked
        confirm_loss(error, option="--drop-rows")
        return migrator.down(target)


def _show_status(migrator: Migrator) -> None:
    rows = migrator.status()
    for row in rows:
        state = f"applied {row.applied_at:%Y-%m-%d %H:%M:%S}" if row.applied_at else "pending"
        click.echo(f"{row.name:40} {state}")
    if any(row.applied_at is None for row in rows):
        sys.exit(FAILED)


@main.command("roles")
def roles_command() -> None:
    """Create the roles of the database, set their passwords, and give the schema to the owner role.

    To set other passwords, run this again. Then run `migrate up` with the owner role in DIRECT_URL: it grants
    the privileges of each role.
    """
    settings = RoleSettings.load()
    passwords = {
        OWNER: settings.owner_password.get_secret_value(),
        APP: settings.app_password.get_secret_value(),
        MONITOR: settings.monitor_password.get_secret_value(),
    }
    if settings.replication_password is not None:
        passwords[REPLICATION] = settings.replication_password.get_secret_value()
    with open_administrator(settings.admin_url.get_secret_value()) as admin:
        created = create_roles(admin, passwords)
        hand_over(admin)
    for name in created:
        click.echo(f"created {name}")
    click.echo(f"the passwords are set, and the role {OWNER} owns the schema")


@main.command("import-prices", epilog=PRICE_COLUMNS_HELP)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option(
    "--demo",
    is_flag=True,
    help="Load the price history of this package, moved by whole weeks so that it ends last week.",
)
@click.option("--keep-dates", is_flag=True, help="With --demo: keep the dates of the history, 2000 to 2013.")
@click.option(
    "--dry-run", is_flag=True, help="Print how the files are read and their first rows; load nothing."
)
@click.option(
    "--skip-invalid", is_flag=True, help="Load the valid rows and print how many others there are, by reason."
)
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option("--symbol", help="The symbol of files without a symbol column; the default is the file's name.")
@click.option(
    "--columns",
    multiple=True,
    metavar="LIST",
    help="The columns in order, for a file without a header: date,open,high,low,close, with '-' for a"
    " column to ignore. Or the names of some columns: close=Settle,volume=-.",
)
@click.option(
    "--date-format", metavar="FORM", help="The form of dates: DD/MM/YYYY, MM/DD/YYYY, %d.%m.%Y and others."
)
@click.option("--decimal", type=click.Choice([".", ","]), help="The decimal separator.")
@click.option("--timezone", metavar="ZONE", help="The time zone of trading days, for times with a zone.")
@click.option("--encoding", metavar="NAME", help="The encoding of the text, such as gb18030.")
@click.option("--scale", type=float, metavar="N", help="Divide all prices by N, such as 10000 for LEAN.")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="Load only these rows, such as series=EQ."
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="SYMBOL:DAY:NEW:OLD",
    help="Divide the prices before a day: AAPL:2014-06-09:7:1 divides by 7. 1:1 declares that a jump in"
    " prices is no split.",
)
def import_prices_command(
    files: tuple[Path, ...],
    *,
    demo: bool,
    keep_dates: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Load daily prices from files, folders, archives or standard input (-).

    Prints how each file is read. If a file can be read in two ways, the command fails and names the option
    that decides. Loads all rows of all files, or none. Loading the same files again changes nothing.
    """
    if bool(files) == demo:
        raise InvalidInput("name the FILE to load, or give --demo for the prices that come with the stack")
    if keep_dates and not demo:
        raise InvalidInput("--keep-dates is for --demo only; files keep their dates")
    from core.bulk_load import show_progress
    from core.price_import.loading import load_prices, move_to_today
    from core.price_import.options import parse_options
    from core.price_import.reading import read_prices

    reading_options = parse_options(**options)
    with show_progress() as progress:
        reading = read_prices(files or [DEMO_PRICES], reading_options, progress=progress)
    for line in reading.describe():
        click.echo(line)
    if dry_run:
        click.echo("\n".join([*reading.describe_rows(), "nothing was loaded: --dry-run"]))
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
@click.option("--sessions", type=int, metavar="N", help="Replay the last N trading days; the default is all.")
@click.option(
    "--seed", "number", type=int, default=1, show_default=True, help="The same number gives the same game."
)
@click.option(
    "--replace", is_flag=True, help="Seed even if the database has players or sessions that were not seeded."
)
def seed_command(players: int, sessions: int | None, number: int, *, replace: bool) -> None:
    """Replay imported trading days as sessions of simulated players.

    If the database has simulated players of a different replay, they are replaced.
    """
    from core.bulk_load import show_progress
    from core.simulation.replay import plan_seed

    with open_service(_load_bulk_settings()) as service:
        plan = plan_seed(service, players=players, sessions=sessions, seed=number)
        found = plan.survey()
        if found.needs_confirmation and not replace:
            confirm_loss(RowsWouldBeLost(str(found)), option="--replace")
        if found.replaced:
            click.echo(f"replacing {found.replaced} simulated players of another replay", err=True)
        with show_progress() as progress:
            result = plan.run(progress)
    click.echo(str(result))


@main.command("catch-up")
def catch_up() -> None:
    """Play the sessions that were missed between the last session and today."""
    from core.bulk_load import show_progress
    from core.simulation.catch_up import play_missed_sessions

    with open_service(_load_bulk_settings()) as service, show_progress() as progress:
        days = play_missed_sessions(service, datetime.now(UTC).date(), progress=progress)
    click.echo(f"played {len(days)} sessions from {days[0]} to {days[-1]}" if days else "nothing to do")


@main.command()
def simulate() -> None:
    """Run the live market and its players until SIGTERM."""
    from core.simulation.simulator import LOCK, run_simulator

    settings = _load_settings()
    with open_service(settings, role="simulator") as service:
        run_simulator(
            service,
            interval_seconds=settings.simulator_interval / 1000,
            audit_keep_months=settings.audit_keep_months or None,
            lock=open_process_lock(settings, LOCK, role="simulator"),
        )


@main.command()
@click.option("--months-ahead", type=int, default=2, show_default=True)
@click.option(
    "--keep-days", type=int, metavar="N", help="Drop months of ticks that are completely older than N days."
)
def maintain(months_ahead: int, keep_days: int | None) -> None:
    """Seal the audit log, create the partitions of the next months, and drop old partitions.

    Drops ticks only with --keep-days, and audit events only if AUDIT_KEEP_MONTHS is set.
    """
    keep = None if keep_days is None else _parse_days(keep_days)
    settings = _load_settings()
    with open_service(settings) as service:
        ticks = service.maintain_partitions(months_ahead=months_ahead, keep=keep)
        audit = service.maintain_audit_log(
            months_ahead=months_ahead, keep_months=settings.audit_keep_months or None
        )
    for name in (*ticks.created, *audit.created):
        click.echo(f"created {name}")
    for name in (*ticks.dropped, *audit.dropped):
        click.echo(f"dropped {name}")
    if ticks.moved:
        click.echo(f"moved {ticks.moved} ticks")
    if not any((ticks.created, ticks.dropped, audit.created, audit.dropped)):
        click.echo("nothing to do")


def _parse_days(days: int) -> timedelta:
    if not 1 <= days <= MAX_KEEP_DAYS:
        raise InvalidInput(f"--keep-days is {days}; give at least 1 and at most {MAX_KEEP_DAYS}")
    return timedelta(days=days)


@main.group()
def audit() -> None:
    """Seal the audit log, or verify that nobody changed it."""


@audit.command("seal")
def seal_command() -> None:
    """Seal the audit events that have no seal yet, and print the newest seal.

    Keep the printed seal outside the database, for `audit verify --anchor`.
    """
    with open_service(_load_settings()) as service:
        sealing = service.seal_audit_log()
    click.echo(f"sealed {sealing.events} events")
    if sealing.anchor:
        click.echo(f"newest seal {sealing.anchor}")


@audit.command("verify")
@click.option(
    "--anchor", metavar="NUMBER:HASH", help="A seal that `audit seal` has printed: it must still be there."
)
def verify_command(anchor: str | None) -> None:
    """Compare every sealed event with its seal; exit status 1 if an event or a seal was changed."""
    with open_service(_load_settings()) as service:
        result = service.verify_audit_log(anchor=anchor)
    click.echo(
        f"{result.seals} seals are intact, with {result.events} events;"
        f" {result.dropped} events were dropped with their months, {result.unsealed} are not sealed yet"
    )
    if result.anchor:
        click.echo(f"newest seal {result.anchor}" if result.broken is None else f"intact to {result.anchor}")
    if result.broken is not None:
        _fail(describe_break(result.broken), FAILED)


@main.command("rotate-keys")
def rotate_keys_command() -> None:
    """Encrypt every stored e-mail address with the first key of ENCRYPTION_KEYS.

    If it is interrupted, run it again: it continues with the addresses that have another key.
    """
    from core.bulk_load import show_progress

    with open_service(_load_bulk_settings()) as service, show_progress() as progress:
        rotation = rotate_keys(service, progress=progress)
    for line in rotation.describe():
        click.echo(line)
    if not rotation.is_complete:
        sys.exit(FAILED)


@main.command("self-test")
def self_test() -> None:
    """Run every call of the service with a temporary player, and remove the player."""
    with _interrupted_by_signals(), open_service(_load_settings()) as service:
        is_passed = run_self_test(service, report=click.echo)
    sys.exit(0 if is_passed else FAILED)


@main.command()
def health() -> None:
    """Print the health of the stack; exit status 0 healthy, 3 degraded, 1 anything else."""
    _show_fleet(show_health)


@main.command()
def stats() -> None:
    """Print statistics of pools, caches and operations, and exit with the status of `health`."""
    _show_fleet(show_stats)


def _show_fleet(show: Callable[[Scrape, str, Console], int]) -> NoReturn:
    settings = _load_settings()
    scrape, source = read_fleet(settings, lambda: open_service(settings))
    # a pipe has no width: choose one at which rich does not shorten the lines
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    sys.exit(show(scrape, source, console))


@main.command("occupy-pool", hidden=True)
def occupy_pool_command() -> None:
    """Pool drill: hold every connection of this process until SIGTERM, while more threads wait for one."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings = _load_settings()
    with open_service(settings, role="drill") as service:
        occupy_pool(service, connections=settings.database_connection_limit, stopping=stopping)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at the first SIGINT, SIGTERM or SIGHUP, and ignore all later ones."""
    # leave out a signal that this process already ignores, such as SIGINT in a background job of a script, or
    # SIGHUP under nohup
    handled = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]

    def interrupt(*_: object) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = [signal.signal(number, interrupt) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, previous, strict=True):
            signal.signal(number, handler)


def _load_settings() -> Settings:
    settings = Settings.load()
    configure_logging(settings)
    return settings


def _load_bulk_settings() -> Settings:
    settings = _load_settings()
    if "database_slow_query" in settings.model_fields_set:
        return settings
    # a batch of 20,000 rows takes a second on a small machine; do not log each batch as a slow statement
    return settings.model_copy(update={"database_slow_query": BULK_SLOW_MILLISECONDS})


if __name__ == "__main__":
    main()
