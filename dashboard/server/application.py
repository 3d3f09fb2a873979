"""The dashboard's web server: Streamlit's pages, probes, start and stop.

Opens the service once per process when the server starts, warms its caches and samples its health, and
drains the service when the server stops. Owns the routes of the probes and uvicorn's configuration.
"""

import asyncio
import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import streamlit as st
import uvicorn
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from streamlit import config as streamlit_config
from streamlit.proto.NewSession_pb2 import CustomThemeConfig
from streamlit.runtime import app_session
from streamlit.runtime.pages_manager import PagesManager

from core import EnhancedDatabaseService, Settings, open_service
from core.app import configure_logging
from core.errors import EchoMarketsError
from core.metrics.names import Limiter
from core.web.client_deadlines import MANY_AHEAD, protocol_options
from core.web.encodings import ChosenEncoding
from core.web.rate_limits import Limited, RateLimits, open_rate_limits
from dashboard import runtime, states
from dashboard.monitoring.sampler import open_sampler, set_sampler
from dashboard.pages.leaderboards import download
from dashboard.pages.players import download as players_download
from dashboard.pages.quests import download as quests_download
from dashboard.server import sign_in
from dashboard.server.access import Policy, build_policy, build_secrets
from dashboard.server.assets import CompressedAssets
from dashboard.server.connections import MESSAGE_BYTES, BoundedWebSocket, PageConnections, PageLimits
from dashboard.server.index import STATIC, IndexPage
from dashboard.server.page_limits import HostPageLimits
from dashboard.server.page_reruns import watch_health
from dashboard.server.proxy import ProxyHeaders
from dashboard.server.request_limits import choose_limit
from dashboard.server.security import Shield, build_content_policy, is_known
from dashboard.server.sign_outs import SignOuts, watch_sign_outs

logger = logging.getLogger(__name__)

STREAMLIT_STATIC = Path(st.__file__).with_name("static")
SCRIPT = Path(__file__).parents[1] / "app.py"
SHUTDOWN_SECONDS = 1
"""How long the server waits for open browser connections when it stops. Pages reconnect by themselves."""

FRESH_SECONDS = 2.0
"""Seconds for which a value that was read for one visitor is also shown to other visitors."""

DRAIN_SECONDS = 2.0
"""How long running reads may continue after a stop began. The whole stop then takes less than 5 s."""

PRELOADED_MODULES = ("dashboard.charts", "pandas", "pyarrow.pandas_compat", "PIL.Image")
"""Modules that are imported at start, because importing them takes seconds."""

FOREIGN_LOGGERS = frozenset({"streamlit", "uvicorn", "websockets"})
"""Libraries whose loggers get a handler, a level and a format from Streamlit."""

WARMED_LIMITS = (10, 50, 100)
WARMED_SESSIONS = 2
"""At start, the leaderboards of this many newest sessions are read, once with each limit in WARMED_LIMITS."""

THEME_BUILDER = "_populate_theme_msg"
"""Streamlit's function that writes one section of the theme into a message to the browser."""


async def get_livez(_: Request) -> JSONResponse:
    """Answer 200 while the process runs. Sends no request to PostgreSQL or Redis."""
    return JSONResponse({"status": "alive"})


def get_readyz(_: Request) -> JSONResponse:
    """Answer 200 if the database answers, else 503. Starlette runs this function in a thread."""
    ready = runtime.is_database_up(runtime.get_service())
    return JSONResponse(
        {"status": "ready" if ready else "database unavailable"}, status_code=200 if ready else 503
    )


