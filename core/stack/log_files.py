"""What the programs of the stack have written, shown to people.

Owns reading log files; supervisord writes and rotates them.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

SHOWN_LINES = 100
LAST_LINES = 5
LAST_BYTES = 10_000


def show_logs(files: Sequence[Path], *, follow: bool) -> None:
    """Print the end of each file and, with `follow`, what is added until Ctrl-C."""
    existing = [str(file) for file in files if file.exists()]
    if not existing:
        return
    # -F survives the rotation of a file, and names each file when there are several
    command = ["tail", "-n", str(SHOWN_LINES), *(["-F"] if follow else []), "--", *existing]
    try:
        subprocess.run(command, check=False)
    except KeyboardInterrupt:
        return


def last_lines(file: Path, count: int = LAST_LINES) -> str:
    """Return the end of a file on one line, for an error message."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - LAST_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return "no output"
    return " | ".join(text.strip().splitlines()[-count:]) or "no output"
