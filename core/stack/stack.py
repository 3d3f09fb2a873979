"""The base class of both kinds of stack: `ComposeStack` (containers) and `LocalStack` (embedded servers).

Owns what both kinds share: the overall health, the table of addresses, the check of a program's name, and
backups. Each kind starts and stops its own programs.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.table import Table

from core.errors import StackError
from core.settings import redact
from core.settings.texts import LOOPBACK
from core.stack.backup import build_dump_command, check_backup, fill_database, write_backup
from core.stack.folder import StackFolder
from core.stack.health import read_stack_health
from core.stack.programs import find_address, find_superuser_url
from core.stack.settings import StackSettings

SHOWN_LOG_LINES = 100


class Stack(ABC):
    """Starts, stops and inspects the stack of one checkout."""

    program_noun: ClassVar[str]
    program_names: ClassVar[Collection[str]]

    def __init__(self, folder: StackFolder, console: Console) -> None:
        self.folder = folder
        self._console = console

    def up(self, settings: StackSettings) -> None:
        """Start the programs that are not running, and wait until all programs are healthy.

        Running programs continue if the settings have not changed. Raises `StackError` if a port is taken,
        before anything is started, or if a program does not become healthy.
        """
        self._up(settings, backup=None)

    def restore(self, settings: StackSettings, path: Path) -> None:
        """Start a stack that has no data, as `up` does, and fill it from the backup `path`.

        Raises the errors of `up`. Before anything is started, raises `StackError` if the stack is running or
        the file is no backup that BACKUP_KEY decrypts.
        """
        if self.folder.recorded():
            raise StackError("the stack is up; run `make down` first, and `make clean` if it has data")
        check_backup(path, key=settings.find_backup_key())
        self._up(settings, backup=path)

    def back_up(self, settings: StackSettings, path: Path) -> int:
        """Write a backup of the running stack's database to the new file `path`. Return its size in bytes."""
        recorded = self.folder.recorded()
        if not recorded:
            raise StackError("the stack is not up; `make up` starts it")
        return write_backup(
            build_dump_command(find_superuser_url(recorded)), path, key=settings.find_backup_key()
        )

    @abstractmethod
    def _up(self, settings: StackSettings, *, backup: Path | None) -> None:
        """Start the programs. With `backup`, restore this file into the empty database first."""

    @abstractmethod
    def down(self) -> None:
        """Stop all programs and keep the data."""

    @abstractmethod
    def remove_data(self) -> None:
        """Stop all programs and remove the data."""

    def status(self) -> bool:
        """Show every program and the overall health. Return whether all of them are healthy."""
        recorded = self.folder.recorded()
        if not recorded:
            self.print_line(self._describe_unrecorded())
            return False
        are_programs_healthy = self._show_programs(recorded)
        problem = self.folder.find_disk_problem()
        if problem is not None:
            self.print_line(f"the stack cannot write: {problem}")
            return False
        overall = read_stack_health(recorded)
        self.print_line(f"the stack is {overall}")
        return overall.is_healthy and are_programs_healthy

    def logs(self, name: str | None, *, follow: bool) -> None:
        """Show the last output of one program, or of all. With `follow`, continue until Ctrl-C."""
        if name is not None and name not in self.program_names:
            choices = ", ".join(self.program_names)
            raise StackError(f"there is no {self.program_noun} {name!r}; choose one of {choices}")
        try:
            self._show_logs(name, follow=follow)
        except KeyboardInterrupt:
            return

    def _fill(self, settings: StackSettings, backup: Path) -> None:
        fill_database(find_superuser_url(self.folder.recorded()), backup, key=settings.find_backup_key())
        self.print_line(f"{backup} is restored")

    def print_line(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _show_addresses(self, recorded: Mapping[str, str]) -> None:
        exporter = redact(find_address("exporter", recorded))
        table = Table.grid(padding=(0, 2))
        table.add_row("Dashboard", find_address("dashboard", recorded))
        table.add_row("Metrics", f"{exporter}/metrics")
        table.add_row("Health", f"{exporter}/api/health/database")
        if "PROMETHEUS_PORT" in recorded:
            table.add_row("Prometheus", f"http://{LOOPBACK}:{recorded['PROMETHEUS_PORT']}")
        self._console.print(table)
        self.print_line("`make status` shows it, `make logs` its output, `make down` stops it")

    def _describe_unrecorded(self) -> str:
        """Return the message that `status` prints if no stack is recorded."""
        return "not running; `make up` starts it"

    @abstractmethod
    def _show_programs(self, recorded: Mapping[str, str]) -> bool:
        """Print a table of the programs. Return whether all are healthy."""

    @abstractmethod
    def _show_logs(self, name: str | None, *, follow: bool) -> None:
        """Print the last output of one program, or of all."""
