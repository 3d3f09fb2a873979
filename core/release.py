"""Which release this is: its version, and the commit that it was made from.

Owns where both are found. An image has its commit in a file, which its build wrote; a checkout
has it in git's own files, which are read without git.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
UNKNOWN = "unknown"
REVISION_FILE = "REVISION"
SHOWN_CHARACTERS = 12


class Release(NamedTuple):
    """What runs; both are `unknown` where it cannot be told."""

    version: str
    revision: str


@cache
def find_release() -> Release:
    """Return the release of this process."""
    try:
        number = version("echo-markets")
    except PackageNotFoundError:
        number = UNKNOWN
    return Release(number, find_revision(ROOT))


def find_revision(root: Path) -> str:
    """Return the first characters of the commit that `root` is a copy of."""
    try:
        return (_read(root / REVISION_FILE) or _read_head(root / ".git") or UNKNOWN)[:SHOWN_CHARACTERS]
    except OSError:
        return UNKNOWN


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _read_head(git: Path) -> str:
    head = _read(git / "HEAD")
    name = head.removeprefix("ref: ")
    if name == head:
        return head
    packed = (line.partition(" ") for line in _read(git / "packed-refs").splitlines())
    return _read(git / name) or next((commit for commit, _, ref in packed if ref == name), "")
