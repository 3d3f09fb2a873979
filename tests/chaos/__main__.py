"""`python -m tests.chaos`: start a local stack in a temporary folder and cause every fault in it under load.

Owns the folder, the small disk for the data of the servers, and the removal of both. Never touches the stack
of this checkout.
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

MAX_SECONDS = 480.0
INTERRUPTED = 130
DISK_BYTES = 600_000_000  # the free space that `make up` requires, plus a database with its WAL


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small tmpfs on a folder, so that a fault can fill it; does nothing unless run by root."""
    is_mounted = os.geteuid() == 0 and _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", folder)
    try:
        yield
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str | Path) -> bool:
    options = [str(argument) for argument in arguments]
    return subprocess.run(["mount", *options[:-1], "scratch", options[-1]], check=False).returncode == 0


def _handle_sigterm(*_: object) -> NoReturn:
    # this raises SystemExit, so that the `with` and `finally` blocks stop the stack and remove its files
    sys.exit(INTERRUPTED)


def run(checkout: Checkout, arguments: list[str]) -> int:
    """Start the stack, cause the faults in it, and stop it; return the exit status."""
    servers = checkout.root / ".local" / "servers"
    servers.mkdir(parents=True, mode=0o700)
    max_seconds = stretch(MAX_SECONDS)
    with small_disk(servers):
        try:
            click.echo(f"starting a stack in {checkout.root}")
            checkout.up()
            command = [sys.executable, "-m", "tests.chaos.local", *arguments]
            return subprocess.run(
                command,
                cwd=checkout.root,
                env=checkout.environment,
                timeout=stretch(MAX_SECONDS),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise click.ClickException(f"not done within {max_seconds:.0f} s") from None
        finally:
            checkout.make("down")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(arguments: tuple[str, ...]) -> None:
    """Start a stack and cause faults in it; ARGUMENTS are those of `python -m tests.chaos.local`."""
    signal.signal(signal.SIGTERM, _handle_sigterm)
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
