"""The `stack` commands: up, down, status, logs, clean, load and run.

Owns their options and exit statuses; what they do is in `stack` and `compose`.
"""

import os
import signal
import sys
from typing import Any, NoReturn

import click
from rich.console import Console

from core.confirmation import is_somebody_there
from core.resources import CHECKOUT
from core.settings import Settings
from core.stack.choice import choose_stack, find_stack
from core.stack.choice import clean as forget_stack
from core.stack.configuration import StackSettings
from core.stack.demo_data import load_demo_data, run_command
from core.stack.drills.drill import DRILLS, FAULT_SECONDS, Runner
from core.stack.drills.faults import Place
from core.stack.errors import StackError
from core.stack.folder import StackFolder
from core.stack.other_database import describe_other_database
from core.stack.stack_health import refuse_other_stack

ROOT = CHECKOUT
UNHEALTHY = 1
PIPE_COLUMNS = 120
INTERRUPTED = 130
UNEXPECTED = 1


class _CheckoutCommand(click.Command):
    """A command on the stack of a checkout, which an installed wheel is not."""

    def invoke(self, ctx: click.Context) -> Any:
        if not (ctx.obj.root / "compose.yaml").exists():
            raise StackError("the stack runs from a checkout of the repository; this is an installed package")
        return super().invoke(ctx)


class _Group(click.Group):
    """Says after Ctrl-C how to stop what was started, and whose files are in the way of another user."""

    command_class = _CheckoutCommand

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted; `make down` stops what was started", err=True)
            sys.exit(INTERRUPTED)
        except PermissionError as error:
            raise StackError(f"{error.filename} belongs to another user; run this as that user") from error


@click.group("stack", cls=_Group)
@click.pass_context
def stack(ctx: click.Context) -> None:
    """Start, watch and stop the whole stack of this checkout."""
    ctx.obj = StackFolder(ROOT)


@stack.command("up")
@click.pass_obj
def up(folder: StackFolder) -> None:
    """Start everything, fill an empty database with demo data and wait until all is healthy."""
    settings = StackSettings.load_for(folder.root)
    choose_stack(settings, folder, Console()).up(settings)
    note = describe_other_database(folder.root, folder.recorded())
    if note:
        click.echo(note)


@stack.command("down")
@click.pass_obj
def down(folder: StackFolder) -> None:
    """Stop everything; the data is kept."""
    find_stack(folder, Console()).down()


@stack.command("status")
@click.pass_obj
def status(folder: StackFolder) -> None:
    """Show every program and the health of the whole; exit status 1 unless all is healthy."""
    if not find_stack(folder, Console()).status():
        sys.exit(UNHEALTHY)


@stack.command("logs")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.pass_obj
def logs(folder: StackFolder, name: str | None, *, follow: bool) -> None:
    """Show what the programs, or the one called NAME, have written."""
    find_stack(folder, Console()).logs(name, follow=follow)


@stack.command("clean")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def clean(folder: StackFolder, *, yes: bool) -> None:
    """Stop everything and forget the data, players of people included; asks first on a terminal."""
    # a script that calls this means it: there is nothing else that it could mean
    if folder.path.exists() and not yes and is_somebody_there():
        what = f"{folder.path}: database, cache, metrics and logs, {folder.size_bytes() / 1e6:.1f} MB"
        if not click.confirm(f"stop the stack and remove {what}?", err=True):
            raise StackError("nothing was removed")
    forget_stack(folder, Console())


@stack.command("run", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(folder: StackFolder, arguments: tuple[str, ...]) -> None:
    """Run another `echo-markets` command, such as `migrate status`, on the running stack."""
    recorded = folder.recorded()
    if not recorded:
        raise StackError("the stack is not up; `make up` starts it")
    refuse_other_stack(recorded)
    sys.exit(run_command(*arguments, environment={**os.environ, **recorded}, root=folder.root))


@stack.command("drill")
@click.argument("name", type=click.Choice(sorted(DRILLS)))
@click.option("--seconds", type=click.FloatRange(1, 600), default=FAULT_SECONDS, show_default=True)
@click.pass_obj
def drill(folder: StackFolder, name: str, *, seconds: float) -> None:
    """Break a part of the running stack, see whether the metrics tell, and mend it; 1 when they do not."""
    recorded = folder.recorded()
    if recorded.get("MODE") != "local":
        raise StackError("drills need the stack of MODE=local; `make up MODE=local` starts it")
    refuse_other_stack(recorded)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    place = Place(folder, {**os.environ, **recorded})
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    with folder.lock():
        is_as_expected = Runner(place, console).run(DRILLS[name], seconds=seconds)
    sys.exit(0 if is_as_expected else UNEXPECTED)


def _leave(*_: object) -> NoReturn:
    # an exception, so that the fault is undone on the way out
    sys.exit(INTERRUPTED)


@stack.command("load", cls=click.Command)
@click.pass_obj
def load(folder: StackFolder) -> None:
    """Fill the configured database with demo data unless it has players; used in containers."""
    settings = StackSettings.load_for(folder.root)
    database_url = Settings.load().database_url.get_secret_value()
    environment = {**os.environ, "DATABASE_URL": database_url}
    is_new = load_demo_data(
        environment, root=folder.root, players=settings.seed_players, sessions=settings.seed_sessions
    )
    click.echo("the demo data is loaded" if is_new else "the database has players, nothing to do")
