"""Tests of the faults that drills cause in real processes: each fault is undone."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import StackError
from core.pool_drill import WAITING_THREADS, occupy_pool
from core.stack.drills import RunningStack, hang_valkey
from core.stack.folder import StackFolder
from core.stack.local import resume_paused
from core.stack.processes import wait_until

SECONDS = 10.0
LIMIT = 2


@pytest.fixture
def running(tmp_path: Path) -> RunningStack:
    """Return a running-stack object for a folder in which no server runs."""
    folder = StackFolder(tmp_path)
    folder.create()
    return RunningStack(folder, {})


@pytest.fixture
def server(running: RunningStack) -> Iterator[psutil.Process]:
    """Yield a process that the stack's folder records as its Valkey."""
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(command, cwd=running.folder.root) as process:
        running.folder.pid_file("valkey").write_text(f"{process.pid}\n", encoding="utf-8")
        yield psutil.Process(process.pid)
        process.kill()


def is_stopped(process: psutil.Process) -> bool:
    """Return whether a process is stopped by SIGSTOP."""
    return process.status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, StackError])
def test_a_paused_server_is_resumed_when_the_drill_ends(
    running: RunningStack, server: psutil.Process, error: type[BaseException]
) -> None:
    """If Ctrl-C, a signal or an error ends the drill, the paused server is resumed."""
    with pytest.raises(error), hang_valkey(running):
        assert wait_until(lambda: is_stopped(server), seconds=SECONDS)
        raise error
    assert wait_until(lambda: not is_stopped(server), seconds=SECONDS)


def test_make_up_resumes_a_server_that_a_killed_drill_paused(
    running: RunningStack, server: psutil.Process
) -> None:
    """`resume_paused` resumes a server that is stopped, and ignores running ones.

    `make up` calls it, because a drill that got SIGKILL cannot undo its fault.
    """
    assert resume_paused(running.folder) == []
    server.suspend()
    assert wait_until(lambda: is_stopped(server), seconds=SECONDS)
    assert resume_paused(running.folder) == ["valkey"]
    assert wait_until(lambda: not is_stopped(server), seconds=SECONDS)


def test_a_server_that_ends_during_a_drill_is_no_error(running: RunningStack, server: psutil.Process) -> None:
    """If the paused server is killed during the drill, the drill ends without an error."""
    with hang_valkey(running):
        server.kill()
        server.wait(SECONDS)


def test_a_drill_without_a_server_is_refused(running: RunningStack) -> None:
    """If no server runs, the drill raises an error that names `make up`."""
    with pytest.raises(StackError, match="make up"), hang_valkey(running):
        pytest.fail("the block was entered")


def has_waiting_request(service: EnhancedDatabaseService) -> bool:
    """Wait 3 ms and return whether a request waits for a connection."""
    threading.Event().wait(0.003)
    return service.pool_stats().requests_waiting > 0


def test_an_occupied_pool_is_full_until_the_stop_request(settings: Settings) -> None:
    """`occupy_pool` uses all connections and lets other requests time out until it is stopped."""
    small = {"database_connection_limit": LIMIT, "database_pool_timeout": 200}
    stopping = threading.Event()
    with open_service(settings.model_copy(update=small)) as service:
        thread = threading.Thread(
            target=occupy_pool, args=(service,), kwargs={"connections": LIMIT, "stopping": stopping}
        )
        thread.start()
        try:
            assert wait_until(lambda: service.pool_stats().pool_in_use == LIMIT, seconds=SECONDS)
            assert wait_until(
                lambda: service.pool_stats().requests_waiting == WAITING_THREADS, seconds=SECONDS
            )
            assert wait_until(
                lambda: service.pool_stats().requests_errors >= WAITING_THREADS, seconds=SECONDS
            )
            # the drill's requests time out at different moments, so at almost any moment at least one waits
            samples = [has_waiting_request(service) for _ in range(200)]
            assert sum(samples) > 190
        finally:
            stopping.set()
            thread.join(SECONDS)
        assert not thread.is_alive()
        assert service.pool_stats().pool_in_use == 0
