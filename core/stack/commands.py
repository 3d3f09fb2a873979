"""The `stack` commands, such as up, down, status, backup and drill.

Owns their options and exit statuses, and the choice between containers and embedded servers.
"""

import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from core.deletion_prompt import is_interactive
from core.errors import StackError
from core.installation import ROOT
from core.settings import Settings
from core.stack.certificates import renew_certificates
from core.stack.compose import ComposeStack, find_engine_problem
from core.stack.demo_data import load_demo_data, run_command
from core.stack.drills import DRILLS, FAULT_SECONDS, RunningStack, run_drill
from core.stack.folder import CONTENTS, StackFolder
from core.stack.health import refuse_other_stack
from core.stack.image_pins import IMAGE_FILES, pin_images
from core.stack.local import LocalStack
from core.stack.profiles import list_profiles
from core.stack.settings import StackSettings, describe_other_database
from core.stack.stack import Stack
from core.stack.stack_env import build_environment

UNHEALTHY = 1
PIPE_COLUMNS = 120
INTERRUPTED = 130
UNEXPECTED = 1


def choose_stack(settings: StackSettings, folder: StackFolder, console: Console) -> Stack:
    """Return the stack that `up` starts: in containers (mode docker) or on embedded servers (mode local).

    The mode is the first of these that applies:

    - MODE, if it is set
    - the mode of the running stack
    - the mode of the stopped stack whose data this checkout has, unless PROFILE is set
    - docker, if a container engine works
    - local

    Raises `StackError` if a stack of the other mode is running, if the mode is docker and no engine works,
    or if PROFILE is set and the mode is local.
    """
    recorded = folder.recorded().get("MODE")
    kept = None if settings.profile else folder.find_kept_mode()
    mode = settings.mode or recorded or kept or ("local" if find_engine_problem() else "docker")
    if recorded not in {None, mode}:
        raise StackError(f"the stack is up in {recorded} mode; run `make down` before MODE={mode}")
    if mode == "docker" and recorded is None:
        problem = find_engine_problem()
        if problem:
            other = ", which is a new stack: the data of this one is in containers" if kept else ""
            raise StackError(f"the mode is docker, but {problem}; start an engine or set MODE=local{other}")
    if mode == "local" and settings.profile:
        raise StackError(f"PROFILE={settings.profile} needs containers; set MODE=docker or unset it")
    console.print(f"mode: {mode}", highlight=False)
    return ComposeStack(folder, console) if mode == "docker" else LocalStack(folder, console)


def find_stack(folder: StackFolder) -> Stack:
    """Return the running stack. Return a local stack if no stack is running."""
    kind = ComposeStack if folder.recorded().get("MODE") == "docker" else LocalStack
    return kind(folder, Console())


class _CheckoutCommand(click.Command):
    """A command that needs a checkout. In an installed package it raises `StackError`."""

    def invoke(self, ctx: click.Context) -> Any:
        if not (ctx.obj.root / "compose.yaml").exists():
            raise StackError("the stack runs from a checkout of the repository; this is an installed package")
        return super().invoke(ctx)


class _Group(click.Group):
    """Reports Ctrl-C and permission errors in one line instead of a traceback."""

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
    """Start everything, fill an empty database with demo data, and wait until all is healthy."""
    # raise `StackError` for a damaged `stack.env` here, before settings are read from the file
    folder.recorded()
    settings = StackSettings.load_for(folder.root)
    choose_stack(settings, folder, Console()).up(settings)
    note = describe_other_database(folder.root, folder.recorded())
    if note:
        click.echo(note)


@stack.command("certs")
@click.pass_obj
def certs(folder: StackFolder) -> None:
    """Make the certificates of PROFILE=tls, and renew those that expire within a month."""
    with folder.lock():
        done = renew_certificates(folder.certificates, now=datetime.now(UTC))
    for name, is_new, expires_at in done:
        click.echo(f"{name}: {'made' if is_new else 'kept'}, valid until {expires_at:%Y-%m-%d}")
    if "tls" in list_profiles(folder.recorded()) and any(item.is_new for item in done):
        click.echo("`make down` and `make up PROFILE=tls` give them to the running servers")


@stack.command("pin-images")
@click.pass_obj
def pin(folder: StackFolder) -> None:
    """Write the current digest of each container image into all files that name it. Asks the registries."""
    for tag, digest in pin_images([folder.root / name for name in IMAGE_FILES]).items():
        click.echo(f"{tag}@{digest}")


@stack.command("watch")
@click.pass_obj
def watch(folder: StackFolder) -> None:
    """Restart the programs of PROFILE=dev when their sources change, until Ctrl-C."""
    if "dev" not in list_profiles(folder.recorded()):
        raise StackError("this needs the stack of PROFILE=dev; `make up MODE=docker PROFILE=dev` starts it")
    ComposeStack(folder, Console()).watch()


