"""The HTTP server of the exporter: routes, status codes and headers.

`exporter.exposition` builds the text of `/metrics`, and `exporter.health` builds the health document. Unknown
paths get status 404. Methods other than GET and HEAD get status 405.
"""

import gzip
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from core import EnhancedDatabaseService, Settings
from core.metrics import Metrics
from core.metrics.names import STACK_ROLES
from core.settings.stack_identity import StackIdentity
from core.web.encodings import ChosenEncoding
from core.web.rate_limits import Limited, RateLimit, RateLimits
from core.web.requests import PROBES, KnownHosts
from exporter.access import BasicAuth, Passwords
from exporter.collectors.postgres import open_postgres_runner
from exporter.collectors.redis import open_redis_runner
from exporter.collectors.runner import CollectorRunner
from exporter.exposition import Exposition, negotiate
from exporter.health import build_health_document, describe_readiness

NO_STORE = {"Cache-Control": "no-store"}
# Compression level. The metrics contain many repetitions, so a higher level does not make them smaller.
GZIP_LEVEL = 4
NO_USERS: Mapping[str, bytes] = MappingProxyType({})

INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Echo Markets exporter</title></head>
<body>
<h1>Echo Markets exporter</h1>
<ul>
<li><a href="/metrics">/metrics</a>: every process of the stack, PostgreSQL and Redis</li>
<li><a href="/api/health/database">/api/health/database</a>: health of database and Redis</li>
<li><a href="/readyz">/readyz</a>: whether the stack can serve</li>
<li><a href="/livez">/livez</a>: whether this process runs</li>
</ul>
</body>
</html>
"""


def open_runners(settings: Settings, metrics: Metrics) -> tuple[CollectorRunner[Any], ...]:
    """Return the collector runners for the servers in `settings`. They connect when they run.

    Database connections are counted by the role of their process, such as `dashboard`. The counted roles are
    those of the stack, those in METRICS_ROLES, and those of running processes with the same METRICS_DIR.
    """

    def find_roles() -> set[str]:
        return metrics.list_roles().union(STACK_ROLES, settings.list_metrics_roles())

    operations = [name for name in dir(EnhancedDatabaseService) if not name.startswith("_")]
    postgres = open_postgres_runner(settings, operations, find_roles=find_roles)
    return (postgres, open_redis_runner(settings)) if settings.enable_redis_cache else (postgres,)


def build_app(
    service: EnhancedDatabaseService,
    *,
    runners: Sequence[CollectorRunner[Any]] = (),
    users: Mapping[str, bytes] = NO_USERS,
    names: Sequence[str] = (),
    limits: RateLimits | None = None,
    requests_per_minute: int = 0,
    stack: StackIdentity | None = None,
) -> Starlette:
    """Return the ASGI application, which closes `runners` when it ends.

    `users` maps names to bcrypt hashes. With users, every path except the probes needs a password. Without
    users, requests are answered only if their Host header is an IP address, a name of this machine or one of
    `names`. A client may send `requests_per_minute` requests, counted by `limits`; 0 means no limit. The
    health document names `stack`.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            for runner in runners:
                runner.close()

    limit = RateLimit("exporter", requests_per_minute)

    def choose_limit(scope: Scope) -> RateLimit | None:
        return None if scope["path"] in PROBES else limit

    access = [
        Middleware(KnownHosts, names=names, is_open=bool(users)),
        Middleware(Limited, limits=limits or RateLimits(), choose=choose_limit),
        *([Middleware(BasicAuth, passwords=Passwords(users))] if users else []),
        Middleware(ChosenEncoding),
    ]
    routes = _build_routes(service, Exposition(service, runners), stack)
    app = Starlette(routes=routes, middleware=access, lifespan=lifespan)
    # do not redirect /metrics/ to /metrics: like all unknown paths, it gets status 404
    app.router.redirect_slashes = False
    return app


def _build_routes(
    service: EnhancedDatabaseService, exposition: Exposition, stack: StackIdentity | None
) -> list[Route]:
    """Return the routes. Endpoints that block are plain functions, which Starlette runs in threads."""

    def metrics(request: Request) -> Response:
        wanted = negotiate(request.headers)
        text = exposition.build(wanted)
        headers = {"Content-Type": wanted.content_type, "Vary": "Accept, Accept-Encoding"}
        if request.headers["accept-encoding"] == "gzip":
            text = gzip.compress(text, GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return Response(text, headers=headers)

    def health(_: Request) -> Response:
        found = service.health()
        status = 503 if found.status == "unhealthy" else 200
        return JSONResponse(build_health_document(found, stack), status, headers=NO_STORE)

    def readyz(_: Request) -> Response:
        is_ready, text = describe_readiness(service.health())
        return PlainTextResponse(f"{text}\n", 200 if is_ready else 503, headers=NO_STORE)

    async def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n", headers=NO_STORE)

    async def index(_: Request) -> Response:
        return HTMLResponse(INDEX)

    return [
        Route("/", index),
        Route("/metrics", metrics),
        Route("/api/health/database", health),
        Route("/livez", livez),
        Route("/readyz", readyz),
    ]
