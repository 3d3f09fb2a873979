"""The shared tier: what the cache asks of Redis.

Owns the connection to Redis, the circuit breaker around it, and the invalidations
that Redis still has to be told of. Every failure is a `CacheDown`, after at most one
short timeout; nothing else leaves this module. Knows keys and bytes, no values.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from core.cache.breaker import CircuitBreaker
from core.cache.codec import LEASE_MARKER
from core.cache.scripts import FILL, LEASE
from core.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A loader that takes longer than this loads for itself: its fill is refused.
LEASE_MILLISECONDS = 10_000
# Outlives every value filled under it (the longest lives 600 s); losing one is a miss.
VERSION_MILLISECONDS = 3_600_000
# Beyond this many, the keys are dropped by a scan instead of by name.
OWED_LIMIT = 100_000
SCAN_COUNT = 1_000
SCAN_PATTERNS = ("user:*", "portfolio:*", "market:*", "leaderboard:*", "quests:*", "market_events:*")


class CacheDown(Exception):
    """Redis did not do what was asked; `reason` is `down` or `error`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SharedTier:
    """Redis behind a circuit breaker."""

    def __init__(self, settings: Settings, *, client_name: str, breaker: CircuitBreaker) -> None:
        self._prefix = settings.redis_key_prefix
        self._redis = connect_redis(settings, client_name)
        self._lease: Any = self._redis.register_script(LEASE)
        self._fill: Any = self._redis.register_script(FILL)
        self._breaker = breaker
        self._lock = threading.Lock()
        # key -> number of its latest invalidation
        self._owed: dict[str, int] = {}
        self._owes_all = False
        self._invalidations = 0
        self._is_refusing = False

    @property
    def is_down(self) -> bool:
        """Whether Redis is bypassed at present."""
        return self._breaker.is_open

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        """Return what is stored under each key; MGET takes a key of another type for missing."""
        return self._call(lambda: self._redis.mget(self._named(keys)))

    def lease(
        self, keys: Sequence[str], versions: Sequence[str], *, overwrite: Sequence[bool]
    ) -> tuple[bytes, list[bool], tuple[bytes, ...]]:
        """Ask to fill the keys: the token, which were granted, and the present versions."""
        token = LEASE_MARKER + secrets.token_bytes(15)
        flags = [int(flag) for flag in overwrite]
        arguments = [token, LEASE_MILLISECONDS, VERSION_MILLISECONDS, len(keys), *flags]
        reply = self._call(lambda: self._lease(self._named([*keys, *versions]), arguments))
        return token, [bool(flag) for flag in reply[: len(keys)]], tuple(reply[len(keys) :])

    def fill(
        self,
        token: bytes,
        stored: Sequence[tuple[str, int, bytes]],
        versions: Sequence[tuple[str, bytes]],
    ) -> int:
        """Store (key, milliseconds, value) where the lease still holds; return how many did."""
        keys = [key for key, _, _ in stored] + [key for key, _ in versions]
        arguments: list[Any] = [token, len(stored)]
        for _, milliseconds, value in stored:
            arguments += (milliseconds, value)
        arguments += [version for _, version in versions]
        return int(self._call(lambda: self._fill(self._named(keys), arguments)))

    def delete(self, keys: Sequence[str]) -> None:
        """Drop the keys, now or, when Redis does not answer, before it is read again."""
        # owed first: should this process fail in between, another call settles it
        with self._lock:
            self._invalidations += 1
            self._owed.update(dict.fromkeys(keys, self._invalidations))
            if len(self._owed) > OWED_LIMIT:
                self._owes_all = True
                self._owed.clear()
        try:
            self._call(lambda: None)
        except CacheDown:
            logger.debug("invalidations wait for redis to come back")

    def close(self) -> None:
        """Close every connection to Redis."""
        self._redis.close()

    # -- one call ---------------------------------------------------------------------

    def _call(self, command: Callable[[], T]) -> T:
        if not self._breaker.allows_call():
            raise CacheDown("down")
        try:
            self._settle()
            result = command()
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            if not self._breaker.is_open:
                logger.warning("redis is bypassed: %s", type(error).__name__)
            self._breaker.record_failure()
            raise CacheDown("down") from error
        except redis.RedisError as error:
            if not self._is_refusing:
                logger.warning("redis refuses commands: %s", error)
            self._is_refusing = True
            raise CacheDown("error") from error
        self._is_refusing = False
        if self._breaker.is_open:
            logger.info("redis answers again")
            self._breaker.record_success()
        return result

    def _settle(self) -> None:
        """Do the invalidations that are owed, before anything is read."""
        if not self._owed and not self._owes_all:
            return
        with self._lock:
            owed, owes_all = dict(self._owed), self._owes_all
            self._owes_all = False
        try:
            if owes_all:
                self._delete_all()
            if owed:
                self._redis.unlink(*self._named(list(owed)))
        except BaseException:
            self._owes_all = self._owes_all or owes_all
            raise
        with self._lock:
            for key, number in owed.items():
                # a key that was invalidated again meanwhile is still owed
                if self._owed.get(key) == number:
                    del self._owed[key]

    def _delete_all(self) -> None:
        for pattern in (*SCAN_PATTERNS, "version:*"):
            names = self._redis.scan_iter(match=self._prefix + pattern, count=SCAN_COUNT)
            batch: list[Any] = []
            for name in names:
                batch.append(name)
                if len(batch) >= SCAN_COUNT:
                    self._redis.unlink(*batch)
                    batch.clear()
            if batch:
                self._redis.unlink(*batch)

    def _named(self, keys: Sequence[str]) -> list[str]:
        return [self._prefix + key for key in keys] if self._prefix else list(keys)


def connect_redis(settings: Settings, client_name: str) -> redis.Redis:
    """Return a client that gives up after one short timeout and never retries by itself.

    redis-py's own defaults wait for a minute on a server that hangs.
    """
    timeout_seconds = settings.redis_timeout / 1000
    password = settings.redis_password
    options: dict[str, Any] = {"password": password.get_secret_value()} if password else {}
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        client_name=client_name,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **options,
    )
