"""Asks for a password before anything but the probes is answered.

Owns the header and which paths stay open. Passwords themselves are checked in
`exporter.web_config`.
"""

import asyncio
import base64
import binascii

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter.web_config import Passwords

# They say one word, and an orchestrator has no password.
OPEN_PATHS = frozenset({"/livez", "/readyz"})
CHALLENGE = {"WWW-Authenticate": 'Basic realm="echo-markets", charset="UTF-8"'}


class BasicAuth:
    """An ASGI application in front of another one (RFC 7617)."""

    def __init__(self, app: ASGIApp, passwords: Passwords) -> None:
        self._app = app
        self._passwords = passwords

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what carries a right password, answer 401 to the rest."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or await self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        await PlainTextResponse("unauthorized\n", 401, headers=CHALLENGE)(scope, receive, send)

    async def _is_allowed(self, scope: Scope) -> bool:
        shown = _parse(Headers(scope=scope).get("authorization", ""))
        if shown is None:
            return False
        # comparing takes its time on purpose, which is not the event loop's
        return self._passwords.is_known(*shown) or await asyncio.to_thread(self._passwords.check, *shown)


def _parse(header: str) -> tuple[str, str] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, separator, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if separator else None
