"""A small web server whose responses a test sets; it runs during a `with` block.

It replaces exporters and Prometheus servers in states that are hard to cause with real ones: invalid
responses, slow responses, no response.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from core.settings.texts import LOOPBACK

Respond = Callable[[str], tuple[int, bytes]]


@contextmanager
def serving(respond: Respond) -> Iterator[str]:
    """Serve on a free port and yield the URL; `respond` gets the path and returns the status and the body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # name required by BaseHTTPRequestHandler
            status, body = respond(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                return  # the client has disconnected

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # name of the base class
            """Print nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
