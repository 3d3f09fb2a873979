"""Files that only their owner may read: passwords and configurations that hold one.

Owns how they are written; never prints what is in them.
"""

import os
import secrets
from pathlib import Path

PASSWORD_BYTES = 24  # 192 bits: not guessable, and 32 characters that need no quoting anywhere


def write_private(path: Path, text: str) -> None:
    """Write `text` so that it is at no moment readable by others, and is there whole or not at all."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def load_password(path: Path) -> str:
    """Return the password kept in `path`, generated at the first call."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        write_private(path, password)
        return password
