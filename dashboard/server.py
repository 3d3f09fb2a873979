"""The dashboard's web server: Streamlit's pages, health routes, start and stop.

Owns the lifespan (opens the service once per process, drains it at shutdown), the
routes for probes and uvicorn's configuration. Never reads figures itself.
"""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import streamlit as st
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core import Settings, open_service
from core.app import configure_logging
from dashboard import data, downloads, runtime, states
from dashboard.operations.current import set_telemetry
from dashboard.operations.telemetry import open_telemetry

SCRIPT = Path(__file__).with_name("app.py")
SHUTDOWN_SECONDS = 1
"""How long open browser connections may hold up a stop; pages reconnect by themselves."""

PAGE_MODULES = ("dashboard.charts", "dashboard.frames", "pyarrow.pandas_compat", "PIL.Image")
"""Loaded before the first visitor comes: together they take seconds."""

FOREIGN_LOGGERS = frozenset({"streamlit", "uvicorn", "websockets"})
"""Loggers that Streamlit gives a handler, a level and a form of their own."""

MESSAGE_BYTES = 200 * 1024 * 1024
"""The largest message between page and server; Streamlit's own default."""


async def get_livez(_: Request) -> JSONResponse:
    """Answer that the process runs; touches nothing."""
    return JSONResponse({"status": "alive"})


def get_readyz(_: Request) -> JSONResponse:
    """Answer 200 when the database answers, otherwise 503; runs on a worker thread."""
    ready = data.is_database_up(runtime.get_service())
    return JSONResponse(
        {"status": "ready" if ready else "database unavailable"}, status_code=200 if ready else 503
    )


def create_app(settings: Settings) -> st.App:
    """Return the ASGI application; it opens its service when the server starts it."""
    set_telemetry(open_telemetry(settings))

    @asynccontextmanager
    async def lifespan(_: st.App) -> AsyncGenerator[dict[str, Any] | None, None]:
        service = open_service(settings, role="dashboard")
        runtime.set_service(service)
        runtime.watch_sessions(service.metrics)
        try:
            yield None
        finally:
            await asyncio.to_thread(service.close)
            runtime.set_service(None)

    return st.App(
        SCRIPT,
        lifespan=lifespan,
        routes=[
            Route("/livez", get_livez),
            Route("/readyz", get_readyz),
            Route(downloads.LEADERBOARD_PATH, downloads.get_leaderboard),
        ],
        on_script_error=states.show_unexpected,
    )


def serve(settings: Settings) -> None:
    """Serve the pages until SIGTERM or SIGINT."""
    app = create_app(settings)
    _prepare_logging(settings)
    _exit_on_signal()
    config = uvicorn.Config(
        app,
        host=settings.dashboard_host,
        port=settings.dashboard_port,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    _preload()
    uvicorn.Server(config).run()


def _preload() -> None:
    """Import what pages need, and keep all that is loaded by now out of every collection."""
    for name in PAGE_MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()


def _prepare_logging(settings: Settings) -> None:
    """Write the logs of this process, those of Streamlit and uvicorn in the same form."""
    configure_logging(settings)
    # reading an option makes Streamlit read its configuration, which sets up its loggers
    st.get_option("logger.level")
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in FOREIGN_LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
    # Streamlit logs a traceback as well, without the error id that the page shows
    logging.getLogger("streamlit.error_util").addFilter(lambda record: record.msg != "Uncaught app execution")


def _exit_on_signal() -> None:
    """End with status 0 on SIGTERM and SIGINT, before, during and after uvicorn's own handling.

    uvicorn stops gracefully and then raises the signal again for the handler it found.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
