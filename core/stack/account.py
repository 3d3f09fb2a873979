"""The system user that the embedded servers run as when the caller is root.

Owns that user and the access it needs. PostgreSQL refuses to run as root, and a
server that needs no privilege should have none. Never makes a folder readable:
it only lets the user pass through on the way to its own files.
"""

import logging
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core.stack.errors import StackError

ACCOUNT_NAME = "echo-markets"

logger = logging.getLogger(__name__)


class Account(NamedTuple):
    """A system user, by name and ids."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """Return the user for the servers, created when missing; None unless the caller is root."""
    if os.geteuid() != 0:
        return None
    entry = _find_account() or _create_account()
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def server_environment() -> dict[str, str]:
    """Return what a server gets of the environment: not the caller's locale, time zone or PG* variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def own(path: Path, account: Account | None, *, mode: int) -> None:
    """Give `path` to the account and set its permissions."""
    path.chmod(mode)
    if account is not None:
        os.chown(path, account.uid, account.gid)


def allow_access(account: Account | None, *, programs: Path, data: Path) -> None:
    """Let the account run what is installed in `programs` and reach its folder `data`."""
    if account is None:
        return
    opened = [folder for path in (programs, data) for folder in _open_ancestors(path, account)]
    if not _mode(programs) & stat.S_IXOTH:
        opened.append(programs)
        _open_tree(programs)
    if opened:
        names = ", ".join(str(folder) for folder in opened)
        logger.warning("let the user %s pass through: %s", account.name, names)


def _find_account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        return None


def _create_account() -> pwd.struct_passwd:
    command = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if command is None:
        raise StackError("PostgreSQL does not run as root, useradd is missing; run this as an ordinary user")
    home = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    arguments = ["--system", "--user-group", *home, ACCOUNT_NAME]
    result = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    entry = _find_account()  # another starter may have created it first, which is as good
    if entry is None:
        raise StackError(
            f"cannot create the system user {ACCOUNT_NAME}: {result.stderr.strip()};"
            " run this as an ordinary user"
        )
    logger.warning("created the system user %s: PostgreSQL does not run as root", ACCOUNT_NAME)
    return entry


def _mode(path: Path) -> int:
    return path.stat().st_mode


def _open_ancestors(path: Path, account: Account) -> Iterator[Path]:
    for folder in path.resolve().parents:
        if folder.stat().st_uid != account.uid and not _mode(folder) & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(_mode(folder)) | stat.S_IXOTH)
            yield folder


def _open_tree(programs: Path) -> None:
    """Make installed files, which are public in the package index, usable by everyone."""
    for path in (programs, *programs.rglob("*")):
        mode = stat.S_IMODE(_mode(path))
        passable = stat.S_IXOTH if mode & stat.S_IXUSR else 0
        path.chmod(mode | stat.S_IROTH | passable)
