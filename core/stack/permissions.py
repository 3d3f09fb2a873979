"""Permissions of the stack's files, and the system user that runs the embedded servers.

Owns how files with secrets are written. If root starts the stack, the servers run as a separate system user,
because PostgreSQL refuses to run as root. The folders above the servers' files are then made traversable for
all users, but not listable.
"""

import logging
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import StackError

USER_NAME = "echo-markets"
PASSWORD_BYTES = 24  # 192 bits: not guessable, and 32 characters that need no quoting anywhere

logger = logging.getLogger(__name__)


class ServerUser(NamedTuple):
    """The system user that runs the embedded servers."""

    name: str
    uid: int
    gid: int


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read. A reader never sees an incomplete file."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def load_password(path: Path) -> str:
    """Return the password in the file `path`. If the file is missing, generate the password.

    Raises `StackError` if the file is empty.
    """
    if not path.exists():
        write_private(path, secrets.token_urlsafe(PASSWORD_BYTES))
    password = path.read_text(encoding="utf-8").strip()
    if not password:
        raise StackError(f"{path} is empty; write the password into it, or remove it for a new one")
    return password


def ensure_server_user() -> ServerUser | None:
    """Return the system user of the servers, or None if this process does not run as root.

    Creates the system user if it is missing.
    """
    if os.geteuid() != 0:
        return None
    entry = _find_user() or _create_user()
    return ServerUser(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def build_server_environment() -> dict[str, str]:
    """Return the environment of a server: PATH, and a fixed locale and time zone, but no PG* variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def run_as(user: ServerUser | None) -> dict[str, Any]:
    """Return the arguments of `subprocess.run` that start a server as `user`.

    If `user` is None, the server runs as the user of this process.
    """
    return {
        "user": user and user.uid,
        "group": user and user.gid,
        "extra_groups": user and [],
        "env": build_server_environment(),
    }


def set_owner(user: ServerUser | None, path: Path, *, mode: int) -> None:
    """Set the permissions of `path`, and make `user` its owner unless `user` is None."""
    path.chmod(mode)
    if user is not None:
        os.chown(path, user.uid, user.gid)


def allow_access(user: ServerUser | None, *, programs: Path, data: Path) -> None:
    """Let `user` run the programs in the folder `programs`, and reach its own folder `data`."""
    if user is None:
        return
    opened = [folder for path in (programs, data) for folder in open_ancestors(path, user)]
    if not _mode(programs) & stat.S_IXOTH:
        opened.append(programs)
        _open_tree(programs)
    if opened:
        names = ", ".join(str(folder) for folder in opened)
        logger.warning("the user %s may now pass through: %s", user.name, names)


def open_ancestors(path: Path, user: ServerUser) -> list[Path]:
    """Let `user` traverse the folders above `path`. Return the folders whose permissions were changed."""
    closed = [
        folder
        for folder in path.resolve().parents
        if folder.stat().st_uid != user.uid and not _mode(folder) & stat.S_IXOTH
    ]
    for folder in closed:
        folder.chmod(stat.S_IMODE(_mode(folder)) | stat.S_IXOTH)
    return closed


def _open_tree(programs: Path) -> None:
    # make all files readable: installed files are no secret, because everybody can download the packages
    for path in (programs, *programs.rglob("*")):
        mode = stat.S_IMODE(_mode(path))
        passable = stat.S_IXOTH if mode & stat.S_IXUSR else 0
        path.chmod(mode | stat.S_IROTH | passable)


def _mode(path: Path) -> int:
    return path.stat().st_mode


def _find_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(USER_NAME)
    except KeyError:
        return None


def _create_user() -> pwd.struct_passwd:
    command = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if command is None:
        raise StackError("PostgreSQL does not run as root, useradd is missing; run this as an ordinary user")
    home = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    arguments = ["--system", "--user-group", *home, USER_NAME]
    result = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    # look the user up again: useradd also fails if another command has created the user in the meantime
    entry = _find_user()
    if entry is None:
        raise StackError(
            f"cannot create the system user {USER_NAME}: {result.stderr.strip()};"
            " run this as an ordinary user"
        )
    logger.warning("created the system user %s: PostgreSQL does not run as root", USER_NAME)
    return entry
