"""Runs a command as a person would: on a terminal, with typed answers.

Owns the pseudo-terminal. Returns the standard output of the command separately from the text that it
shows on the terminal.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

RUN_SECONDS = 60


class Typed(NamedTuple):
    """The result of a command: exit status, standard output, and the text on the terminal."""

    status: int
    output: str
    shown: str


def run_on_terminal(*arguments: str, answer: str, environment: Mapping[str, str]) -> Typed:
    """Run an `echo-markets` command, type `answer` and a newline, and wait for its end."""
    master, slave = os.openpty()
    parts: list[bytes] = []
    # read in a thread: a command blocks when nobody reads its terminal
    reader = threading.Thread(target=_read_into, args=(parts, master))
    with subprocess.Popen(
        [sys.executable, "-m", "core.cli", *arguments],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment,
        text=True,
    ) as process:
        os.close(slave)
        reader.start()
        os.write(master, f"{answer}\n".encode())
        output, _ = process.communicate(timeout=RUN_SECONDS)
    reader.join()
    os.close(master)
    return Typed(process.returncode, output, b"".join(parts).decode().replace("\r\n", "\n"))


def _read_into(parts: list[bytes], master: int) -> None:
    # Linux raises EIO at the end of a pseudo-terminal
    with suppress(OSError):
        while part := os.read(master, 4096):
            parts.append(part)
