"""Asks a person to confirm that data may be deleted.

Owns the question and reads the answer. Without a terminal, nobody can be asked: the deletion is then allowed
only by an option of the command. The caller names the data that would be deleted.
"""

import sys

import click

from core.errors import RowsWouldBeLost


def is_interactive() -> bool:
    """Return whether a person can answer: standard input and standard error are both terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm_loss(loss: RowsWouldBeLost, *, option: str) -> None:
    """Ask whether to delete the data that `loss` names. Raises `RowsWouldBeLost` if the answer is no.

    Without a terminal, nothing is asked: the error says that `option` allows the deletion.
    """
    if not is_interactive():
        raise RowsWouldBeLost(f"{loss}; {option} continues anyway")
    click.echo(str(loss), err=True)
    if not click.confirm("continue anyway?", err=True):
        raise RowsWouldBeLost("nothing was changed")