@stack.command("backup")
@click.pass_obj
def back_up(folder: StackFolder) -> None:
    """Write a backup of the running stack's database into `backups/`, encrypted if BACKUP_KEY is set."""
    settings = StackSettings.load_for(folder.root)
    path = folder.root / "backups" / f"echo-markets-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"
    size = find_stack(folder).back_up(settings, path)
    kind = "not encrypted: BACKUP_KEY is not set" if settings.backup_key is None else "encrypted"
    click.echo(f"wrote {path.relative_to(folder.root)}, {size / 1e6:.1f} MB, {kind}")
    click.echo(f"passwords and keys are not in it: keep a copy of {folder.secrets} in another place")


@stack.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def restore(folder: StackFolder, file: Path) -> None:
    """Start a stack that has no data, and restore the backup FILE into it."""
    settings = StackSettings.load_for(folder.root)
    choose_stack(settings, folder, Console()).restore(settings, file)


@stack.command("down")
@click.pass_obj
def down(folder: StackFolder) -> None:
    """Stop everything and keep the data."""
    try:
        kind = find_stack(folder)
    except StackError:
        # `stack.env` is damaged, so the mode of the stack is unknown: stop containers and embedded servers
        folder.forget_record()
        if folder.docker_mark.exists():
            ComposeStack(folder, Console()).down()
        kind = LocalStack(folder, Console())
    kind.down()


@stack.command("status")
@click.pass_obj
def status(folder: StackFolder) -> None:
    """Show every program and the overall health. The exit status is 1 if anything is not healthy."""
    if not find_stack(folder).status():
        sys.exit(UNHEALTHY)


@stack.command("logs")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Continue until Ctrl-C.")
@click.pass_obj
def logs(folder: StackFolder, name: str | None, *, follow: bool) -> None:
    """Show the last log lines of all programs, or of the program NAME."""
    find_stack(folder).logs(name, follow=follow)


@stack.command("clean")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def clean(folder: StackFolder, *, yes: bool) -> None:
    """Stop everything and delete all data, also that of real players. Asks first on a terminal."""
    # without a terminal, delete the data without a question: a script has nobody who could answer
    if folder.path.exists() and not yes and is_interactive():
        what = f"{folder.path}: {CONTENTS}, {folder.size_bytes() / 1e6:.1f} MB"
        if not click.confirm(f"stop the stack and remove {what}?", err=True):
            raise StackError("nothing was removed")
    console = Console()
    if folder.docker_mark.exists():
        ComposeStack(folder, console).remove_data()
    LocalStack(folder, console).remove_data()


@stack.command("run", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(folder: StackFolder, arguments: tuple[str, ...]) -> None:
    """Run another `echo-markets` command, such as `migrate status`, on the running stack."""
    recorded = folder.recorded()
    if not recorded:
        raise StackError("the stack is not up; `make up` starts it")
    refuse_other_stack(recorded)
    if "sentinel" in list_profiles(recorded):
        # Run the command in a container. The sentinels return the address of the Redis primary in the network
        # of the containers, which this machine cannot reach.
        sys.exit(ComposeStack(folder, Console()).run(*arguments))
    sys.exit(run_command(*arguments, environment=build_environment(recorded), root=folder.root))


@stack.command("drill")
@click.argument("name", type=click.Choice(sorted(DRILLS)))
@click.option("--seconds", type=click.FloatRange(1, 600), default=FAULT_SECONDS, show_default=True)
@click.pass_obj
def drill(folder: StackFolder, name: str, *, seconds: float) -> None:
    """Cause a fault in the running stack, check that the metrics show it, and undo the fault.

    The exit status is 1 if the metrics do not show the fault, or show another change.
    """
    recorded = folder.recorded()
    if recorded.get("MODE") != "local":
        raise StackError("drills need the stack of MODE=local; `make up MODE=local` starts it")
    refuse_other_stack(recorded)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    running = RunningStack(folder, build_environment(recorded))
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    with folder.lock():
        is_as_expected = run_drill(DRILLS[name], running, console, seconds=seconds)
    sys.exit(0 if is_as_expected else UNEXPECTED)


def _leave(*_: object) -> NoReturn:
    # sys.exit raises SystemExit, so the `with` block of the drill ends and undoes the fault
    sys.exit(INTERRUPTED)


@stack.command("load", cls=click.Command)
@click.pass_obj
def load(folder: StackFolder) -> None:
    """Fill the configured database with demo data unless it has players. The container `seed` runs this."""
    settings = Settings.load()
    # take the URLs from `Settings` and not from the environment: only `Settings` adds passwords from files
    urls = {"DATABASE_URL": settings.database_url, "DIRECT_URL": settings.direct_url}
    given = {name: url.get_secret_value() for name, url in urls.items() if url is not None}
    is_new = load_demo_data(
        {**os.environ, **given},
        owner_url=given.get("DIRECT_URL", given["DATABASE_URL"]),
        root=folder.root,
        settings=StackSettings.load_for(folder.root),
    )
    click.echo("the demo data is loaded" if is_new else "the database has players, nothing to do")
