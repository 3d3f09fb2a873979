"""Which content encoding a client accepts (RFC 9110, 12.4.2 and 12.5.3)."""

import math
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

Encoding = Literal["gzip", "identity"]

GZIP = ("gzip", "x-gzip")
"""The names of gzip (RFC 9110, 8.4.1.3)."""


def parse_quality(parameters: dict[str, str]) -> float:
    """Return the quality value `q` of an item, from 0 to 1; 1 where it is missing or no number."""
    try:
        quality = float(parameters.get("q", ""))
    except ValueError:
        return 1.0
    return min(1.0, max(0.0, quality)) if math.isfinite(quality) else 1.0


def parse_items(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return the names of a list header in lower case, each with its parameters."""
    items = []
    for item in header.lower().split(","):
        name, *parts = (part.strip() for part in item.split(";"))
        pairs = (part.partition("=") for part in parts)
        items.append((name, {key.strip(): value.strip() for key, _, value in pairs}))
    return items


def choose_encoding(header: str | None) -> Encoding | None:
    """Return the encoding that an Accept-Encoding header prefers; None when it refuses both.

    gzip if it accepts both equally. Without the header `identity`, because the client may know no encoding.
    """
    qualities: dict[str, float] = {}
    for name, parameters in parse_items(header or ""):
        quality = parse_quality(parameters)
        qualities[name] = max(quality, qualities.get(name, 0.0))
    others = qualities.get("*")
    gzip = max((qualities[name] for name in GZIP if name in qualities), default=others or 0.0)
    # if neither it nor `*` is in the header, it is the last choice
    identity = qualities.get("identity", others)
    if gzip > 0 and (identity is None or gzip >= identity):
        return "gzip"
    return None if identity == 0 else "identity"


class ChosenEncoding:
    """Replaces Accept-Encoding by the one encoding that was chosen.

    The applications behind it, Starlette's middleware included, only look for the word `gzip` in that header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; 406 when the client accepts neither gzip nor plain."""
        if scope["type"] == "http":
            headers = MutableHeaders(raw=list(scope["headers"]))
            given = ",".join(Headers(scope=scope).getlist("accept-encoding")) or None
            chosen = choose_encoding(given)
            if chosen is None:
                refusal = PlainTextResponse(
                    "neither gzip nor identity is accepted\n", 406, headers={"Vary": "Accept-Encoding"}
                )
                await refusal(scope, receive, send)
                return
            headers["accept-encoding"] = chosen
            scope = {**scope, "headers": headers.raw}
        await self._app(scope, receive, send)
