"""The HTTP face of the exporter: which path answers what.

Owns routes and status codes; what they show is built in `exporter.exposition` and
`exporter.documents`. Every other path is 404, every other method 405.
"""

import gzip
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from core import EnhancedDatabaseService, Settings
from core.metric_names import STACK_ROLES
from core.metrics import Metrics
from core.stack_identity import StackIdentity
from exporter.access import BasicAuth
from exporter.collectors.lane import Lane
from exporter.collectors.postgres import open_postgres_lane
from exporter.collectors.redis import open_redis_lane
from exporter.documents import INDEX, build_health_document, describe_readiness
from exporter.exposition import build_exposition
from exporter.negotiation import accepts_gzip, negotiate
from exporter.web_config import Passwords

NO_STORE = {"Cache-Control": "no-store"}
# Metrics repeat themselves: more effort saves nothing.
GZIP_LEVEL = 4
NO_USERS: Mapping[str, bytes] = MappingProxyType({})


def open_lanes(settings: Settings, metrics: Metrics) -> tuple[Lane[Any], ...]:
    """Return the collectors of the servers that `settings` name; they connect when they run.

    Connections are counted by the roles of the stack, of METRICS_ROLES and of the live processes
    that share `metrics` with this one.
    """

    def find_roles() -> set[str]:
        shared = metrics.list_roles(settings.metrics_dir)
        return shared.union(STACK_ROLES, settings.list_metrics_roles())

    operations = [name for name in dir(EnhancedDatabaseService) if not name.startswith("_")]
    postgres = open_postgres_lane(settings, operations, find_roles=find_roles)
    return (postgres, open_redis_lane(settings)) if settings.enable_redis_cache else (postgres,)


def build_app(
    service: EnhancedDatabaseService,
    metrics_dir: Path | None,
    *,
    lanes: Sequence[Lane[Any]] = (),
    users: Mapping[str, bytes] = NO_USERS,
    stack: StackIdentity | None = None,
) -> Starlette:
    """Return the ASGI application; it closes `lanes` at its end. Its health document is that of `stack`.

    With `users`, names to bcrypt hashes, all but the probes asks for a password.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            for lane in lanes:
                lane.close()

    access = [Middleware(BasicAuth, passwords=Passwords(users))] if users else []
    app = Starlette(
        routes=_build_routes(service, metrics_dir, lanes, stack),
        middleware=access,
        lifespan=lifespan,
    )
    # /metrics/ is another path, and 404 like all others
    app.router.redirect_slashes = False
    return app


def _build_routes(
    service: EnhancedDatabaseService,
    metrics_dir: Path | None,
    lanes: Sequence[Lane[Any]],
    stack: StackIdentity | None,
) -> list[Route]:
    """Return the routes; endpoints that check something run in threads, because checks block."""
    succeeded_at: dict[str, float] = {}

    def metrics(request: Request) -> Response:
        scrape, content_type = negotiate(request.headers)
        text = build_exposition(service, metrics_dir, lanes=lanes, scrape=scrape, succeeded_at=succeeded_at)
        described = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if accepts_gzip(request.headers):
            text = gzip.compress(text, GZIP_LEVEL, mtime=0)
            described["Content-Encoding"] = "gzip"
        return Response(text, headers=described)

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
