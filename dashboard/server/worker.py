"""`python -m dashboard.server.worker FILE FILE`: one of several processes that serve the dashboard's pages.

FILE is the file descriptor of a socket to the parent; `worker_channel` describes both sockets. The worker
serves the connections that the parent passes on, asks the parent whether one more page may open, and ends
when the parent has ended. `dashboard.server.workers` starts it.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from itertools import count
from typing import Any

import uvicorn

from core import Settings
from dashboard.server import application
from dashboard.server.worker_channel import (
    ConnectionLoad,
    Enter,
    FromWorker,
    Leave,
    Ready,
    parse_from_parent,
    receive_connection,
    send,
)

logger = logging.getLogger(__name__)

LOAD_SECONDS = 0.1
"""Time between two counts of the open connections, which the parent needs to choose a worker."""

COUNTS_PER_HEARTBEAT = 10
"""After this many counts, the worker sends the number of open connections even if it has not changed."""


class ParentPageLimits:
    """Asks the parent whether a page may open. The parent counts the open pages of all workers."""

    def __init__(self) -> None:
        self._numbers = count()
        self._pending: dict[int, asyncio.Future[bool]] = {}
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self, messages: socket.socket) -> asyncio.StreamReader:
        """Connect to the parent, and return a stream of the parent's answers, one per line.

        The caller passes each line to `handle_answer`.
        """
        reader, self._writer = await asyncio.open_unix_connection(sock=messages)
        return reader

    def handle_answer(self, line: bytes) -> None:
        """Handle one answer of the parent to an `Enter` message."""
        answer = parse_from_parent(line)
        pending = self._pending.pop(answer.number)
        if not pending.cancelled():
            pending.set_result(answer.is_admitted)

    def send(self, message: FromWorker) -> None:
        """Send a message to the parent."""
        if self._writer is not None:
            send(self._writer, message)

    async def enter(self, client: str, *, is_known: bool) -> bool:
        """Ask the parent whether one more page may open, and return its answer."""
        number = next(self._numbers)
        # this wait is cancelled only if the process ends; the parent then subtracts all pages of the worker
        self._pending[number] = asyncio.get_running_loop().create_future()
        self.send(Enter(number, client, is_known))
        return await self._pending[number]

    def leave(self, client: str, *, is_known: bool) -> None:
        """Tell the parent that a page has ended."""
        self.send(Leave(client, is_known))


class WorkerServer(uvicorn.Server):
    """uvicorn's server for connections that the parent has accepted."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        messages: socket.socket,
        connections: socket.socket,
        page_limits: ParentPageLimits,
    ) -> None:
        super().__init__(config)
        self._messages, self._connections = messages, connections
        self._page_limits = page_limits
        self._received = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then receive connections from the parent."""
        await super().startup(sockets=sockets)
        reader = await self._page_limits.connect(self._messages)
        asyncio.get_running_loop().add_reader(self._connections, self._receive_connection)
        self._start(self._read_messages(reader))
        self._start(self._report_load())
        self._page_limits.send(Ready())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Receive no further connections, and stop as uvicorn does."""
        asyncio.get_running_loop().remove_reader(self._connections)
        await super().shutdown(sockets=sockets)

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _receive_connection(self) -> None:
        try:
            connection = receive_connection(self._connections)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._connections)
            self.should_exit = True
            return
        self._received += 1
        if connection is not None:
            connection.setblocking(False)
            self._start(self._serve_connection(connection))

    async def _serve_connection(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def make_protocol() -> Any:
            # the same call as in uvicorn's own `startup`
            return self.config.http_protocol_class(  # type: ignore[call-arg]  # mypy does not know the class
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        with contextlib.suppress(OSError):
            # ignore the error: the client may have disconnected already
            await loop.connect_accepted_socket(make_protocol, connection)

    async def _read_messages(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._page_limits.handle_answer(line)
        logger.warning("the parent has ended; this worker ends too")
        self.should_exit = True

    async def _report_load(self) -> None:
        last: tuple[int, int] | None = None
        for number in count():
            load = self._received, len(self.server_state.connections)
            if load != last or number % COUNTS_PER_HEARTBEAT == 0:
                last = load
                self._page_limits.send(ConnectionLoad(*load))
            await asyncio.sleep(LOAD_SECONDS)


def main(arguments: Sequence[str]) -> None:
    """Serve until a signal, or until the parent ends. `arguments` are the two file descriptors."""
    messages, connections = (socket.socket(fileno=int(argument)) for argument in arguments)
    for each in (messages, connections):
        each.setblocking(False)
    page_limits = ParentPageLimits()
    config = application.configure_server(Settings.load(), page_limits=page_limits)
    server = WorkerServer(config, messages=messages, connections=connections, page_limits=page_limits)
    # with an empty list, uvicorn opens no port: the parent has opened it
    server.run(sockets=[])


if __name__ == "__main__":
    main(sys.argv[1:])
