"""A TCP proxy between a service and its server; a test can cut, pause and change the traffic.

Owns the sockets and threads of the proxied connections. The idea is from psycopg's `tests/fix_proxy.py`.
Counts nothing and understands no protocol.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

CHUNK_BYTES = 65_536
LOOPBACK = "127.0.0.1"
STOP_SECONDS = 5.0


class Proxy:
    """Forwards connections to a port of this machine until `close`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._is_refusing = False
        # gets data from a client; returns the data for the server and the data to send back to the client
        self.script: Callable[[bytes], tuple[bytes, bytes]] | None = None
        # called with a client's data after it was forwarded, or after `script` has held it back
        self.after_sent: Callable[[bytes], None] | None = None
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._accepting.start()

    @property
    def has_connections(self) -> bool:
        """True while a connection is open or its end was not forwarded yet."""
        with self._lock:
            return bool(self._pairs)

    def sever(self) -> None:
        """Cut every connection; new connections are forwarded."""
        with self._lock:
            for client, server in self._pairs:
                _shut(client)
                _shut(server)

    def refuse(self) -> None:
        """Cut every connection, and close each new connection at once."""
        self._is_refusing = True
        self.sever()

    def accept_again(self) -> None:
        """Forward new connections again, after `refuse`."""
        self._is_refusing = False

    def pause(self) -> None:
        """Forward no data, but keep every connection open."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward data again, beginning with the data held since `pause`."""
        self._flowing.set()

    def close(self) -> None:
        """Cut every connection and stop listening."""
        self.resume()
        _shut(self._listener)
        self._accepting.join()
        self._listener.close()
        self.sever()
        for thread in list(self._threads):
            thread.join(STOP_SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_refusing:
                client.close()
                continue
            try:
                server = socket.create_connection((LOOPBACK, self._target_port), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._start(self._serve, client, server)

    def _start(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        pair = (client, server)
        with client, server:
            with self._lock:
                self._pairs.add(pair)
            down = self._start(self._pump_down, client, server)
            self._pump_up(client, server)
            down.join()
            with self._lock:
                self._pairs.discard(pair)

    def _pump_up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(CHUNK_BYTES):
                self._flowing.wait()
                forwarded, reply = self.script(data) if self.script is not None else (data, b"")
                if forwarded:
                    server.sendall(forwarded)
                if reply:
                    client.sendall(reply)
                if self.after_sent is not None:
                    self.after_sent(data)
        _shut(client)
        _shut(server)

    def _pump_down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(CHUNK_BYTES):
                self._flowing.wait()
                client.sendall(data)
        _shut(client)
        _shut(server)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def run_proxy(target_port: int) -> Iterator[Proxy]:
    """Forward connections to `target_port` for the length of a `with` block."""
    proxy = Proxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
