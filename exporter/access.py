"""Basic authentication for everything but the probes (RFC 7617).

Owns the header, the open paths and the check of passwords. The users come from `exporter.web_config`.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import threading
from collections.abc import Mapping

import bcrypt
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# bcrypt takes a tenth of a second on purpose; a scraper sends the same password each time.
REMEMBERED = 100
# Their answers are one word, and an orchestrator has no password.
OPEN_PATHS = frozenset({"/livez", "/readyz"})
CHALLENGE = {"WWW-Authenticate": 'Basic realm="echo-markets", charset="UTF-8"'}


class Passwords:
    """Checks passwords against their hashes; thread safe."""

    def __init__(self, users: Mapping[str, bytes]) -> None:
        self._users = users
        self._accepted: set[bytes] = set()
        # one at a time: guessing passwords must not take the processor from scrapes
        self._checking = threading.Lock()

    def is_known(self, name: str, password: str) -> bool:
        """Say whether this password was accepted before; takes no time."""
        return self._digest(name, password) in self._accepted

    def check(self, name: str, password: str) -> bool:
        """Say whether the password is the user's; takes a tenth of a second."""
        # an unknown user takes as long as a known one, so that names cannot be guessed by timing
        expected = self._users.get(name, next(iter(self._users.values())))
        with self._checking:
            try:
                is_right = bcrypt.checkpw(password.encode(), expected) and name in self._users
            except ValueError:
                # longer than bcrypt compares, or with a zero byte
                return False
            if is_right and len(self._accepted) < REMEMBERED:
                self._accepted.add(self._digest(name, password))
            return is_right

    def _digest(self, name: str, password: str) -> bytes:
        key = self._users.get(name, b"nobody")
        return hmac.digest(key, f"{name}:{password}".encode(), hashlib.sha256)


class BasicAuth:
    """An ASGI application in front of another one (RFC 7617)."""

    def __init__(self, app: ASGIApp, passwords: Passwords) -> None:
        self._app = app
        self._passwords = passwords

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request with a valid password on, answer 401 to the others."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or await self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        await PlainTextResponse("unauthorized\n", 401, headers=CHALLENGE)(scope, receive, send)

    async def _is_allowed(self, scope: Scope) -> bool:
        sent = _parse(Headers(scope=scope).get("authorization", ""))
        if sent is None:
            return False
        # bcrypt is slow: compare outside the event loop
        return self._passwords.is_known(*sent) or await asyncio.to_thread(self._passwords.check, *sent)


def _parse(header: str) -> tuple[str, str] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, separator, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if separator else None
