"""The shared tier: what the cache asks of Redis.

Owns the connection to Redis, the circuit breaker around it, and the invalidations
that Redis still has to be told of. Every failure is a `CacheDown`, after at most one
short timeout; nothing else leaves this module. Knows keys and bytes, no values.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from core.cache.breaker import CircuitBreaker
from core.cache.codec import FENCE_MARK, LEASE_MARK
from core.cache.feed import InvalidationFeed
from core.cache.keys import FAMILIES
from core.cache.near import NearTier
from core.cache.scripts import FENCE, FILL, LEASE, RELEASE
from core.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

GRANTED: Final = 1
TAKEN: Final = 0
FENCED: Final = -1

# A reader that dies costs its key this long; a loader that takes longer has its fill refused.
LEASE_MILLISECONDS = 10_000
# As long as a statement may run by default; a writer that dies costs its keys this long.
FENCE_MILLISECONDS = 30_000
# Outlives every value filled under it (the longest lives 600 s); losing one is a miss.
VERSION_MILLISECONDS = 3_600_000
# Redis answers nobody else while a script runs.
SCRIPT_KEYS = 1_000
# Beyond this many, the keys are dropped by a scan instead of by name.
OWED_LIMIT = 100_000
SCAN_COUNT = 1_000
NO_TOKEN = b""


class CacheDown(Exception):
    """Redis did not do what was asked; `reason` is `down` or `error`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Lease(NamedTuple):
    """The answer to a reader that missed: GRANTED, TAKEN or FENCED per key, and the versions."""

    token: bytes
    states: dict[str, int]
    version_keys: tuple[str, ...]
    versions: tuple[bytes, ...]


class _Debt(NamedTuple):
    """An invalidation that Redis has to be told of: its number, and the writer's fence."""

    number: int
    token: bytes


class SharedTier:
    """Redis behind a circuit breaker."""

    def __init__(self, settings: Settings, *, client_name: str, breaker: CircuitBreaker) -> None:
        self._prefix = settings.redis_key_prefix
        self._redis = connect_redis(settings, client_name)
        self._lease: Any = self._redis.register_script(LEASE)
        self._fill: Any = self._redis.register_script(FILL)
        self._fence: Any = self._redis.register_script(FENCE)
        self._release: Any = self._redis.register_script(RELEASE)
        self._breaker = breaker
        self._lock = threading.Lock()
        self._owed: dict[str, _Debt] = {}
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

    def lease(self, keys: Sequence[str], versions: Sequence[str], *, overwrite: Sequence[bool]) -> "Lease":
        """Ask to fill the keys."""
        token = LEASE_MARK + secrets.token_bytes(15)
        flags = [int(flag) for flag in overwrite]
        arguments = [token, LEASE_MILLISECONDS, VERSION_MILLISECONDS, len(keys), *flags]
        reply = self._call(lambda: self._lease(self._named([*keys, *versions]), arguments))
        states = dict(zip(keys, reply, strict=False))
        return Lease(token, states, tuple(versions), tuple(reply[len(keys) :]))

    def fill(self, lease: "Lease", stored: Sequence[tuple[str, int, bytes]]) -> int:
        """Store (key, milliseconds, value) where the lease still holds; return how many did.

        0 milliseconds give the lease up and store nothing.
        """
        keys = [*(key for key, _, _ in stored), *lease.version_keys]
        arguments: list[Any] = [lease.token, len(stored)]
        for _, milliseconds, value in stored:
            arguments += (milliseconds, value)
        arguments += lease.versions
        return int(self._call(lambda: self._fill(self._named(keys), arguments)))

    def fence(self, keys: Sequence[str]) -> bytes:
        """Let nobody fill these keys until they are deleted; return the token that deletes them.

        When Redis does not answer there is nothing to fence off: it is not read then either.
        """
        token = FENCE_MARK + secrets.token_bytes(15)
        try:
            self._call(lambda: self._run(self._fence, keys, [token, FENCE_MILLISECONDS]))
        except CacheDown:
            logger.debug("no fence: redis does not answer")
        return token

    def delete(self, keys: Sequence[str], token: bytes = NO_TOKEN) -> None:
        """Drop the keys, now or, when Redis does not answer, before it is read again."""
        # owed first: should this thread fail in between, another call settles it
        with self._lock:
            self._invalidations += 1
            self._owed.update(dict.fromkeys(keys, _Debt(self._invalidations, token)))
            if len(self._owed) > OWED_LIMIT:
                self._owes_all = True
                self._owed.clear()
        try:
            self._call(lambda: None)
        except CacheDown:
            logger.debug("invalidations wait for redis to come back")

    def make_feed(self, near: NearTier) -> InvalidationFeed:
        """Return the feed that keeps `near` coherent with this Redis."""
        return InvalidationFeed(self._redis, near, prefix=self._prefix, families=FAMILIES)

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
            for token in {debt.token for debt in owed.values()}:
                keys = [key for key, debt in owed.items() if debt.token == token]
                self._run(self._release, keys, [token])
        except BaseException:
            self._owes_all = self._owes_all or owes_all
            raise
        with self._lock:
            for key, debt in owed.items():
                # a key that was invalidated again meanwhile is still owed
                if self._owed.get(key) == debt:
                    del self._owed[key]

    def _run(self, script: Any, keys: Sequence[str], arguments: Sequence[Any]) -> None:
        """Run a script over many keys, a thousand at a time in one round trip."""
        if len(keys) <= SCRIPT_KEYS:
            script(self._named(keys), arguments)
            return
        with self._redis.pipeline(transaction=False) as pipeline:
            for start in range(0, len(keys), SCRIPT_KEYS):
                script(self._named(keys[start : start + SCRIPT_KEYS]), arguments, client=pipeline)
            pipeline.execute()

    def _delete_all(self) -> None:
        for family in FAMILIES:
            names = self._redis.scan_iter(match=f"{self._prefix}{family}*", count=SCAN_COUNT)
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
