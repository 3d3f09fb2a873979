"""Rate limits: requests of a client and actions of a person, counted in Redis by all processes together.

Owns the counters (library `limits`, sliding window counter) and the middleware that refuses requests over a
limit. If Redis does not answer, each process counts alone, or refuses every request if the limit fails
closed. Redis is used without the capability check of the cache, because the loss of counters does no harm. An
error here does not disable the cache. The name of a client is stored only as a digest.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import redis
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.cache.client import RedisClient, Script
from core.cache.topology import make_connection_factory
from core.metrics.names import Limiter
from core.settings import Settings
from core.web.requests import find_client

logger = logging.getLogger(__name__)

# After a failure Redis is not used for this time, so that few callers wait for a timeout in an outage.
PAUSE_SECONDS = 1.0

# KEYS: the counter. ARGV: length of a window in milliseconds, limit, number of requests to count.
#
# Counts the requests if the limit allows them. Returns four numbers: 1 if the limit allows them, else 0; the
# count of the previous window; the milliseconds until the current window ends; the count of the current
# window.
#
# The value of the key is the number of a window, the count of the window before it, and its own count.
# The script uses only commands that the cache needs too, so the Redis user needs no further permission.
COUNT = Script("""
    local now = redis.call('TIME')
    now = now[1] * 1000 + math.floor(now[2] / 1000)
    local window, limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
    local at, left = math.floor(now / window), window - now % window
    local stored = redis.call('MGET', KEYS[1])[1]
    local before, previous, current = string.match(stored or '', '^(%d+) (%d+) (%d+)$')
    before, previous, current = tonumber(before) or 0, tonumber(previous) or 0, tonumber(current) or 0
    if before == at - 1 then
        previous, current = current, 0
    elseif before ~= at then
        previous, current = 0, 0
    end
    local fits = math.floor(previous * left / window) + current + cost <= limit
    if fits and cost > 0 then
        current = current + cost
        redis.call('SET', KEYS[1], string.format('%d %d %d', at, previous, current), 'PX', 2 * window)
    end
    return {fits and 1 or 0, previous, left, current}
