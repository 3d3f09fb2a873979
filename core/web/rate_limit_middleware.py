"""ASGI middleware that counts requests against their rate limits and refuses requests over the limit."""

import asyncio
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.web.rate_limits import RateLimit, RateLimits, build_headers
from core.web.requests import find_client


class Limited:
    """Wraps an ASGI application; `choose` returns the limit of a request, or None."""

    def __init__(
        self, app: ASGIApp, *, limits: RateLimits, choose: Callable[[Scope], RateLimit | None]
    ) -> None:
        self._app = app
        self._limits = limits
        self._choose = choose

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429; a WebSocket is closed before it is accepted."""
        limit = self._choose(scope) if scope["type"] in {"http", "websocket"} else None
        if limit is None or not limit.requests:
            await self._app(scope, receive, send)
            return
        # a Redis that hangs must not hold up the event loop
        decision = await asyncio.to_thread(self._limits.take, limit, find_client(scope))
        headers = build_headers(limit, decision)
        if decision.is_allowed:

            async def send_with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).update(headers)
                await send(message)

            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = PlainTextResponse(
                f"too many requests; try again in {headers['Retry-After']} s\n", 429, headers=headers
            )
            await refusal(scope, receive, send)
