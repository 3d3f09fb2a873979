"""Asks before something is lost: on a terminal a question, elsewhere an option that has to be given.

Owns the question; knows nothing of what is lost.
"""

import sys

import click

from core.errors import RowsWouldBeLost


def is_somebody_there() -> bool:
    """Say whether a question would be seen and can be answered."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm_loss(loss: RowsWouldBeLost, *, option: str) -> None:
    """Return when a person agrees to the loss that an error describes; raise the error otherwise.

    Without a terminal nobody is there to ask, so the option is named.
    """
    if not is_somebody_there():
        raise RowsWouldBeLost(f"{loss}; {option} does it all the same")
    click.echo(str(loss), err=True)
    if not click.confirm("do it all the same?", err=True):
        raise RowsWouldBeLost("nothing was changed")
