"""The folder `.local` of a checkout: the state of its stack.

Owns the paths in the folder, the lock that only one command can hold, and the file `stack.env`: the record
of the running stack, in which other programs of the checkout find the addresses and passwords of its
servers.
"""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from core.encryption import new_key_line
from core.errors import StackError
from core.settings import STACK_ENV_FILE
from core.stack.permissions import write_private
from core.stack.stack_env import Mode, read_record

# In bytes. The operating system allows 104 (macOS) or 108 (Linux), but supervisord first makes the socket
# under a longer name, which ends with a dot and a process id.
SOCKET_PATH_LIMIT = 90
# the content of the folder, in messages to users who delete it
CONTENTS = "database, cache, metrics, logs and the keys of encrypted e-mail addresses"
# a stack's name begins with the name of the checkout's folder, cut to this length, because STACK_NAME has at
# most 64 characters
FOLDER_CHARACTERS = 40
# PostgreSQL writes WAL files of 16 MB, and may need several new ones at once
MIN_FREE_BYTES = 64_000_000


class StackFolder:
    """The paths and files in the folder `.local` of one checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / STACK_ENV_FILE.parent
        self.stack_env = root / STACK_ENV_FILE
        self.servers = self.path / "servers"
        self.secrets = self.path / "secrets"
        self.certificates = self.path / "certificates"
        self.run = self.path / "run"
        self.log = self.path / "log"
        self.metrics = self.path / "metrics"
        self.supervisor_config = self.path / "supervisord.conf"
        self.supervisor_pid = self.path / "supervisord.pid"
        # this file exists if the checkout has started containers: then `clean` also removes their volumes
        self.docker_mark = self.path / "docker"

    def pid_file(self, program: str) -> Path:
        """Return the path of a running program's pid file."""
        return self.run / f"{program}.pid"

    def log_file(self, program: str) -> Path:
        """Return the path of the log file with a program's output."""
        return self.log / f"{program}.log"

    @property
    def socket(self) -> Path:
        """The path of supervisord's control socket.

        It is in the system's temporary folder if the path below `.local` would be too long.
        """
        path = self.path / "supervisor.sock"
        return path if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT else self._socket_fallback / path.name

    @property
    def _socket_fallback(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"echo-markets-{os.geteuid()}-{digest}"

    def create(self) -> None:
        """Create the folder and its subfolders, accessible to their owner only.

        Raises `StackError` if a file has the name of one of them.
        """
        for folder in (self.path, self.servers, self.run, self.log, self.metrics, self.secrets):
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise StackError(f"{folder} is no folder; remove or rename it, then try again") from None
        # another program may have created the folder of the passwords with other permissions
        self.secrets.chmod(0o700)
        if self.socket.parent != self.path:
            _create_own_folder(self.socket.parent)

    def size_bytes(self) -> int:
        """Return the total size of all files. Files that a running server deletes meanwhile do not count."""
        size = 0
        for path in self.path.rglob("*"):
            with suppress(FileNotFoundError):
                size += path.lstat().st_size
        return size

    def find_kept_mode(self) -> Mode | None:
        """Return the mode whose stack has data. Return None if neither mode has data, or both have."""
        has_local, has_docker = (self.servers / "postgres").exists(), self.docker_mark.exists()
        if has_local == has_docker:
            return None
        return "local" if has_local else "docker"

    def find_disk_problem(self) -> str | None:
        """Return an error message if the disk with the servers' data is nearly full, else None."""
        data = next(path for path in (self.servers / "postgres", self.path, self.root) if path.exists())
        free = shutil.disk_usage(data).free
        if free >= MIN_FREE_BYTES:
            return None
        return f"{free / 1e6:.0f} MB are free where {data} is; make room for {MIN_FREE_BYTES / 1e6:.0f} MB"

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        shutil.rmtree(self.path)
        shutil.rmtree(self._socket_fallback, ignore_errors=True)

    def load_stack_name(self) -> str:
        """Return the name of this checkout's stack, for example `echo-markets-1a2b3c`. No other stack has it.

        The name stays the same until `remove`.
        """
        path = self.path / "stack.key"
        if not path.exists():
            write_private(path, secrets.token_hex(16))
        root = self.root.resolve()
        # include the path, so that a copy of the checkout gets another name
        digest = hashlib.sha256(path.read_bytes() + os.fsencode(root)).hexdigest()[:6]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', root.name)[:FOLDER_CHARACTERS]}-{digest}"

    def create_encryption_keys(self) -> Path:
        """Return the path of the file with ENCRYPTION_KEYS. The first call creates the file."""
        path = self.secrets / "encryption.keys"
        if not path.exists():
            write_private(path, f"{new_key_line(f'k-{secrets.token_hex(4)}')}\n")
        return path

    def recorded(self) -> dict[str, str]:
        """Return the variables in `stack.env`, none if the file is missing.

        Raises `StackError` if the file is damaged.
        """
        return read_record(self.stack_env)

    def record(self, values: Mapping[str, str]) -> None:
        """Write `stack.env`. Only its owner can read it: for a stack in containers, it contains passwords."""
        lines = (f"{name}={_quote(value)}\n" for name, value in values.items())
        write_private(self.stack_env, "".join(lines))

    def forget_record(self) -> None:
        """Remove `stack.env`. Raises `StackError` if it is a folder."""
        if self.stack_env.is_dir():
            raise StackError(f"{self.stack_env} is a folder; remove it, then try again")
        self.stack_env.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the stack during the `with` block.

        Raises `StackError` if another command, such as `up` or `drill`, holds the lock.
        """
        self.create()
        with (self.path / "lock").open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(
                    "another command, such as `up` or `drill`, is using this stack; wait until it has ended,"
                    " or stop it with Ctrl-C"
                ) from None
            yield


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _create_own_folder(path: Path) -> None:
    """Create a folder in the temporary folder. Raises `StackError` if another user has created it before."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StackError(f"{path} belongs to another user; remove it")
    path.chmod(0o700)