""")


class RateLimit(msgspec.Struct, frozen=True):
    """At most `requests` in any `seconds` seconds. With `requests=0` there is no limit."""

    limiter: Limiter
    requests: int
    seconds: int = 60


class Decision(NamedTuple):
    """Whether a request is allowed, and how many more (`remaining`) are allowed now.

    After `seconds` seconds more requests may be allowed.
    """

    is_allowed: bool
    remaining: int
    seconds: float
    is_counted: bool = True
    """False if the request was refused without counting: Redis did not answer, and the limit fails closed."""


class SharedWindows(RedisStorage):
    """The storage of the library `limits` on this project's Redis client.

    The library calls only the methods that this class defines.
    """

    STORAGE_SCHEME = None  # type: ignore[assignment]  # no URL leads here
    base_exceptions = redis.RedisError

    def __init__(self, client: RedisClient, *, prefix: str) -> None:
        # the constructor of `RedisStorage` would open a client of redis-py
        Storage.__init__(self)
        self._client = client
        self._prefix = prefix

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` requests if the limit allows them. Return whether it does."""
        return bool(self._run(key, limit, expiry, amount)[0])

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return count and remaining seconds of the previous window, then those of the current window."""
        _, previous, left, current = self._run(key, 0, expiry, 0)
        return previous, left / 1000, current, left / 1000 + expiry

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()

    def _run(self, key: str, limit: int, expiry: int, amount: int) -> list[int]:
        arguments = (expiry * 1000, limit, amount)
        try:
            found: list[int] = self._client.run_each(COUNT, [[f"{self._prefix}{key}"]], arguments)[0]
        except redis.RedisError:
            # another server may be the primary now; a new connection finds it
            self._client.drop_connections()
            raise
        return found


class RateLimits:
    """The rate limiter of one process; thread safe. Without `shared` this process counts alone."""

    def __init__(
        self,
        shared: SharedWindows | None = None,
        *,
        count: Callable[[Limiter, bool], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._windows = shared
        self._shared = None if shared is None else SlidingWindowCounterRateLimiter(shared)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._count = count
        self._clock = clock
        self._paused_until = float("-inf")
        self._is_logged = False

    def take(self, limit: RateLimit, name: str, *, fails_closed: bool = False) -> Decision:
        """Count a request of `name` if the limit allows it. Return the decision.

        While Redis does not answer, this process counts alone. With `fails_closed` it refuses every request
        instead.
        """
        decision = self._take(limit, name, fails_closed=fails_closed)
        self._count(limit.limiter, not decision.is_allowed)
        return decision

    def _take(self, limit: RateLimit, name: str, *, fails_closed: bool) -> Decision:
        if self._shared is not None and self._clock() >= self._paused_until:
            try:
                decision = _hit(self._shared, limit, name)
            except (redis.RedisError, OSError) as error:
                self._record_failure(error)
            else:
                self._record_success()
                return decision
        if self._shared is not None and fails_closed:
            return Decision(is_allowed=False, remaining=0, seconds=PAUSE_SECONDS, is_counted=False)
        return _hit(self._own, limit, name)

    def close(self) -> None:
        """Close the connections to Redis."""
        if self._windows is not None:
            self._windows.close()

    def _record_failure(self, error: Exception) -> None:
        self._paused_until = self._clock() + PAUSE_SECONDS
        if not self._is_logged:
            self._is_logged = True
            logger.warning("rate limits are counted by each process alone: Redis: %s", error)

    def _record_success(self) -> None:
        if self._is_logged:
            self._is_logged = False
            logger.info("rate limits are counted in Redis again")


def open_rate_limits(settings: Settings, *, role: str, count: Callable[[Limiter, bool], None]) -> RateLimits:
    """Return the rate limiter of this process. The first request opens the connection to Redis.

    If the Redis cache is disabled, this process counts alone.
    """
    if not settings.enable_redis_cache:
        return RateLimits(count=count)
    client = RedisClient(make_connection_factory(settings, f"echo-markets-{role}-limits"))
    return RateLimits(SharedWindows(client, prefix=settings.redis_key_prefix), count=count)


def _hit(limiter: SlidingWindowCounterRateLimiter, limit: RateLimit, name: str) -> Decision:
    item = RateLimitItemPerSecond(limit.requests, limit.seconds, namespace="ratelimit")
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:32]
    is_allowed = limiter.hit(item, limit.limiter, digest)
    reset_at, remaining = limiter.get_window_stats(item, limit.limiter, digest)
    return Decision(is_allowed, remaining, min(limit.seconds, max(0.0, reset_at - time.time())))


def build_headers(limit: RateLimit, decision: Decision) -> dict[str, str]:
    """Return the rate-limit headers of a response (draft-ietf-httpapi-ratelimit-headers-10).

    The response to a refused request also has `Retry-After`.
    """
    seconds = max(1, math.ceil(decision.seconds))
    headers = {
        "RateLimit-Policy": f'"{limit.limiter}";q={limit.requests};w={limit.seconds}',
        "RateLimit": f'"{limit.limiter}";r={decision.remaining};t={seconds}',
    }
    return headers if decision.is_allowed else headers | {"Retry-After": str(seconds)}


class Limited:
    """ASGI middleware that refuses requests over a limit. `choose` returns the limit of a request or None."""

    def __init__(
        self, app: ASGIApp, *, limits: RateLimits, choose: Callable[[Scope], RateLimit | None]
    ) -> None:
        self._app = app
        self._limits = limits
        self._choose = choose

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429. A WebSocket over the limit is closed before it is accepted."""
        limit = self._choose(scope) if scope["type"] in {"http", "websocket"} else None
        if limit is None or not limit.requests:
            await self._app(scope, receive, send)
            return
        # in a thread, because a Redis that hangs must not stop the event loop
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
