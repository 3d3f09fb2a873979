"""The parent of several worker processes that serve the dashboard on one port. It serves no page itself.

Owns the port, the start, stop and replacement of workers, the choice of a worker for each connection, and
the number of open pages. Imports nothing of Streamlit, to use little memory.
docs/decisions/0018-several-processes.md says why the parent accepts connections and passes them on.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process

from core import Settings
from core.app import configure_logging
from core.backoff import Backoff
from dashboard.server.page_limits import HostPageLimits
from dashboard.server.worker_channel import (
    Admission,
    ConnectionLoad,
    Enter,
    Leave,
    Ready,
    parse_from_worker,
    send,
    send_connection,
)

logger = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that wait in the kernel's listen queue while no worker is ready."""

SILENT_SECONDS = 3
"""A worker that has sent no message for this long gets new connections last.

Normally it sends one per second.
"""

HUNG_SECONDS = 30
"""A worker that has sent no message for this long is killed and replaced."""

STOP_SECONDS = 8.0
"""A worker that takes longer than this to stop is killed. Normally it stops within 5 s."""

FULL_PAUSE_SECONDS = 0.05
"""If no worker can take a connection, the parent tries again after this pause."""

FIRST_RESTART_SECONDS, MAX_RESTART_SECONDS = 0.2, 30.0
"""Minimum and maximum pause before a worker is started again. The pause grows while the start fails."""


class Worker:
    """A worker process and the parent's ends of its two sockets."""

    def __init__(
        self,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connections: socket.socket,
    ) -> None:
        self.process = process
        self.is_ready = False
        self.silent_seconds = 0
        self.pages: list[tuple[str, bool]] = []
        self.reader, self.writer = reader, writer
        self._connections = connections
        self.passed = 0
        self.load = ConnectionLoad(received=0, open=0)

    @classmethod
    async def start(cls) -> "Worker":
        """Start a worker process and return it. The worker is ready once it has sent `Ready`."""
        messages, its_messages = socket.socketpair()
        connections, its_connections = socket.socketpair()
        with its_messages, its_connections:
            files = its_messages.fileno(), its_connections.fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "dashboard.server.worker", *map(str, files), pass_fds=files
            )
        connections.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=messages)
        return cls(process, reader, writer, connections)

    @property
    def open_connections(self) -> int:
        """The number of open connections, including those that the worker has not received yet."""
        return self.load.open + self.passed - self.load.received

    def pass_connection(self, connection: socket.socket) -> bool:
        """Pass a connection to the worker. Return False if the worker cannot take it."""
        try:
            send_connection(self._connections, connection)
        except OSError:
            return False
        self.passed += 1
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> None:
        """Close the parent's ends of the sockets."""
        self.writer.close()
        self._connections.close()


