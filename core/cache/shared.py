"""The shared tier: what the cache asks of Redis.

Owns the connections to Redis, the circuit breaker around them, and the invalidations that Redis has
not confirmed. A failure is a `CacheDown`, after at most one short timeout; nothing else leaves this
module. Nothing is read from a server that has not proved that it can invalidate. Knows keys and
bytes, no values.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import redis

from core.cache.breaker import CircuitBreaker
from core.cache.capability import SCRIPTS, CapabilityCheck, describe, is_tolerated
from core.cache.claims import NO_FENCE, NO_TOKEN, Fence, Lease, build_request, read_lease
from core.cache.codec import LEASE_MARK, new_token
from core.cache.debts import Debts, Unpaid
from core.cache.feed import PUSH_PROTOCOL, InvalidationFeed
from core.cache.keys import FAMILIES
from core.cache.link import Link, Script, Sent
from core.cache.near import NearTier
from core.cache.recovery import Recovery
from core.cache.scripts import FENCE, FILL, LEASE, RELEASE
from core.cache.wire import ConnectFailed, ErrorReply, SignInRefused, Wire
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
# How long a check that the server can invalidate is trusted, at most and never longer than an answer
# is waited for: when a writer learns that it could not invalidate, or waits for this long after it was
# refused, every other process has checked again and reads no more.
TRUST_SECONDS = 0.25
# A server near its limit refuses again and again; the log has one line for this long.
FULL_SECONDS = 60.0
# Refusals that depend on the key: other keys may be accepted.
OF_A_KEY = frozenset({"NOPERM", "MOVED", "ASK", "CROSSSLOT", "TRYAGAIN"})


class CacheDown(Exception):
    """Redis did not do what was asked; `reason` is `down` or `error`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SharedTier:
    """Redis behind a circuit breaker."""

    def __init__(self, settings: Settings, *, client_name: str, breaker: CircuitBreaker) -> None:
        self._prefix = settings.redis_key_prefix
        self._address = settings.read_redis_address()
        self._make_wire = wires_to_redis(settings, client_name)
        self._capability = CapabilityCheck(self._prefix)
        self._trust_seconds = min(TRUST_SECONDS, settings.redis_timeout / 1000)
        self._link = Link(
            self._make_wire,
            check=self._check,
            recheck=self._capability.recheck,
            trust_seconds=self._trust_seconds,
            on_error=self._note_refusal,
        )
        self._breaker = breaker
        self._fence_milliseconds = settings.database_query_timeout + FENCE_MARGIN_MILLISECONDS
        self._debts = Debts(release=self._release_keys, release_all=self._release_all)
        self._recovery = Recovery(
            self._attempt_recovery, breaker=breaker, debts=self._debts, on_recovered=self._note_recovery
        )
        # whether the log has the present outage
        self._is_logged = False
        # until when other processes may read what Redis did not let this one invalidate
        self._unnoticed_until = float("-inf")
        self._full_at = float("-inf")

    @property
    def is_down(self) -> bool:
        """Whether there is an outage of Redis."""
        return self._breaker.is_open

    @property
    def reason(self) -> str | None:
        """Why Redis is bypassed, in the words of the server or the system; None while it is not."""
        return self._breaker.reason if self._breaker.is_open else None

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
        self._recovery.start()

    def fence(self, keys: Sequence[str], token: bytes, *, is_awaited: bool = False) -> Fence:
        """Let nobody fill these keys until they are deleted with the fence.

        A few keys are fenced without waiting for the answer, unless `is_awaited`: it is read when
        they are deleted. When Redis does not answer there is nothing to fence off.
        """
        arguments = [token, self._fence_milliseconds]
        try:
            if not is_awaited and len(keys) <= SCRIPT_KEYS:
                return Fence(
                    token, self._change(lambda: self._link.send(FENCE, self._named(keys), arguments))
                )
            self._change(lambda: self._run(FENCE, keys, arguments))
        except CacheDown as down:
            logger.debug("no fence: redis does not answer")
            if down.reason == "down":
                self._debts.expect_late(keys, token)
                self._recovery.start()
        return Fence(token)

    def keep_fence(self, keys: Sequence[str], fence: Fence) -> None:
        """Drop what lies under the keys, and let nobody fill them until the fence expires."""
        arguments = [fence.token, self._fence_milliseconds]
        try:
            self._change(lambda: self._run(FENCE, keys, arguments, after=fence.sent))
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
            self._change(lambda: self._release(keys, fence))
        except CacheDown as down:
            logger.debug("invalidations wait for redis to come back")
            if fence.sent is not None and down.reason == "down":
                self._debts.expect_late(keys, fence.token)
            self._debts.owe(keys, fence.token)
            self._recovery.start()
            unnoticed_seconds = self._unnoticed_until - time.monotonic()
            if unnoticed_seconds > 0:
                self._recovery.wait(unnoticed_seconds)
        except BaseException:
            # interrupted: another call settles it
            self._debts.owe(keys, fence.token)
            raise
        finally:
            _give_up(fence)

    def make_feed(self, near: NearTier) -> InvalidationFeed:
        """Return the feed that keeps `near` coherent with this Redis."""
        return InvalidationFeed(
            self._make_wire,
            near,
            prefix=self._prefix,
            families=FAMILIES,
            capability=self._capability,
            is_possible=self._address.protocol == PUSH_PROTOCOL,
        )

    def close(self) -> None:
        """Send what is owed, if Redis answers, and close every connection to it."""
        self._recovery.close()
        self._log_outage()
        if len(self._debts):
            self._attempt_recovery()
        if len(self._debts):
            logger.warning(
                "%d keys may be stale in Redis until they expire: %s", len(self._debts), self._breaker.reason
            )
        self._link.close()

    def renew(self) -> None:
        """Take new locks, in a forked child, and go on there with what the parent's thread does."""
        self._debts.renew()
        self._breaker.reset_after_fork()
        self._recovery.renew()
        if self._debts.is_pending or not self._breaker.is_closed:
            self._recovery.start()

    # -- one call ---------------------------------------------------------------------

    def _call(self, command: Callable[[], T]) -> T:
        """Run a command that reads, or prepares or follows a read."""
        if not self._breaker.is_closed:
            raise CacheDown("down")

        def settle_and_run() -> T:
            # before anything is read
            self._debts.settle()
            return command()

        return self._attempt(settle_and_run)

    def _change(self, command: Callable[[], T]) -> T:
        """Run a command that invalidates."""
        if not self._breaker.lets_changes_through:
            raise CacheDown("down")
        return self._attempt(command)

    def _attempt(self, command: Callable[[], T], *, is_recovery: bool = False) -> T:
        try:
            return command()
        except SignInRefused as error:
            self._note_failure(error, is_recovery=is_recovery)
            raise CacheDown("error") from error
        except (ErrorReply, Unpaid) as error:
            self._note_refusal(error)
            raise CacheDown("error") from error
        except (redis.RedisError, OSError) as error:
            self._note_failure(error, is_recovery=is_recovery)
            raise CacheDown("down") from error

    def _attempt_recovery(self) -> bool:
        """Send what is owed and, unless Redis is in use, let it prove itself; return whether that worked."""
        command = self._debts.settle if self._breaker.is_closed else self._prove
        try:
            self._attempt(command, is_recovery=True)
        except CacheDown:
            return False
        finally:
            # an error of a script may not name the command that was refused; the check has done so now
            self._log_outage()
        return True

    def _prove(self) -> None:
        """Send what is owed on a new connection, whatever else is refused on it, and check it.

        A refusal of the check says more than that of one invalidation.
        """
        self._link.drop()
        try:
            self._debts.settle()
        except (ErrorReply, Unpaid):
            self._link.prove()
            raise
        self._link.prove()

    def _check(self, wire: Wire) -> Sequence[Script]:
        self._capability.check(wire)
        return SCRIPTS

    def _note_failure(self, error: Exception, *, is_recovery: bool) -> None:
        """Note that Redis did not answer, and let the background find out more."""
        reason = describe(error)
        # nobody listens, or not to this client: more attempts would tell no more
        is_certain = isinstance(error, (ConnectFailed, SignInRefused))
        if self._breaker.record_failure(reason, is_attempt=is_recovery, is_certain=is_certain):
            self._log_outage()
        # the next answers may belong to other questions
        self._link.drop()
        self._recovery.start()

    def _note_refusal(self, error: ErrorReply | Unpaid) -> None:
        """Note an error that Redis answered, to whatever."""
        cause = error.__cause__ if isinstance(error, Unpaid) else error
        if isinstance(cause, ErrorReply) and is_tolerated(cause):
            self._note_full(cause)
            return
        reason = describe(cause if isinstance(cause, Exception) else error)
        if self._breaker.record_refusal(reason):
            self._unnoticed_until = time.monotonic() + self._trust_seconds
            self._link.drop()
        self._recovery.start()

    def _note_full(self, error: ErrorReply) -> None:
        now = time.monotonic()
        if now - self._full_at > FULL_SECONDS:
            self._full_at = now
            logger.warning("Redis stores nothing: %s (%s)", error, self._address)

    def _log_outage(self) -> None:
        if self._breaker.is_open and not self._is_logged:
            self._is_logged = True
            logger.warning("Redis bypassed: %s (%s)", self._breaker.reason, self._address)

    def _note_recovery(self) -> None:
        self._is_logged = False
        logger.info("Redis is used again (%s)", self._address)

    def _release(self, keys: Sequence[str], fence: Fence) -> None:
        """Drop keys, on another connection when the first one is cut: it may have been alone."""
        try:
            self._run(RELEASE, keys, [fence.token], after=fence.sent)
        except ConnectFailed:
            raise
        except redis.ConnectionError:
            self._run(RELEASE, keys, [fence.token])
            if fence.sent is not None:
                # it may still arrive, from the connection that was cut
                self._debts.expect_late(keys, fence.token)
                self._recovery.start()

    def _release_keys(self, keys: Sequence[str], token: bytes) -> None:
        """Drop keys; raises `Unpaid` with those that are refused for themselves."""
        try:
            self._run(RELEASE, keys, [token])
        except ErrorReply as error:
            if error.code not in OF_A_KEY:
                raise
            self._release_each(keys, token)

    def _release_each(self, keys: Sequence[str], token: bytes) -> None:
        refused: list[str] = []
        refusal: ErrorReply | None = None
        for start in range(0, len(keys), SCRIPT_KEYS):
            group = keys[start : start + SCRIPT_KEYS]
            replies = self._link.try_each(RELEASE, [self._named([key]) for key in group], [token])
            errors = {key: reply for key, reply in zip(group, replies, strict=True) if reply != 1}
            for key, reply in errors.items():
                if not isinstance(reply, ErrorReply):
                    raise redis.InvalidResponse("no confirmation of a key")
                refused.append(key)
                refusal = reply
            if len(errors) == len(group) > 1:
                # the server refuses all, not these
                refused += keys[start + SCRIPT_KEYS :]
                break
        if refusal is not None:
            raise Unpaid(refused) from refusal

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
