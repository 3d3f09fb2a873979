"""Finds the version, the commit, the files and the extras of this installation.

A checkout has the folders `migrations`, `data` and `docs` beside `core`. A wheel has them inside `core`: in
site-packages they would collide with folders of other projects.

The commit of a checkout is read from the files in `.git`, without running git. The commit of an image is in
the file REVISION, which is written when the image is built.
"""

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from core.errors import MissingExtra

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
# A checkout has this file beside `core`; an installed package does not.
CHECKOUT_FILE = "pyproject.toml"
UNKNOWN = "unknown"
REVISION_FILE = "REVISION"
SHOWN_CHARACTERS = 12
# The modules that the stack imports from each extra; a test compares this with pyproject.toml. The extra
# `local` is not listed: it contains programs, and the code that starts a program checks that it is installed.
MODULES = {
    "dashboard": ("limits", "numpy", "pandas", "pyarrow", "starlette", "streamlit", "uvicorn", "uvloop"),
    "exporter": ("bcrypt", "limits", "starlette", "uvicorn", "yaml"),
    "frames": ("pandas",),
    "simulation": ("numpy", "pyarrow"),
}


class Release(NamedTuple):
    """Version and commit hash of the stack; each is `unknown` if it cannot be found."""

    version: str
    revision: str


@cache
def find_release() -> Release:
    """Return the version and the commit hash of the code that this process runs."""
    try:
        number = version("echo-markets")
    except PackageNotFoundError:
        number = UNKNOWN
    return Release(number, find_revision(ROOT))


def find_revision(root: Path) -> str:
    """Return the commit hash of the files in `root`, cut to SHOWN_CHARACTERS, or `unknown`."""
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


def find_resource(name: str) -> Path:
    """Return the path of a file or folder that comes with the stack, such as `migrations`.

    In a damaged installation, the path may not exist.
    """
    installed = PACKAGE / name
    is_checkout = (ROOT / CHECKOUT_FILE).is_file()
    return ROOT / name if is_checkout and not installed.exists() else installed


MIGRATIONS = find_resource("migrations")
DEMO_PRICES = find_resource("data/market_history.csv.gz")
TROUBLESHOOTING = find_resource("docs/troubleshooting.md")


def require_extra(extra: str) -> None:
    """Raise `MissingExtra` if a module of the extra cannot be imported.

    A package that needs an extra calls this before it imports modules of the extra. Under `python -m` with
    such a package, the error is printed as one line, and the process exits with status 1.
    """
    missing = [name for name in MODULES[extra] if name not in sys.modules and find_spec(name) is None]
    if not missing:
        return
    error = MissingExtra(f"{', '.join(missing)} is missing; run: pip install 'echo-markets[{extra}]'")
    if sys.argv[:1] == ["-m"]:  # Python sets this while it looks for the module of `-m`
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    raise error
