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
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core import Settings, open_service
from core.app import configure_logging
from dashboard import access_gate, data, downloads, runtime, states
from dashboard.access import Policy, build_policy, build_secrets
from dashboard.operations.current import set_telemetry
from dashboard.operations.telemetry import open_telemetry
from dashboard.server_assets import CompressedAssets
from dashboard.server_shield import Shield, build_content_policy
from dashboard.server_theme import keep_theme
from dashboard.server_warming import start_warming

STREAMLIT_STATIC = Path(st.__file__).with_name("static")
SCRIPT = Path(__file__).with_name("app.py")
SHUTDOWN_SECONDS = 1
"""How long open browser connections may hold up a stop; pages reconnect by themselves."""

DRAIN_SECONDS = 2.0
"""How long reads that run get before they are cancelled; with the connections' second it stays below 5."""

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
    """Return the ASGI application; it opens its service when the server starts it.

    Raises `SettingsError` when the settings of access contradict each other.
    """
    policy = build_policy(settings)
    set_telemetry(open_telemetry(settings))

    @asynccontextmanager
    async def lifespan(_: st.App) -> AsyncGenerator[dict[str, Any] | None, None]:
        service = open_service(settings, role="dashboard")
        runtime.set_service(service)
        runtime.watch_sessions(service.metrics)
        access_gate.open_gate(policy)
        start_warming(service)
        try:
            yield None
        finally:
            await asyncio.to_thread(service.close, DRAIN_SECONDS)
            runtime.set_service(None)

    return st.App(
        SCRIPT,
        secrets=build_secrets(settings),
        lifespan=lifespan,
        middleware=_build_middleware(policy),
        routes=[
            Route("/livez", get_livez),
            Route("/readyz", get_readyz),
            Route(downloads.LEADERBOARD_PATH, downloads.get_leaderboard),
        ],
        on_script_error=states.show_unexpected,
    )


def _build_middleware(policy: Policy) -> list[Middleware]:
    shield = Middleware(
        Shield,
        policy=policy,
        content_policy=build_content_policy(STREAMLIT_STATIC / "index.html"),
        count_sign_in=_count_sign_in,
    )
    return [shield, Middleware(CompressedAssets, folder=STREAMLIT_STATIC / "static")]


def _count_sign_in(is_rejected: bool) -> None:  # noqa: FBT001  # one argument, named by the function
    runtime.get_service().metrics.count_limited("sign_in", is_rejected=is_rejected)


def serve(settings: Settings) -> None:
    """Serve the pages until SIGTERM or SIGINT. Raises `SettingsError`."""
    app = create_app(settings)
    _prepare_logging(settings)
    _exit_on_signal()
    config = uvicorn.Config(
        app,
        host=settings.dashboard_host,
        port=settings.dashboard_port,
        log_config=None,
        access_log=False,
        server_header=False,
        # wakes up once for what a page's thread sends in a row, and not for each message
        loop="uvloop",
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        # a page is some forty messages of 45 kB together, most below 300 bytes: compressing each of
        # them costs a run more than a tenth of its processor time
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        # whoever reaches this port stands behind the proxy, so the proxy's word counts
        forwarded_allow_ips="*" if settings.dashboard_behind == "proxy" else "127.0.0.1",
    )
    keep_theme()
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
