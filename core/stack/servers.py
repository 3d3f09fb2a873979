"""Real PostgreSQL and Valkey servers for the length of a `with` block.

Owns starting, waiting and stopping; what is specific to each server is in
`postgres` and `valkey`. Used by tests, those of other projects included (`core.testing`),
and benchmarks. The stack itself runs the same command lines under a supervisor. Never
touches a configured database.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from core.stack.account import Account, server_environment
from core.stack.errors import StackError
from core.stack.log_files import last_lines
from core.stack.ports import LOOPBACK, find_free_port, is_port_free
from core.stack.postgres import (
    NO_OPTIONS,
    SUPERUSER,
    postgres_command,
    prepare_postgres,
)
from core.stack.probes import postgres_answers, valkey_answers
from core.stack.valkey import prepare_valkey, valkey_command

START_SECONDS = 60.0  # a cold start takes 2 s; a loaded machine gets thirty times that
STOP_SECONDS = 30.0  # a fast shutdown writes one checkpoint
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 3  # a free port can be taken by someone else before the server binds it


class PostgresServer(NamedTuple):
    """A running PostgreSQL; `password` is that of the superuser `postgres`."""

    port: int
    pid: int
    password: str

    def url(self, database: str = "postgres") -> str:
        """Return the connection URL of one database."""
        return f"postgresql://{SUPERUSER}:{self.password}@{LOOPBACK}:{self.port}/{database}"


class ValkeyServer(NamedTuple):
    """A running Valkey; its URL has no password, which is given separately."""

    port: int
    pid: int
    password: str

    @property
    def url(self) -> str:
        """Return the connection URL of database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"


@contextmanager
def run_postgres(
    directory: Path, *, port: int | None = None, options: Mapping[str, str] = NO_OPTIONS
) -> Iterator[PostgresServer]:
    """Serve a PostgreSQL 18 whose files are in `directory`, created when it has none.

    `port` None takes a free one; `options` are server settings such as `fsync`.
    Raises `StackError` when the server does not answer, with the end of its log.
    """
    files = prepare_postgres(directory)
    plan = _Plan(
        name="PostgreSQL",
        command=lambda chosen: postgres_command(files, port=chosen, options=options),
        answers=lambda chosen: postgres_answers(PostgresServer(chosen, 0, files.password).url()),
        account=files.account,
        log=directory / "postgres.log",
        stop_signal=signal.SIGINT,  # a fast shutdown: it does not wait for clients to leave
    )
    with _serve(plan, port) as (chosen, pid):
        yield PostgresServer(port=chosen, pid=pid, password=files.password)


@contextmanager
def run_valkey(directory: Path, *, port: int | None = None) -> Iterator[ValkeyServer]:
    """Serve a Valkey 9 whose configuration is in `directory`; it keeps nothing on disk.

    `port` None takes a free one.
    Raises `StackError` when the server does not answer, with the end of its log.
    """
    files = prepare_valkey(directory)
    plan = _Plan(
        name="Valkey",
        command=lambda chosen: valkey_command(files, port=chosen),
        answers=lambda chosen: valkey_answers(chosen, files.password),
        account=files.account,
        log=directory / "valkey.log",
        stop_signal=signal.SIGTERM,
    )
    with _serve(plan, port) as (chosen, pid):
        yield ValkeyServer(port=chosen, pid=pid, password=files.password)


class _Plan(NamedTuple):
    """How to start, probe and stop one kind of server."""

    name: str
    command: Callable[[int], list[str]]
    answers: Callable[[int], bool]
    account: Account | None
    log: Path
    stop_signal: signal.Signals


@contextmanager
def _serve(plan: _Plan, port: int | None) -> Iterator[tuple[int, int]]:
    chosen, process = _start(plan, port)
    try:
        yield chosen, process.pid
    finally:
        _stop(process, plan.stop_signal)


def _start(plan: _Plan, port: int | None) -> tuple[int, subprocess.Popen[bytes]]:
    for _ in range(PORT_ATTEMPTS if port is None else 1):
        chosen = port or find_free_port()
        if not is_port_free(chosen):
            continue  # a server that answers there would be taken for ours
        process = _launch(plan, chosen)
        try:
            if _wait_until_ready(plan, chosen, process):
                return chosen, process
        except BaseException:  # Ctrl-C included: never leave a server behind
            _stop(process, plan.stop_signal)
            raise
    if not is_port_free(chosen):
        raise StackError(f"{plan.name} cannot listen on port {chosen}, which is taken")
    raise StackError(f"{plan.name} ended while starting on port {chosen}: {last_lines(plan.log)}")


def _launch(plan: _Plan, port: int) -> subprocess.Popen[bytes]:
    with plan.log.open("wb") as log:
        return subprocess.Popen(
            plan.command(port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=server_environment(),
            user=plan.account and plan.account.uid,
            group=plan.account and plan.account.gid,
            extra_groups=plan.account and [],
            start_new_session=True,  # Ctrl-C reaches the caller only, which then stops the server in order
        )


def _wait_until_ready(plan: _Plan, port: int, process: subprocess.Popen[bytes]) -> bool:
    """Return True once the server answers, False when it ended."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        if plan.answers(port):
            return True
        if time.monotonic() > deadline:
            waited = f"{plan.name} did not answer on port {port} within {START_SECONDS:.0f} s"
            raise StackError(f"{waited}: {last_lines(plan.log)}")
        time.sleep(POLL_SECONDS)
    return False


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)  # a test may have paused it; a paused server cannot stop
    process.send_signal(stop_signal)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
