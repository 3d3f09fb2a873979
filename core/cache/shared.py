"""The shared tier: what the cache asks of Redis.

Owns the connection to Redis, the circuit breaker around it, and the invalidations
that Redis still has to be told of. Every failure is a `CacheDown`, after at most one
short timeout; nothing else leaves this module. Knows keys and bytes, no values.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import redis

from core.cache.breaker import CircuitBreaker
from core.cache.claims import NO_FENCE, NO_TOKEN, Fence, Lease, build_request, read_lease
from core.cache.codec import LEASE_MARK, new_token
from core.cache.debts import Debts
from core.cache.feed import InvalidationFeed
from core.cache.keys import FAMILIES
from core.cache.link import Link, Script, Sent
from core.cache.near import NearTier
from core.cache.scripts import FENCE, FILL, LEASE, RELEASE
from core.cache.wire import Wire
from core.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A fence outlives the COMMIT, which may take as long as any statement; a writer that dies costs
# its keys this long.
FENCE_MARGIN_MILLISECONDS = 5_000
# Redis answers nobody else while a script runs.
SCRIPT_KEYS = 1_000
SCAN_COUNT = 1_000
# What may lie under a key that holds a string.
_STORED = frozenset({bytes, type(None)})
# What redis-py raises when the answer is not of the protocol, besides its own errors.
BROKEN_ANSWER = (OSError, ValueError, TypeError, AttributeError, IndexError)


class CacheDown(Exception):
    """Redis did not do what was asked; `reason` is `down` or `error`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SharedTier:
    """Redis behind a circuit breaker."""

    def __init__(self, settings: Settings, *, client_name: str, breaker: CircuitBreaker) -> None:
        self._prefix = settings.redis_key_prefix
        self._make_wire = wires_to_redis(settings, client_name)
        self._link = Link(self._make_wire)
        self._breaker = breaker
        self._fence_milliseconds = settings.database_query_timeout + FENCE_MARGIN_MILLISECONDS
        self._debts = Debts(release=self._release_keys, release_all=self._release_all, pay=self._pay)
        self._is_refusing = False

    @property
    def is_down(self) -> bool:
        """Whether Redis is bypassed at present."""
        return self._breaker.is_open

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        """Return what is stored under each key; MGET takes a key of another type for missing."""

        def read() -> list[Any]:
            return _expect_values(self._link.get_many(self._named(keys)), len(keys))

        return self._call(read)

    def lease(self, keys: Sequence[str], versions: Sequence[str], shape: bytes) -> Lease:
        """Ask to fill the keys where no value of this shape lies that is current."""
        token = new_token(LEASE_MARK)
        request = build_request(token, keys, versions, shape)
        names = self._named([*keys, *versions])
        reply = self._call(lambda: _expect_list(self._link.run(LEASE, names, request), len(names)))
        return read_lease(token, keys, versions, reply)

    def get_and_lease(
        self, keys: Sequence[str], versions: Sequence[str], shape: bytes
    ) -> tuple[list[Any], Lease]:
        """Return what lies under the keys and versions, and then a lease, in one round trip."""
        token = new_token(LEASE_MARK)
        request = build_request(token, keys, versions, shape)
        names = self._named([*keys, *versions])

        def ask() -> tuple[list[Any], list[Any]]:
            found, reply = self._link.get_and_run(names, LEASE, request)
            return _expect_values(found, len(names)), _expect_list(reply, len(names))

        found, reply = self._call(ask)
        return found, read_lease(token, keys, versions, reply)

    def fill(
        self,
        lease: Lease,
        stored: Sequence[tuple[str, int, bytes]],
        on_refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Store (key, milliseconds, value) where the lease still holds, without waiting for it.

        0 milliseconds give the lease up and store nothing. `on_refused` learns some time how many
        values came too late.
        """
        names = [key for key, _, _ in stored]
        keys = self._named([*names, *lease.version_keys])
        arguments: list[Any] = [lease.token, len(stored)]
        for _, milliseconds, value in stored:
            arguments += (milliseconds, value)
        arguments += lease.versions

        def hear(reply: Any) -> None:
            if type(reply) is int:
                on_refused(len(stored) - reply)
            else:
                # whether it was stored is not known: whoever waits for the lease must not
                self.give_up(names)

        self._call(lambda: self._link.run_later(FILL, keys, arguments, hear))

    def give_up(self, keys: Sequence[str]) -> None:
        """Drop leases that may lie there for nobody, as soon as Redis answers."""
        self._debts.owe(keys, NO_TOKEN)
        self._debts.settle_in_background()

    def fence(self, keys: Sequence[str], token: bytes, *, is_awaited: bool = False) -> Fence:
        """Let nobody fill these keys until they are deleted with the fence.

        A few keys are fenced without waiting for the answer, unless `is_awaited`: it is read when
        they are deleted. When Redis does not answer there is nothing to fence off.
        """
        arguments = [token, self._fence_milliseconds]
        try:
            if not is_awaited and len(keys) <= SCRIPT_KEYS:
                return Fence(token, self._call(lambda: self._link.send(FENCE, self._named(keys), arguments)))
            self._call(lambda: self._run(FENCE, keys, arguments))
        except CacheDown as down:
            logger.debug("no fence: redis does not answer")
            if down.reason == "down":
                self._debts.expect_late(keys, token)
        return Fence(token)

    def keep_fence(self, keys: Sequence[str], fence: Fence) -> None:
        """Drop what lies under the keys, and let nobody fill them until the fence expires."""
        arguments = [fence.token, self._fence_milliseconds]
        try:
            self._call(lambda: self._run(FENCE, keys, arguments, after=fence.sent))
        except CacheDown:
            # without the token, so that a fence that was set stays
            self.delete(keys)
        finally:
            _give_up(fence)

    def delete(self, keys: Sequence[str], fence: Fence = NO_FENCE) -> None:
        """Drop the keys, now or, when Redis does not answer, before it is read again."""
        try:
            self._call(lambda: self._run(RELEASE, keys, [fence.token], after=fence.sent))
        except CacheDown as down:
            logger.debug("invalidations wait for redis to come back")
            if fence.sent is not None and down.reason == "down":
                self._debts.expect_late(keys, fence.token)
            self._debts.owe(keys, fence.token)
            self._debts.settle_in_background()
        except BaseException:
            # interrupted: another call settles it
            self._debts.owe(keys, fence.token)
            raise
        finally:
            _give_up(fence)

    def make_feed(self, near: NearTier) -> InvalidationFeed:
        """Return the feed that keeps `near` coherent with this Redis."""
        return InvalidationFeed(self._make_wire, near, prefix=self._prefix, families=FAMILIES)

    def close(self) -> None:
        """Pay what is owed, if Redis answers, and close every connection to it."""
        self._debts.close()
        self._link.close()

    def renew(self) -> None:
        """Take new locks, in a forked child."""
        self._debts.renew()
        self._breaker.renew()

    # -- one call ---------------------------------------------------------------------

    def _call(self, command: Callable[[], T]) -> T:
        if not self._breaker.allows_call():
            raise CacheDown("down")
        return self._attempt(command)

    def _attempt(self, command: Callable[[], T]) -> T:
        try:
            # before anything is read
            self._debts.settle()
            result = command()
        except (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, *BROKEN_ANSWER) as error:
            if not self._breaker.is_open:
                logger.warning("redis is bypassed: %s", error)
            self._breaker.record_failure()
            if isinstance(error, redis.InvalidResponse):
                # the next answers may belong to other questions
                self._link.close()
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

    def _pay(self) -> None:
        """Settle past the breaker: nobody waits for this, and it is how an outage is seen to end."""
        try:
            self._attempt(lambda: None)
        except CacheDown:
            logger.debug("redis does not answer yet")

    def _release_keys(self, keys: Sequence[str], token: bytes) -> None:
        self._run(RELEASE, keys, [token])

    def _run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any], *, after: Sent | None = None
    ) -> None:
        """Run a script over many keys, a thousand at a time in one round trip."""
        names = self._named(keys)
        groups = [names[start : start + SCRIPT_KEYS] for start in range(0, len(names), SCRIPT_KEYS)]
        replies = self._link.run_each(script, groups, arguments, after=after)
        if replies != [len(group) for group in groups]:
            raise redis.InvalidResponse(f"no confirmation of {len(keys)} keys")

    def _release_all(self) -> None:
        for family in FAMILIES:
            cursor: Any = b"0"
            while True:
                match = ("MATCH", f"{self._prefix}{family}*", "COUNT", SCAN_COUNT)
                cursor, names = _expect_list(self._link.ask("SCAN", cursor, *match), 2)
                if names:
                    # not by UNLINK: the fences of other writers stay
                    self._link.run(RELEASE, names, [NO_TOKEN])
                if cursor == b"0":
                    break

    def _named(self, keys: Sequence[str]) -> list[str]:
        return [self._prefix + key for key in keys] if self._prefix else list(keys)


def _give_up(fence: Fence) -> None:
    if fence.sent is not None:
        fence.sent.give_up()


def _expect_list(reply: Any, length: int) -> list[Any]:
    if not isinstance(reply, list) or len(reply) != length:
        raise redis.InvalidResponse(f"no list of {length}")
    return reply


def _expect_values(reply: Any, length: int) -> list[Any]:
    values = _expect_list(reply, length)
    if not _STORED.issuperset(map(type, values)):
        raise redis.InvalidResponse("values of another type")
    return values


def wires_to_redis(settings: Settings, client_name: str) -> Callable[[], Wire]:
    """Return what makes connections to the configured Redis; each connects when it is first used."""
    return partial(
        Wire,
        settings.read_redis_address(),
        client_name=client_name,
        timeout_seconds=settings.redis_timeout / 1000,
    )
