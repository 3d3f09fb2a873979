"""The folder `.local` of a checkout: the state of its stack.

Owns the paths, the lock that only one command can hold, and the record of the running stack
(`stack.env`), in which other programs of the checkout find the stack's addresses and passwords.
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

# bytes; the system's limit is 104 on macOS and 108 on Linux, and supervisord appends ".PID" at first
SOCKET_PATH_LIMIT = 90
# shown to users before they delete the folder
CONTENTS = "database, cache, metrics, logs and the keys of encrypted e-mail addresses"
# the first characters of the checkout's name become part of the stack's name, of at most 64 characters
FOLDER_CHARACTERS = 40
# PostgreSQL writes its log in files of 16 MB, and a checkpoint may need several at once
LEAST_FREE_BYTES = 64_000_000


class StackFolder:
    """The state of one checkout's stack."""

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
        self.docker_mark = self.path / "docker"  # compose was used: `clean` has volumes to remove

    def pid_file(self, program: str) -> Path:
        """Return the path of the file that contains the process id of a running program."""
        return self.run / f"{program}.pid"

    def log_file(self, program: str) -> Path:
        """Return the path of the file that receives a program's output."""
        return self.log / f"{program}.log"

    @property
    def socket(self) -> Path:
        """The path of supervisord's control socket; in the temporary folder if it would be too long here."""
        path = self.path / "supervisor.sock"
        return path if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT else self._socket_fallback / path.name

    @property
    def _socket_fallback(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"echo-markets-{os.geteuid()}-{digest}"

    def create(self) -> None:
        """Create the folder, accessible to its owner only; raises `StackError` when a file has its name."""
        for folder in (self.path, self.servers, self.run, self.log, self.metrics, self.secrets):
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise StackError(f"{folder} is no folder; remove or rename it, then try again") from None
        # this folder contains passwords, and another program may have created it with other permissions
        self.secrets.chmod(0o700)
        if self.socket.parent != self.path:
            _create_own_folder(self.socket.parent)

    def size_bytes(self) -> int:
        """Return the size of all files, without those that a running server removes meanwhile."""
        size = 0
        for path in self.path.rglob("*"):
            with suppress(FileNotFoundError):
                size += path.lstat().st_size
        return size

    def find_kept_mode(self) -> Mode | None:
        """Return the mode of the stack whose data is kept; None when there is none, or one of each mode."""
        has_local, has_docker = (self.servers / "postgres").exists(), self.docker_mark.exists()
        if has_local == has_docker:
            return None
        return "local" if has_local else "docker"

    def find_disk_problem(self) -> str | None:
        """Return a message when the disk with the servers' data is nearly full, otherwise None."""
        data = next(path for path in (self.servers / "postgres", self.path, self.root) if path.exists())
        free = shutil.disk_usage(data).free
        if free >= LEAST_FREE_BYTES:
            return None
        return f"{free / 1e6:.0f} MB are free where {data} is; make room for {LEAST_FREE_BYTES / 1e6:.0f} MB"

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        shutil.rmtree(self.path)
        shutil.rmtree(self._socket_fallback, ignore_errors=True)

    def load_stack_name(self) -> str:
        """Return the name that distinguishes this checkout's stack from others; the same until `remove`."""
        path = self.path / "stack.key"
        if not path.exists():
            write_private(path, secrets.token_hex(16))
        root = self.root.resolve()
        # the path is part of the digest: a copy of the checkout gets another stack name
        digest = hashlib.sha256(path.read_bytes() + os.fsencode(root)).hexdigest()[:6]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', root.name)[:FOLDER_CHARACTERS]}-{digest}"

    def create_encryption_keys(self) -> Path:
        """Return the path of the file of ENCRYPTION_KEYS; the first call creates it, later calls keep it."""
        path = self.secrets / "encryption.keys"
        if not path.exists():
            write_private(path, f"{new_key_line(f'k-{secrets.token_hex(4)}')}\n")
        return path

    def recorded(self) -> dict[str, str]:
        """Return the variables in `stack.env`, empty without one; raises `StackError` when it is damaged."""
        return read_record(self.stack_env)

    def record(self, values: Mapping[str, str]) -> None:
        """Write `stack.env`, which only its owner can read: with containers it contains passwords."""
        lines = (f"{name}={_quote(value)}\n" for name, value in values.items())
        write_private(self.stack_env, "".join(lines))

    def forget_record(self) -> None:
        """Remove `stack.env`; raises `StackError` when a folder has its name."""
        if self.stack_env.is_dir():
            raise StackError(f"{self.stack_env} is a folder; remove it, then try again")
        self.stack_env.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock in the block; raises `StackError` while another command starts or stops the stack."""
        self.create()
        with (self.path / "lock").open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(
                    "another command is starting or stopping this stack; wait for it or stop it with Ctrl-C"
                ) from None
            yield


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _create_own_folder(path: Path) -> None:
    """Create a folder below one in which all users can write; refuse one that another user has created."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StackError(f"{path} belongs to somebody else; remove it")
    path.chmod(0o700)
