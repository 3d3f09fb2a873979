"""Decides which X-Forwarded headers are trusted: scheme, host and client of a request.

Any client can send these headers. They are removed if they do not come from the address of a proxy, so that
no later middleware trusts them.
"""

import logging
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

logger = logging.getLogger(__name__)

FORWARDED = b"x-forwarded-"


class ProxyHeaders:
    """Trusts the X-Forwarded headers of `proxies`, and removes those of all other clients.

    The client of a request is the rightmost address in X-Forwarded-For that is no proxy. Each proxy appends
    the address that has connected to it; the client itself may have sent the addresses to the left.
    """

    def __init__(self, app: ASGIApp, *, proxies: Sequence[str]) -> None:
        self._app = app
        self._networks = [ip_network(each) for each in proxies]
        self._believing = ProxyHeadersMiddleware(app, trusted_hosts=list(proxies))  # type: ignore[arg-type]  # uvicorn has its own ASGI types
        self._is_logged = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with the client, scheme and host of its trusted headers."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
        elif self._is_proxy(scope):
            await self._believing(scope, receive, send)  # type: ignore[arg-type]  # likewise
        else:
            await self._app(self._remove(scope), receive, send)

    def _is_proxy(self, scope: Scope) -> bool:
        peer = (scope.get("client") or ("",))[0]
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def _remove(self, scope: Scope) -> Scope:
        kept = [(name, value) for name, value in scope["headers"] if not name.startswith(FORWARDED)]
        if len(kept) < len(scope["headers"]) and self._networks and not self._is_logged:
            self._is_logged = True
            peer = (scope.get("client") or ("a client",))[0]
            logger.warning("%s is not in DASHBOARD_PROXIES: its X-Forwarded headers are ignored", peer)
        return {**scope, "headers": kept}
