"""The shared cache: the steps of a read and of an invalidation, as commands to Redis.

Owns the command or script of each step, and the check of its reply. A failure of Redis raises `CacheDown` and
no other error. Knows keys and stored bytes; only `peek` decodes a value.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis

from core.cache.codec import LEASE_MARK, Absent, new_token
from core.cache.guard import CacheDown, RedisGuard
from core.cache.kinds import Read
from core.cache.leases_and_fences import (
    FENCE,
    FENCE_MARGIN_MILLISECONDS,
    FILL,
    LEASE,
    NO_FENCE,
    NO_TOKEN,
    Fence,
    Lease,
    build_lease_request,
    parse_lease,
)
from core.cache.lsn_slots import ALL_SLOTS, format_lsn, list_slots
from core.cache.outbox import SCRIPT_KEYS, expect_list
from core.failover import KnownTimeline
from core.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The types of the items in a reply to MGET. None means that the key is missing.
_STORED = frozenset({bytes, type(None)})


class SharedCache:
    """The values of cache keys in Redis, and the leases and fences on the keys; thread safe."""

    def __init__(
        self,
        settings: Settings,
        *,
        client_name: str,
        report_outage: Callable[[bool], None],
        timeline: KnownTimeline,
        report_move: Callable[[], None],
        parent: "SharedCache | None" = None,
    ) -> None:
        """Open no connection yet. A forked child takes over the state of the `parent` cache."""
        self.guard: RedisGuard = RedisGuard(
            settings,
            client_name=client_name,
            report_outage=report_outage,
            timeline=timeline,
            report_move=report_move,
            parent=None if parent is None else parent.guard,
        )
        self._client = self.guard.client
        self._add_prefix = self.guard.scripts.add_prefix
        # the LSN of a commit is needed only if values are loaded from replicas
        self._needs_lsn = settings.database_replica_urls is not None
        # the origin (run) of the Redis server on which this process last called `_make_slots`
        self._slots_origin: bytes | None = None
        self._fence_milliseconds = settings.database_query_timeout + FENCE_MARGIN_MILLISECONDS

    @property
    def origin(self) -> bytes:
        """The origin (run) of the Redis server from which this thread read last, see `core.cache.origin`."""
        return self._client.origin

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        """Return the stored bytes of each key, or None if the key is missing or holds no string."""
        names = self._add_prefix(keys)
        return self.guard.read(lambda: _expect_values(self._client.get_many(names), len(names)))

    def peek(self, read: Read[T], key: str) -> T | Absent | None:
        """Return the current value of a key in Redis, or None. The loader is not called."""
        try:
            stored = self.get_many([key, *read.depends_on])
        except CacheDown:
            return None
        return read.cached.codec.decode_many([key], stored, self.origin)[0].get(key)

    def lease(self, keys: Sequence[str], version_keys: Sequence[str], schema: bytes) -> Lease:
        """Ask for leases on the keys that hold no current value of this schema, and return the reply."""
        return self._ask_for_leases(keys, version_keys, schema, with_values=False)[1]

    def get_and_lease(
        self, keys: Sequence[str], version_keys: Sequence[str], schema: bytes
    ) -> tuple[list[Any], Lease]:
        """Get the stored bytes of keys and version keys, and ask for leases, in one round trip."""
        return self._ask_for_leases(keys, version_keys, schema, with_values=True)

    def _ask_for_leases(
        self, keys: Sequence[str], version_keys: Sequence[str], schema: bytes, *, with_values: bool
    ) -> tuple[list[Any], Lease]:
        token = new_token(LEASE_MARK)
        # The command may reach another server, or another run of the same server. Then a lease may be granted
        # on a key that has a current value, which only costs one load.
        asked_origin = self._client.latest_origin
        names = self._add_prefix([*keys, *version_keys])
        # ask for no LSN while the origin (run) of the Redis server is unknown: an LSN slot from an earlier
        # run could not be recognized
        needs_lsn = self._needs_lsn and asked_origin
        slots = self._add_prefix(list_slots([*keys, *version_keys])) if needs_lsn else []
        request = build_lease_request(token, keys, version_keys, schema + asked_origin, slots=len(slots))
        # the reply has one LSN for all LSN slots together
        length = len(names) + bool(slots)

        def ask() -> tuple[list[Any], list[Any]]:
            if not with_values:
                return [], expect_list(self._client.run(LEASE, [*names, *slots], request), length)
            found, reply = self._client.get_and_run(names, LEASE, request, slots)
            return _expect_values(found, len(names)), expect_list(reply, length)

        try:
            found, reply = self.guard.read(ask)
        except CacheDown as down:
            if down.reason == "down":
                # Redis may have granted leases before the failure, and other readers would wait for them
                self.give_up(keys)
            raise
        lease = parse_lease(
            token, keys, version_keys, reply, origin=self._client.origin, asked_origin=asked_origin
        )
        if slots and lease.lsn is None and lease.origin == asked_origin != self._slots_origin:
            self._slots_origin = asked_origin
            self._make_slots(asked_origin)
        return found, lease

    def _make_slots(self, origin: bytes) -> None:
        """Create all missing LSN slots in one command.

        The LSN of a new slot is unknown for `UNKNOWN_MILLISECONDS`, and its keys are loaded from the primary.
        If all slots are created now, this time is the same for all. Otherwise it would begin again with the
        first use of each slot.
        """
        request = build_lease_request(new_token(LEASE_MARK), [], [], origin, slots=len(ALL_SLOTS))
        names = self._add_prefix(ALL_SLOTS)
        with contextlib.suppress(CacheDown):
            self.guard.read(lambda: expect_list(self._client.run(LEASE, names, request), 1))

    def fill(
        self,
        lease: Lease,
        values: Sequence[tuple[str, int, bytes]],
        on_refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Store values under the keys that still have the lease. Do not wait for the reply.

        `values` are tuples of key, TTL in milliseconds, and stored form. With a TTL of 0 the value is not
        stored, and its lease is given up. `on_refused` is called later, with the number of values that were
        not stored.
        """
        if not values:
            return
        keys = [key for key, _, _ in values]
        names = self._add_prefix([*keys, *lease.version_keys])
        arguments: list[Any] = [lease.token, len(values)]
        for _, milliseconds, value in values:
            arguments += (milliseconds, value)
        arguments += lease.versions

        def record_reply(reply: Any) -> None:
            if type(reply) is int:
                on_refused(len(values) - reply)
            else:
                # The values may have been stored or not. Drop the keys, because readers would wait for a
                # lease that is still there.
                self.give_up(keys)

        try:
            self.guard.read(lambda: self._client.run_later(FILL, names, arguments, record_reply))
        except CacheDown:
            self.give_up(keys)

    def give_up(self, keys: Sequence[str]) -> None:
        """Put keys whose leases will not be filled into the outbox, which drops them."""
        self.guard.invalidate_later(keys, NO_TOKEN)

    def fence(self, keys: Sequence[str], token: bytes, *, is_awaited: bool = False) -> Fence:
        """Set a fence on keys: no reader fills them until `delete` removes the fence. Return the fence.

        With `is_awaited`, or for more than `SCRIPT_KEYS` keys, the reply is read here, otherwise by `delete`.
        While Redis does not answer no fence is needed, because no reader can fill a key.
        """
        arguments = [token, self._fence_milliseconds]
        try:
            if not is_awaited and len(keys) <= SCRIPT_KEYS:
                names = self._add_prefix(keys)
                return Fence(token, self.guard.invalidate(lambda: self._client.send(FENCE, names, arguments)))
            self.guard.invalidate(lambda: self.guard.scripts.run(FENCE, keys, arguments))
        except CacheDown as down:
            logger.debug("no fence: Redis does not answer")
            if down.reason == "down":
                self.guard.record_unconfirmed_fence(keys, token)
        return Fence(token)

    def keep_fence(self, keys: Sequence[str], fence: Fence) -> None:
        """Drop the values of keys, and keep the fence on these keys until it expires."""
        arguments = [fence.token, self._fence_milliseconds]
        try:
            self.guard.invalidate(lambda: self.guard.scripts.run(FENCE, keys, arguments, after=fence.pending))
        except CacheDown:
            # pass no token to `delete`: if Redis has set the fence, the fence stays
            self.delete(keys)
        finally:
            _give_up(fence)

    def delete(self, keys: Sequence[str], fence: Fence = NO_FENCE, *, lsn: int | None = None) -> None:
        """Drop keys. If Redis does not accept this, drop them before this process reads from Redis again.

        `lsn` is the LSN of the write, or None if it is unknown. A reader that misses a key loads it from
        a server that has replayed this LSN.

        If Redis refuses the command, `delete` returns when every other process has noticed the refusal and
        stopped reading from Redis.
        """
        try:
            self.guard.invalidate(lambda: self.guard.release(keys, fence, format_lsn(lsn)))
            self.guard.wait_until_noticed()
        except CacheDown as down:
            logger.debug("invalidations wait until Redis answers")
            if fence.pending is not None and down.reason == "down":
                self.guard.record_unconfirmed_fence(keys, fence.token)
            self.guard.invalidate_later(keys, fence.token)
            self.guard.wait_until_noticed()
        except BaseException:
            # this thread was interrupted: the outbox drops the keys later
            self.guard.invalidate_later(keys, fence.token)
            raise
        finally:
            _give_up(fence)


def _give_up(fence: Fence) -> None:
    if fence.pending is not None:
        fence.pending.give_up()


def _expect_values(reply: Any, length: int) -> list[Any]:
    values = expect_list(reply, length)
    if not _STORED.issuperset(map(type, values)):
        raise redis.InvalidResponse("the reply to MGET has values of another type")
    return values
