"""Runs an `echo-markets` command on a pseudo-terminal and types an answer.

Owns the pseudo-terminal, which is the command's standard input and standard error. Standard output is a pipe.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

RUN_SECONDS = 60


class CommandResult(NamedTuple):
    """The result of a command: exit status, standard output, and the text that the terminal showed."""

    status: int
    output: str
    shown: str


def run_on_terminal(*arguments: str, answer: str, environment: Mapping[str, str]) -> CommandResult:
    """Run an `echo-markets` command, type `answer` and a newline, and wait for its end."""
    master, slave = os.openpty()
    parts: list[bytes] = []
    # read in a thread, because a command blocks when the terminal's buffer is full
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
    return CommandResult(process.returncode, output, b"".join(parts).decode().replace("\r\n", "\n"))


def _read_into(parts: list[bytes], master: int) -> None:
    # Linux raises EIO at the end of a pseudo-terminal
    with suppress(OSError):
        while part := os.read(master, 4096):
            parts.append(part)
