"""Whether commands in the checkout use another database than the stack that runs there.

Owns the line that says so: `make up` starts a server of its own, and DATABASE_URL in the environment
or in `.env` wins over it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from core.errors import SettingsError
from core.settings import Settings
from core.stack_identity import describe_database


def describe_other_database(root: Path, recorded: Mapping[str, str]) -> str | None:
    """Return the line, or None when DATABASE_URL is unset or names the stack's own database."""
    try:
        chosen = Settings.load(_env_file=(root / ".env",)).database_url.get_secret_value()
    except SettingsError:
        return None  # unset, or wrong, which whatever uses it says
    own = describe_database(recorded["DATABASE_URL"])
    other = describe_database(chosen)
    if own == other:
        return None
    is_exported = any(name.upper() == "DATABASE_URL" and value for name, value in os.environ.items())
    place, remedy = ("the environment", "unset it") if is_exported else (".env", "remove it there")
    return (
        f"note: this stack uses the database {own}, but DATABASE_URL in {place} is {other}, which"
        f" `echo-markets` commands use; {remedy} to use the stack's (`make migrate` and `make seed` do)"
    )
