"""`python -m tests.chaos`: a local stack of its own in a scratch folder, broken in every way under load.

Owns the folder, the small disk of its data and their removal. Never touches the stack of this checkout.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
import pytest

from tests.end_to_end.checkout import Checkout, copy_checkout
from tests.patience import stretch

MOST_SECONDS = 480.0
INTERRUPTED = 130
DISK_BYTES = 600_000_000  # what `make up` wants to be free, and a database with its log


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small disk in memory on a folder, so that it can be filled; does nothing unless run by root."""
    is_mounted = os.geteuid() == 0 and _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", folder)
    try:
        yield
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str | Path) -> bool:
    options = [str(argument) for argument in arguments]
    return subprocess.run(["mount", *options[:-1], "scratch", options[-1]], check=False).returncode == 0


def _leave(*_: object) -> NoReturn:
    # an exception, so that everything is stopped and removed
    sys.exit(INTERRUPTED)


def run(checkout: Checkout, arguments: list[str]) -> int:
    """Start the stack, break it, and stop it; return the exit status."""
    servers = checkout.root / ".local" / "servers"
    servers.mkdir(parents=True, mode=0o700)
    most_seconds = stretch(MOST_SECONDS)
    with small_disk(servers):
        try:
            click.echo(f"starting a stack in {checkout.root}")
            checkout.up()
            command = [sys.executable, "-m", "tests.chaos.local", *arguments]
            return subprocess.run(
                command,
                cwd=checkout.root,
                env=checkout.environment,
                timeout=stretch(MOST_SECONDS),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise click.ClickException(f"not done within {most_seconds:.0f} s") from None
        finally:
            checkout.make("down")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(arguments: tuple[str, ...]) -> None:
    """Break a stack of its own; ARGUMENTS are those of `python -m tests.chaos.local`."""
    signal.signal(signal.SIGTERM, _leave)
    with tempfile.TemporaryDirectory(prefix="echo-markets-chaos-") as folder:
        try:
            checkout = copy_checkout(Path(folder) / "checkout")
        except pytest.skip.Exception as missing:
            raise click.ClickException(str(missing)) from None
        status = run(checkout, list(arguments))
        if checkout.make("clean").returncode != 0:
            raise click.ClickException("the scratch stack could not be removed")
    sys.exit(status)


if __name__ == "__main__":
    main()