class Workers:
    """The parent of the workers. `run` returns the exit status of the program."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._page_limits = HostPageLimits.of_host(settings)
        self._workers: list[Worker] = []
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._status = 0
        self._was_ever_ready = False

    async def run(self, listeners: list[socket.socket]) -> int:
        """Serve until a signal, or until no worker can start. Return the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        supervisors = [
            asyncio.create_task(self._supervise_worker()) for _ in range(self._settings.dashboard_workers)
        ]
        others = [
            *(asyncio.create_task(self._accept(listener)) for listener in listeners),
            asyncio.create_task(self._watch_silence()),
            asyncio.create_task(self._ended.wait()),
        ]
        done, _ = await asyncio.wait([*supervisors, *others], return_when=asyncio.FIRST_COMPLETED)
        self._ended.set()
        for task in others:
            task.cancel()
        for listener in listeners:
            listener.close()
        await self._stop(supervisors)
        # raise the error of a task that failed: the program then ends, and its service manager starts it
        # again
        for task in done:
            task.result()
        return self._status

    async def _stop(self, supervisors: list[asyncio.Task[None]]) -> None:
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        _, late = await asyncio.wait(supervisors, timeout=STOP_SECONDS)
        if late:
            logger.warning("%d workers did not stop within %g s and are killed", len(late), STOP_SECONDS)
            for worker in self._workers:
                worker.signal(signal.SIGKILL)
            await asyncio.wait(supervisors)

    async def _supervise_worker(self) -> None:
        """Run one worker, and start a new one whenever it ends."""
        backoff = Backoff(first_seconds=FIRST_RESTART_SECONDS, max_seconds=MAX_RESTART_SECONDS)
        while not self._ended.is_set():
            worker = await Worker.start()
            self._workers.append(worker)
            if self._ended.is_set():
                worker.signal(signal.SIGTERM)
            status = await self._serve_requests(worker)
            if self._ended.is_set():
                return
            if worker.is_ready:
                backoff.reset()
            elif not self._was_ever_ready:
                # no worker has ever been ready, so a new one would fail too, for example because of a wrong
                # setting
                self._status = status if status > 0 else 1
                self._ended.set()
                return
            seconds = backoff.next_seconds()
            logger.warning("worker %d ended with status %d; another one starts", worker.process.pid, status)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds)

    async def _serve_requests(self, worker: Worker) -> int:
        """Answer the messages of a worker until it ends.

        Then subtract its pages, and return its exit status.
        """
        try:
            while line := await worker.reader.readline():
                worker.silent_seconds = 0
                await self._handle_message(worker, line)
        except ConnectionError:
            pass
        finally:
            self._workers.remove(worker)
            self._update_ready()
            for client, is_known in worker.pages:
                self._page_limits.leave(client, is_known=is_known)
            worker.close()
        return await worker.process.wait()

    async def _handle_message(self, worker: Worker, line: bytes) -> None:
        match parse_from_worker(line):
            case Ready():
                worker.is_ready = self._was_ever_ready = True
                self._update_ready()
                logger.info("worker %d is ready", worker.process.pid)
            case ConnectionLoad() as load:
                worker.load = load
            case Enter(number, client, is_known):
                is_admitted = await self._page_limits.enter(client, is_known=is_known)
                if is_admitted:
                    worker.pages.append((client, is_known))
                send(worker.writer, Admission(number, is_admitted))
            case Leave(client, is_known):
                worker.pages.remove((client, is_known))
                self._page_limits.leave(client, is_known=is_known)

    def _update_ready(self) -> None:
        if any(worker.is_ready for worker in self._workers):
            self._ready.set()
        else:
            self._ready.clear()

    async def _accept(self, listener: socket.socket) -> None:
        """Accept connections, and pass each one to the worker with the fewest connections."""
        loop = asyncio.get_running_loop()
        while True:
            await self._ready.wait()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # the client has disconnected, or this process has no file descriptor left
                logger.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(FULL_PAUSE_SECONDS)
                continue
            with connection:
                while not self._pass_connection(connection):
                    await asyncio.sleep(FULL_PAUSE_SECONDS)
                    await self._ready.wait()

    def _pass_connection(self, connection: socket.socket) -> bool:
        ready = [worker for worker in self._workers if worker.is_ready]
        # silent workers come last: a slow worker is better than none
        ready.sort(
            key=lambda worker: (
                worker.silent_seconds > SILENT_SECONDS,
                worker.open_connections,
                worker.passed,
            )
        )
        return any(worker.pass_connection(connection) for worker in ready)

    async def _watch_silence(self) -> None:
        """Kill each worker that sends no messages.

        The time in which this process was paused does not count.
        """
        while True:
            await asyncio.sleep(1)
            for worker in self._workers:
                worker.silent_seconds += worker.is_ready
                if worker.silent_seconds > HUNG_SECONDS:
                    logger.error("worker %d hangs: it is killed after %d s", worker.process.pid, HUNG_SECONDS)
                    worker.signal(signal.SIGKILL)


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            listeners.append(socket.create_server(address, family=family, backlog=BACKLOG))
            listeners[-1].setblocking(False)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def serve_with_workers(settings: Settings) -> int:
    """Serve the pages with DASHBOARD_WORKERS processes until SIGTERM or SIGINT. Return the exit status."""
    configure_logging(settings)
    try:
        listeners = listen(settings.dashboard_host, settings.dashboard_port)
    except OSError as error:
        place = f"{settings.dashboard_host}, port {settings.dashboard_port}"
        sys.stderr.write(f"cannot listen on {place}: {error}; set DASHBOARD_HOST or DASHBOARD_PORT\n")
        return os.EX_UNAVAILABLE
    return asyncio.run(Workers(settings).run(listeners))
