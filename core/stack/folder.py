"""The folder `.local` of a checkout: where each file of the stack's state is.

Owns the paths, the lock that keeps two commands apart, and the record of the
running stack (`stack.env`), from which tools started in the checkout find it.
Never starts or stops anything.
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

from dotenv import dotenv_values

from core.settings import STACK_ENV_FILE
from core.stack.errors import StackError
from core.stack.private_files import write_private

# 104 on macOS, 108 on Linux, less what supervisord appends while it creates the socket (".pid")
SOCKET_PATH_LIMIT = 90
# of the folder's name in that of the stack, which has 64 and a random part
FOLDER_CHARACTERS = 40


class StackFolder:
    """The state of one checkout's stack."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / STACK_ENV_FILE.parent
        self.stack_env = root / STACK_ENV_FILE
        self.servers = self.path / "servers"
        self.run = self.path / "run"
        self.log = self.path / "log"
        self.metrics = self.path / "metrics"
        self.supervisor_config = self.path / "supervisord.conf"
        self.supervisor_pid = self.path / "supervisord.pid"
        self.docker_mark = self.path / "docker"  # compose was used: `clean` has volumes to remove

    @property
    def socket(self) -> Path:
        """The supervisor's control socket, in the temporary folder when its path would be too long."""
        path = self.path / "supervisor.sock"
        return path if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT else self._socket_fallback / path.name

    @property
    def _socket_fallback(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"echo-markets-{os.geteuid()}-{digest}"

    def create(self) -> None:
        """Create the folder, for its owner only."""
        if not self.path.exists():
            self.path.mkdir(mode=0o700)
        for folder in (self.servers, self.run, self.log, self.metrics):
            folder.mkdir(mode=0o700, exist_ok=True)
        if self.socket.parent != self.path:
            _create_own_folder(self.socket.parent)

    def size_bytes(self) -> int:
        """Return how much is kept; files that a running server removes meanwhile do not count."""
        size = 0
        for path in self.path.rglob("*"):
            with suppress(FileNotFoundError):
                size += path.lstat().st_size
        return size

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.path)
        shutil.rmtree(self._socket_fallback, ignore_errors=True)

    def load_stack_name(self) -> str:
        """Return the name that tells this checkout's stack from others; the same until `remove`."""
        path = self.path / "stack.key"
        if not path.exists():
            write_private(path, secrets.token_hex(16))
        place = self.root.resolve()
        # a copy of the whole folder is another stack
        digest = hashlib.sha256(path.read_bytes() + os.fsencode(place)).hexdigest()[:6]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', place.name)[:FOLDER_CHARACTERS]}-{digest}"

    def recorded(self) -> dict[str, str]:
        """Return what `stack.env` holds; empty when no stack was started."""
        return {name: value or "" for name, value in dotenv_values(self.stack_env, interpolate=False).items()}

    def record(self, values: Mapping[str, str]) -> None:
        """Write `stack.env`, which only its owner can read: it holds passwords."""
        lines = (f"{name}={_quote(value)}\n" for name, value in values.items())
        write_private(self.stack_env, "".join(lines))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second command out while one starts or stops the stack."""
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
    """Create a folder in a place that others can write to, and refuse one that somebody else put there."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StackError(f"{path} belongs to somebody else; remove it")
    path.chmod(0o700)
