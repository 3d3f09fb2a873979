"""This installation: its version and commit, the files that come with it, and its extras.

Owns the rules where each of these is found. A checkout has the files beside `core`. A wheel has them inside
`core`, because folders called `migrations` or `data` in site-packages would collide with those of other
projects. An image has its commit in a file that its build has written; a checkout has it in the files of git,
which are read without running git.
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
# Extra -> the modules that the stack imports from it; a test compares this with pyproject.toml.
# The extra `local` is not here: it has programs and no modules, and each is looked up where it is started.
MODULES = {
    "dashboard": ("limits", "numpy", "pandas", "pyarrow", "starlette", "streamlit", "uvicorn", "uvloop"),
    "exporter": ("bcrypt", "limits", "starlette", "uvicorn", "yaml"),
    "frames": ("pandas",),
    "simulation": ("numpy", "pyarrow"),
}


class Release(NamedTuple):
    """The version and the commit; each is `unknown` if it cannot be found."""

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
    """Return the first SHOWN_CHARACTERS of the commit hash of the files in `root`, or `unknown`."""
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
    """Return the path of a file or folder of the stack; it may not exist in a damaged installation."""
    installed = PACKAGE / name
    is_checkout = (ROOT / CHECKOUT_FILE).is_file()
    return ROOT / name if is_checkout and not installed.exists() else installed


MIGRATIONS = find_resource("migrations")
DEMO_PRICES = find_resource("data/market_history.csv.gz")
TROUBLESHOOTING = find_resource("docs/troubleshooting.md")


def require_extra(extra: str) -> None:
    """Raise `MissingExtra` unless every module of an extra can be imported.

    The parts of the stack that need an extra call this before they import its modules. If `python -m` is
    importing such a part, print the error as one line and exit with status 1 instead.
    """
    missing = [name for name in MODULES[extra] if name not in sys.modules and find_spec(name) is None]
    if not missing:
        return
    error = MissingExtra(f"{', '.join(missing)} is missing; run: pip install 'echo-markets[{extra}]'")
    if sys.argv[:1] == ["-m"]:  # Python sets this while it searches for the module of `-m`
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    raise error
