"""Files that come with the stack and are read at run time: migrations, demo prices, the troubleshooting page.

Owns where they are. A checkout has them beside `core`; a wheel carries them inside of it, because folders
called `migrations` or `data` in site-packages would collide with those of other projects.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
# Only a checkout has it: what lies beside an installed package belongs to other projects.
CHECKOUT_FILE = "pyproject.toml"


def find_resource(name: str, *, package: Path = PACKAGE) -> Path:
    """Return the path of a file or folder of the stack; it may be missing from a damaged installation."""
    installed = package / name
    is_checkout = (package.parent / CHECKOUT_FILE).is_file()
    return package.parent / name if is_checkout and not installed.exists() else installed


MIGRATIONS = find_resource("migrations")
DEMO_PRICES = find_resource("data/market_history.csv.gz")
TROUBLESHOOTING = find_resource("docs/troubleshooting.md")
