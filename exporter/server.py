"""The HTTP face of the exporter: which path answers what.

Owns routes and status codes; what they show is built in `exporter.exposition` and
`exporter.documents`. Every other path is 404, every other method 405.
"""

from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from core import EnhancedDatabaseService
from exporter.documents import build_health_document
from exporter.exposition import build_exposition

NO_STORE = {"Cache-Control": "no-store"}


def build_app(service: EnhancedDatabaseService, metrics_dir: Path | None) -> Starlette:
    """Return the ASGI application; its endpoints run in threads, because checks block."""

    def metrics(_: Request) -> Response:
        return Response(build_exposition(service, metrics_dir), media_type=CONTENT_TYPE_LATEST)

    def health(_: Request) -> Response:
        found = service.health()
        status = 503 if found.status == "unhealthy" else 200
        return JSONResponse(build_health_document(found), status, headers=NO_STORE)

    def readyz(_: Request) -> Response:
        is_ready = service.health().status != "unhealthy"
        text = "ready\n" if is_ready else "not ready: the database does not answer\n"
        return PlainTextResponse(text, 200 if is_ready else 503, headers=NO_STORE)

    def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n", headers=NO_STORE)

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/api/health/database", health),
            Route("/livez", livez),
            Route("/readyz", readyz),
        ]
    )
