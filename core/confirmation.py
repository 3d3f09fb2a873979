"""The confirmation before data is deleted: a question on a terminal, otherwise an option of the command.

Owns the question and reads the answer; the caller names the data that it deletes.
"""

import sys

import click

from core.errors import RowsWouldBeLost


def is_somebody_there() -> bool:
    """Return whether there is a terminal on which a person can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm_loss(loss: RowsWouldBeLost, *, option: str) -> None:
    """Ask whether to delete the data that `loss` names; return after a yes, else raise `RowsWouldBeLost`.

    Without a terminal nobody can answer: then the error says that `option` allows the deletion.
    """
    if not is_somebody_there():
        raise RowsWouldBeLost(f"{loss}; {option} continues anyway")
    click.echo(str(loss), err=True)
    if not click.confirm("continue anyway?", err=True):
        raise RowsWouldBeLost("nothing was changed")
