"""The confirmation before data is deleted: a question on a terminal, otherwise an option of the command.

Owns asking and reading the answer; the caller names what it deletes.
"""

import sys

import click

from core.errors import RowsWouldBeLost


def is_somebody_there() -> bool:
    """Say whether there is a terminal on which a person can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm_loss(loss: RowsWouldBeLost, *, option: str) -> None:
    """Ask whether to lose the data that an error names; return after a yes, raise the error otherwise.

    Without a terminal nobody can be asked, and the error names the option.
    """
    if not is_somebody_there():
        raise RowsWouldBeLost(f"{loss}; {option} continues anyway")
    click.echo(str(loss), err=True)
    if not click.confirm("continue anyway?", err=True):
        raise RowsWouldBeLost("nothing was changed")
