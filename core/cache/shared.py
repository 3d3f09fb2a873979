"""The shared tier: what the cache asks of Redis.

Owns the commands and scripts behind each step of a read or a change, and what counts as their answer.
A failure is a `CacheDown`; nothing else leaves this module. Knows keys and bytes, no values.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import redis

from core.cache.breaker import CircuitBreaker
from core.cache.capability import CapabilityCheck
from core.cache.claims import NO_FENCE, NO_TOKEN, Fence, Lease, build_request, read_lease
from core.cache.codec import LEASE_MARK, new_token
from core.cache.feed import PUSH_PROTOCOL, InvalidationFeed
from core.cache.guard import SCRIPT_KEYS, CacheDown, RedisGuard, expect_list, wires_to_redis
from core.cache.keys import FAMILIES
from core.cache.near import NearTier
from core.cache.scripts import FENCE, FILL, LEASE
from core.settings import Settings

logger = logging.getLogger(__name__)

# A fence outlives the COMMIT, which may take as long as any statement; a writer that dies costs
# its keys this long.
FENCE_MARGIN_MILLISECONDS = 5_000
# What may lie under a key that holds a string.
_STORED = frozenset({bytes, type(None)})


class SharedTier:
    """The values and claims in Redis."""

    def __init__(self, settings: Settings, *, client_name: str, breaker: CircuitBreaker) -> None:
        self._settings = settings
        self._client_name = client_name
        self._guard = RedisGuard(settings, client_name=client_name, breaker=breaker)
        self._link = self._guard.link
        self._fence_milliseconds = settings.database_query_timeout + FENCE_MARGIN_MILLISECONDS

    @property
    def is_down(self) -> bool:
        """Whether there is an outage of Redis."""
        return self._guard.is_down

    @property
    def reason(self) -> str | None:
        """Why Redis is bypassed, in the words of the server or the system; None while it is not."""
        return self._guard.reason

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        """Return what is stored under each key; MGET takes a key of another type for missing."""

        def read() -> list[Any]:
            return _expect_values(self._link.get_many(self._guard.name(keys)), len(keys))

        return self._guard.read(read)

    @property
    def origin(self) -> bytes:
        """The origin of what this thread has read last, see `core.cache.origin`."""
        return self._link.origin

    def lease(self, keys: Sequence[str], versions: Sequence[str], shape: bytes) -> Lease:
        """Ask to fill the keys where no value of this shape lies that is current."""
        token = new_token(LEASE_MARK)
        request = self._build_request(token, keys, versions, shape)
        names = self._guard.name([*keys, *versions])
        reply = self._guard.read(lambda: expect_list(self._link.run(LEASE, names, request), len(names)))
        return read_lease(token, keys, versions, reply, origin=self._link.origin)

    def get_and_lease(
        self, keys: Sequence[str], versions: Sequence[str], shape: bytes
    ) -> tuple[list[Any], Lease]:
        """Return what lies under the keys and versions, and then a lease, in one round trip."""
        token = new_token(LEASE_MARK)
        request = self._build_request(token, keys, versions, shape)
        names = self._guard.name([*keys, *versions])

        def ask() -> tuple[list[Any], list[Any]]:
            found, reply = self._link.get_and_run(names, LEASE, request)
            return _expect_values(found, len(names)), expect_list(reply, len(names))

        found, reply = self._guard.read(ask)
        return found, read_lease(token, keys, versions, reply, origin=self._link.origin)

    def _build_request(
        self, token: bytes, keys: Sequence[str], versions: Sequence[str], shape: bytes
    ) -> list[Any]:
        # a connection to another server, which is about to be made, grants a lease too many at worst
        return build_request(token, keys, versions, shape + self._link.latest_origin)

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
        keys = self._guard.name([*names, *lease.version_keys])
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

        self._guard.read(lambda: self._link.run_later(FILL, keys, arguments, hear))

    def give_up(self, keys: Sequence[str]) -> None:
        """Drop leases that may lie there for nobody, as soon as Redis answers."""
        self._guard.owe(keys, NO_TOKEN)

    def fence(self, keys: Sequence[str], token: bytes, *, is_awaited: bool = False) -> Fence:
        """Let nobody fill these keys until they are deleted with the fence.

        A few keys are fenced without waiting for the answer, unless `is_awaited`: it is read when
        they are deleted. When Redis does not answer there is nothing to fence off.
        """
        arguments = [token, self._fence_milliseconds]
        try:
            if not is_awaited and len(keys) <= SCRIPT_KEYS:
                return Fence(
                    token,
                    self._guard.change(lambda: self._link.send(FENCE, self._guard.name(keys), arguments)),
                )
            self._guard.change(lambda: self._guard.run(FENCE, keys, arguments))
        except CacheDown as down:
            logger.debug("no fence: redis does not answer")
            if down.reason == "down":
                self._guard.expect_late(keys, token)
        return Fence(token)

    def keep_fence(self, keys: Sequence[str], fence: Fence) -> None:
        """Drop what lies under the keys, and let nobody fill them until the fence expires."""
        arguments = [fence.token, self._fence_milliseconds]
        try:
            self._guard.change(lambda: self._guard.run(FENCE, keys, arguments, after=fence.sent))
        except CacheDown:
            # without the token, so that a fence that was set stays
            self.delete(keys)
        finally:
            _give_up(fence)

    def delete(self, keys: Sequence[str], fence: Fence = NO_FENCE) -> None:
        """Drop the keys, now or, when Redis does not do it, before it is read again.

        When Redis refuses, this returns once every other process has noticed the same refusal and
        reads from it no more.
        """
        try:
            self._guard.change(lambda: self._guard.release(keys, fence))
        except CacheDown as down:
            logger.debug("invalidations wait for redis to come back")
            if fence.sent is not None and down.reason == "down":
                self._guard.expect_late(keys, fence.token)
            self._guard.owe(keys, fence.token)
            self._guard.wait_until_noticed()
        except BaseException:
            # interrupted: another call settles it
            self._guard.owe(keys, fence.token)
            raise
        finally:
            _give_up(fence)

    def make_feed(self, near: NearTier) -> InvalidationFeed:
        """Return the feed that keeps `near` coherent with this Redis."""
        prefix = self._settings.redis_key_prefix
        return InvalidationFeed(
            wires_to_redis(self._settings, self._client_name),
            near,
            prefix=prefix,
            families=FAMILIES,
            capability=CapabilityCheck(prefix),
            is_possible=self._settings.read_redis_address().protocol == PUSH_PROTOCOL,
        )

    def close(self) -> None:
        """Send what is owed, if Redis answers, and close every connection to it."""
        self._guard.close()

    def renew(self) -> None:
        """Take new locks, in a forked child."""
        self._guard.reset_after_fork()


def _give_up(fence: Fence) -> None:
    if fence.sent is not None:
        fence.sent.give_up()


def _expect_values(reply: Any, length: int) -> list[Any]:
    values = expect_list(reply, length)
    if not _STORED.issuperset(map(type, values)):
        raise redis.InvalidResponse("values of another type")
    return values
