"""Chooses the content encoding of a response (RFC 9110, 12.4.2 and 12.5.3)."""

import math
from typing import Literal, NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

Encoding = Literal["gzip", "identity"]

GZIP = ("gzip", "x-gzip")
"""The names of gzip (RFC 9110, 8.4.1.3)."""


def parse_quality(parameters: dict[str, str]) -> float:
    """Return the quality value `q` of an item, from 0 to 1; return 1 if `q` is missing or not a number."""
    try:
        quality = float(parameters.get("q", ""))
    except ValueError:
        return 1.0
    return min(1.0, max(0.0, quality)) if math.isfinite(quality) else 1.0


def parse_items(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return the names in a list header such as Accept-Encoding, in lower case, each with its parameters."""
    items = []
    for item in header.lower().split(","):
        name, *parts = (part.strip() for part in item.split(";"))
        pairs = (part.partition("=") for part in parts)
        items.append((name, {key.strip(): value.strip() for key, _, value in pairs}))
    return items


class Accepted(NamedTuple):
    """The quality values of gzip and identity in an Accept-Encoding header.

    `identity` is None if the header has neither `identity` nor `*`.
    """

    gzip: float
    identity: float | None

    def choose(self) -> Encoding | None:
        """Return the encoding with the higher quality, or None if both qualities are 0.

        If both have the same quality above 0, return gzip. If `identity` is None, return gzip unless its
        quality is 0.
        """
        if self.gzip > 0 and (self.identity is None or self.gzip >= self.identity):
            return "gzip"
        return None if self.identity == 0 else "identity"


def parse_accepted(header: str | None) -> Accepted:
    """Return the quality values in the value of an Accept-Encoding header.

    Without the header, `identity` is preferred, because the client may not know any encoding.
    """
    qualities: dict[str, float] = {}
    for name, parameters in parse_items(header or ""):
        quality = parse_quality(parameters)
        qualities[name] = max(quality, qualities.get(name, 0.0))
    others = qualities.get("*")
    gzip = max((qualities[name] for name in GZIP if name in qualities), default=others or 0.0)
    return Accepted(gzip, qualities.get("identity", others))


class ChosenEncoding:
    """ASGI middleware that puts the chosen encoding into the Accept-Encoding header of a request.

    The wrapped application and Starlette's middleware only look for the word `gzip` in that header. They also
    leave small responses uncompressed. For a client that refuses `identity`, this class compresses small
    responses too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # the minimum is 1, so that an empty body stays empty: a 304 response must not have a body
        self._compressing = GZipMiddleware(app, minimum_size=1, exclude_content_types=())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 406 if the client refuses both gzip and identity."""
        app = self._app
        if scope["type"] == "http":
            headers = MutableHeaders(raw=list(scope["headers"]))
            accepted = parse_accepted(",".join(headers.getlist("accept-encoding")))
            chosen = accepted.choose()
            if chosen is None:
                refusal = PlainTextResponse(
                    "neither gzip nor identity is accepted\n", 406, headers={"Vary": "Accept-Encoding"}
                )
                await refusal(scope, receive, send)
                return
            headers["accept-encoding"] = chosen
            if accepted.identity == 0:
                app = self._compressing
                # drop Range, because it counts the bytes of the uncompressed file
                del headers["range"]
            scope = {**scope, "headers": headers.raw}
        await app(scope, receive, send)