def create_app(settings: Settings, *, page_limits: PageLimits | None) -> st.App:
    """Return the ASGI application. It opens its service when the server starts.

    Without `page_limits`, this process counts its open pages itself. Raises `SettingsError` if the access
    settings contradict each other.
    """
    policy = build_policy(settings)
    limits = open_rate_limits(settings, role="dashboard", count=_count_limited)
    sign_outs = SignOuts()

    @asynccontextmanager
    async def lifespan(_: st.App) -> AsyncGenerator[dict[str, Any] | None, None]:
        service = open_service(settings, role="dashboard")
        runtime.set_service(service, fresh_seconds=FRESH_SECONDS)
        runtime.watch_sessions(service.metrics)
        sign_in.set_policy(
            policy,
            limits=limits,
            actions_per_minute=settings.rate_limit_actions,
            sign_outs=sign_outs,
        )
        sampler = open_sampler(service, settings)
        set_sampler(sampler)
        sampler.start()
        watching = [asyncio.create_task(watch_health(service, sampler))]
        if policy.has_sign_in:
            watching.append(asyncio.create_task(watch_sign_outs(sign_outs, service)))
        threading.Thread(target=warm_caches, args=(service,), name="warming", daemon=True).start()
        try:
            yield None
        finally:
            for task in watching:
                task.cancel()
            set_sampler(None)
            # close both at the same time, because each may wait for a server
            await asyncio.gather(
                asyncio.to_thread(sampler.close, DRAIN_SECONDS),
                asyncio.to_thread(service.close, DRAIN_SECONDS),
            )
            limits.close()
            runtime.set_service(None)

    return st.App(
        SCRIPT,
        secrets=build_secrets(settings),
        lifespan=lifespan,
        middleware=_build_middleware(
            policy,
            settings,
            limits=limits,
            sign_outs=sign_outs,
            page_limits=page_limits or HostPageLimits.of_host(settings),
        ),
        routes=[
            Route("/livez", get_livez),
            Route("/readyz", get_readyz),
            Route(download.PATH, download.get_leaderboard),
            Route(players_download.SILENT_PATH, players_download.get_silent),
            Route(players_download.RETENTION_PATH, players_download.get_retention),
            Route(quests_download.PATH, quests_download.get_stuck),
        ],
        on_script_error=states.show_unexpected,
    )


def warm_caches(service: EnhancedDatabaseService) -> None:
    """Fill the caches with the data that the first visitors need.

    If this fails, the first visitors wait longer.
    """
    try:
        keys = service.warm_cache(limits=WARMED_LIMITS)
        for day in service.list_leaderboard_dates(limit=WARMED_SESSIONS):
            for category in service.list_leaderboard_categories(day):
                for limit in WARMED_LIMITS:
                    service.get_leaderboard(category, day, limit)
                    keys += 1
    except EchoMarketsError as error:
        logger.info("caches not warmed, they fill as visitors come: %s", error)
    else:
        logger.info("warmed %d cache keys", keys)


def _build_middleware(
    policy: Policy, settings: Settings, *, limits: RateLimits, sign_outs: SignOuts, page_limits: PageLimits
) -> list[Middleware]:
    # A proxy can be in front of the dashboard in two cases: the dashboard has a sign-in (the proxy may then
    # only terminate TLS), or DASHBOARD_BEHIND is set. With `proxy`, the proxy decides who gets in. With
    # `loopback`, only this machine reaches the dashboard, and a proxy may distribute its visitors over
    # several dashboards.
    can_have_proxy = policy.has_sign_in or settings.dashboard_behind != "nothing"
    proxies = settings.list_dashboard_proxies() if can_have_proxy else ()
    shield = Middleware(
        Shield,
        policy=policy,
        content_policy=build_content_policy(STREAMLIT_STATIC / "index.html"),
        sign_outs=sign_outs,
    )
    return [
        Middleware(ProxyHeaders, proxies=proxies),
        shield,
        Middleware(Limited, limits=limits, choose=partial(choose_limit, settings)),
        Middleware(
            PageConnections,
            page_limits=page_limits,
            is_known=partial(is_known, policy, sign_outs),
            count=_count_limited,
        ),
        Middleware(ChosenEncoding),
        Middleware(IndexPage, folder=STREAMLIT_STATIC),
        Middleware(
            CompressedAssets, folder=STREAMLIT_STATIC / "static", icons=STATIC / "material-symbols.woff2"
        ),
    ]


