"""Whether the stack runs as processes of this machine or as containers.

Owns that decision; both kinds obey the same commands.
"""

from typing import Protocol

from rich.console import Console

from core.stack.compose import DockerStack, find_engine_fault
from core.stack.configuration import Mode, StackSettings
from core.stack.errors import StackError
from core.stack.folder import StackFolder
from core.stack.stack import LocalStack


class Stack(Protocol):
    """What both kinds of stack can do."""

    def up(self, settings: StackSettings) -> None:
        """Start what does not run and wait until everything is healthy."""

    def down(self) -> None:
        """Stop everything and keep the data."""

    def status(self) -> bool:
        """Show every part; say whether all are healthy."""

    def logs(self, name: str | None, *, follow: bool) -> None:
        """Show the end of the output."""


def choose_stack(settings: StackSettings, folder: StackFolder, console: Console) -> Stack:
    """Return the kind of stack that `up` starts: what MODE says, or containers where they work.

    Raises `StackError` when the other kind is up, or MODE asks for an engine that is not there.
    """
    recorded = folder.recorded().get("MODE")
    mode = settings.mode or _detect_mode()
    if recorded not in {None, mode}:
        raise StackError(f"the stack is up in {recorded} mode; `make down` stops it, MODE={mode} comes then")
    if mode == "docker" and recorded is None:
        fault = find_engine_fault()
        if fault:
            raise StackError(f"MODE is docker, but {fault}; start an engine or set MODE=local")
    console.print(f"mode: {mode}", highlight=False)
    return DockerStack(folder, console) if mode == "docker" else LocalStack(folder, console)


def find_stack(folder: StackFolder, console: Console) -> Stack:
    """Return the kind of stack that is up, the local one when none is."""
    if folder.recorded().get("MODE") == "docker":
        return DockerStack(folder, console)
    return LocalStack(folder, console)


def clean(folder: StackFolder, console: Console) -> None:
    """Stop everything and forget the data of every kind that was used."""
    if folder.docker_mark.exists():
        DockerStack(folder, console).remove_volumes()
    LocalStack(folder, console).clean()


def _detect_mode() -> Mode:
    return "local" if find_engine_fault() else "docker"
