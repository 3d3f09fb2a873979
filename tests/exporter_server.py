"""Serves an ASGI application on a real port, and creates TLS certificates for 127.0.0.1."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
import uvicorn
from starlette.types import ASGIApp

from core.stack.ports import find_free_port
from core.web.client_deadlines import LOOP, protocol_options

START_SECONDS = 10
LOCAL_URL = "http://127.0.0.1"
"""Base URL for Starlette's test client, whose default host name is `testserver`."""


@contextmanager
def served(app: ASGIApp, **options: Any) -> Iterator[int]:
    """Serve an application in a thread, as the exporter does; yield the port."""
    port = find_free_port()
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        loop=LOOP,
        ws="none",
        **protocol_options(),
        **options,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for _ in range(START_SECONDS * 100):
            if server.started:
                break
            threading.Event().wait(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join()


def write_tls(folder: Path) -> trustme.CA:
    """Write a certificate and key for 127.0.0.1; return the certificate authority that signed it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    return authority