def _count_limited(limiter: Limiter, is_rejected: bool) -> None:  # noqa: FBT001  # as the metric counts
    runtime.get_service().metrics.count_limited(limiter, is_rejected)


def serve(settings: Settings) -> None:
    """Serve the pages until SIGTERM or SIGINT. Raises `SettingsError`."""
    uvicorn.Server(configure_server(settings)).run()


def configure_server(settings: Settings, *, page_limits: PageLimits | None = None) -> uvicorn.Config:
    """Prepare this process, and return the configuration of its web server. Raises `SettingsError`."""
    app = create_app(settings, page_limits=page_limits)
    if settings.oidc_cookie_secret is not None:
        # without this, each process would sign the cookie of an unfinished sign-in with its own random
        # secret
        streamlit_config.set_option(
            "server.cookieSecret", settings.oidc_cookie_secret.get_secret_value(), "OIDC_COOKIE_SECRET"
        )
    _prepare_logging(settings)
    _exit_on_signal()
    config = uvicorn.Config(
        app,
        host=settings.dashboard_host,
        port=settings.dashboard_port,
        log_config=None,
        access_log=False,
        server_header=False,
        # uvloop wakes up only once for all messages that the thread of a page sends in a row
        loop="uvloop",
        ws=BoundedWebSocket,
        ws_max_size=MESSAGE_BYTES,
        # do not compress: a page is sent as about forty messages, most below 300 bytes, and compressing them
        # takes more than a tenth of the CPU time of a run
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        # `ProxyHeaders`, and not uvicorn, decides which X-Forwarded headers are trusted
        proxy_headers=False,
        backlog=MANY_AHEAD,
        **protocol_options(),
    )
    build_theme_once()
    # st.navigation sets this only in the first run; before it, Streamlit would build a menu from the folder
    # `pages`
    PagesManager.uses_pages_directory = False
    _preload()
    return config


def build_theme_once(module: ModuleType = app_session) -> None:
    """Make Streamlit build each section of its theme once instead of in every run of a page.

    The first message of a run contains the whole theme. Streamlit builds it from about 240 options, which
    takes 1.5 ms of the 10 to 14 ms of a run. A release of Streamlit without the function THEME_BUILDER is
    left unchanged. See docs/decisions/0008-streamlit.md.
    """
    build = getattr(module, THEME_BUILDER, None)
    if build is None:
        logger.info("this Streamlit has no %s: it builds the theme in every run", THEME_BUILDER)
        return

    @cache
    def build_section(section: str) -> CustomThemeConfig:
        message = CustomThemeConfig()
        build(message, section)
        return message

    def fill(message: CustomThemeConfig, section: str = "theme") -> None:
        built = build_section(section)
        # do not merge an empty message: a section without options would then count as present
        if built.ByteSize():
            message.MergeFrom(built)

    setattr(module, THEME_BUILDER, fill)


def _preload() -> None:
    """Import the modules that pages need, and exempt all objects created so far from garbage collection."""
    for name in PRELOADED_MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()


def _prepare_logging(settings: Settings) -> None:
    """Write all log entries in one format, including those of Streamlit and uvicorn."""
    configure_logging(settings)
    # reading an option loads Streamlit's configuration, which sets up the loggers that are reset below
    st.get_option("logger.level")
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in FOREIGN_LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
    # drop Streamlit's own log entry for an error of a page: `states` logs the error with the id that the
    # page shows
    logging.getLogger("streamlit.error_util").addFilter(lambda record: record.msg != "Uncaught app execution")


def _exit_on_signal() -> None:
    """Exit with status 0 on SIGTERM and SIGINT.

    uvicorn replaces these handlers by its own while it runs. When it has stopped because of a signal, it
    restores these handlers and raises the signal again.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
