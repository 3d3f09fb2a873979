"""The guard between the cache and Redis: what may be asked, what failed, what is still to be sent.

Owns the connections, the circuit breaker, the invalidations that Redis has not confirmed, and what the
log says of an outage. Nothing is read from a server that has not proved that it can invalidate. A
failure is a `CacheDown`, after at most one short timeout; nothing else leaves this module. Knows keys
and scripts, no values.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import redis

from core.cache.breaker import CircuitBreaker
from core.cache.capability import SCRIPTS, CapabilityCheck, describe, is_tolerated
from core.cache.claims import NO_TOKEN, Fence
from core.cache.debts import Debts, Unpaid
from core.cache.keys import FAMILIES
from core.cache.link import Link, Script, Sent
from core.cache.origin import read_origin
from core.cache.recovery import Recovery
from core.cache.scripts import RELEASE
from core.cache.wire import ConnectFailed, ErrorReply, SignInRefused, Wire
from core.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Redis answers nobody else while a script runs.
SCRIPT_KEYS = 1_000
SCAN_COUNT = 1_000
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


class RedisGuard:
    """Redis behind a circuit breaker, for one process; thread safe."""

    def __init__(self, settings: Settings, *, client_name: str, breaker: CircuitBreaker) -> None:
        self._prefix = settings.redis_key_prefix
        self._address = settings.read_redis_address()
        self._breaker = breaker
        self._capability = CapabilityCheck(self._prefix)
        self._trust_seconds = min(TRUST_SECONDS, settings.redis_timeout / 1000)
        self.link = Link(
            wires_to_redis(settings, client_name),
            check=self._check,
            recheck=self._capability.recheck,
            trust_seconds=self._trust_seconds,
            on_error=self._note_refusal,
        )
        self.debts = Debts(release=self.release_owed, release_all=self._release_all)
        self.recovery = Recovery(
            self._attempt_recovery, breaker=breaker, debts=self.debts, on_recovered=self._note_recovery
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

    def read(self, command: Callable[[], T]) -> T:
        """Run a command that reads, or prepares or follows a read."""
        if not self._breaker.is_closed:
            raise CacheDown("down")

        def settle_and_run() -> T:
            # before anything is read
            self.debts.settle()
            return command()

        return self._attempt(settle_and_run)

    def change(self, command: Callable[[], T]) -> T:
        """Run a command that invalidates."""
        if not self._breaker.lets_changes_through:
            raise CacheDown("down")
        return self._attempt(command)

    def owe(self, keys: Sequence[str], token: bytes) -> None:
        """Drop keys as soon as Redis lets this process do it."""
        self.debts.owe(keys, token)
        self.recovery.start()

    def expect_late(self, keys: Sequence[str], token: bytes) -> None:
        """Note a fence that was sent and may arrive after its release."""
        self.debts.expect_late(keys, token)
        self.recovery.start()

    def wait_until_noticed(self) -> None:
        """Wait until every other process has noticed a refusal that this one met, if it has just met one."""
        unnoticed_seconds = self._unnoticed_until - time.monotonic()
        if unnoticed_seconds > 0:
            self.recovery.wait(unnoticed_seconds)

    def run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any], *, after: Sent | None = None
    ) -> None:
        """Run a script over many keys, a thousand at a time in one round trip."""
        names = self.name(keys)
        groups = [names[start : start + SCRIPT_KEYS] for start in range(0, len(names), SCRIPT_KEYS)]
        replies = self.link.run_each(script, groups, arguments, after=after)
        if replies != [len(group) for group in groups]:
            raise redis.InvalidResponse(f"no confirmation of {len(keys)} keys")

    def release(self, keys: Sequence[str], fence: Fence) -> None:
        """Drop keys, on another connection when the first one is cut: it may have been alone."""
        try:
            self.run(RELEASE, keys, [fence.token], after=fence.sent)
        except ConnectFailed:
            raise
        except redis.ConnectionError:
            self.run(RELEASE, keys, [fence.token])
            if fence.sent is not None:
                # it may still arrive, from the connection that was cut
                self.expect_late(keys, fence.token)

    def release_owed(self, keys: Sequence[str], token: bytes) -> None:
        """Drop keys; raises `Unpaid` with those that are refused for themselves."""
        try:
            self.run(RELEASE, keys, [token])
        except ErrorReply as error:
            if error.code not in OF_A_KEY:
                raise
            self._release_each(keys, token)

    def _release_each(self, keys: Sequence[str], token: bytes) -> None:
        refused: list[str] = []
        refusal: ErrorReply | None = None
        for start in range(0, len(keys), SCRIPT_KEYS):
            group = keys[start : start + SCRIPT_KEYS]
            replies = self.link.try_each(RELEASE, [self.name([key]) for key in group], [token])
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

    def _release_all(self) -> None:
        for family in FAMILIES:
            cursor: Any = b"0"
            while True:
                match = ("MATCH", f"{self._prefix}{family}*", "COUNT", SCAN_COUNT)
                cursor, names = expect_list(self.link.ask("SCAN", cursor, *match), 2)
                if names:
                    # not by UNLINK: the fences of other writers stay
                    self.link.run(RELEASE, names, [NO_TOKEN])
                if cursor == b"0":
                    break

    def name(self, keys: Sequence[str]) -> list[str]:
        """Return the names that keys have in Redis."""
        return [self._prefix + key for key in keys] if self._prefix else list(keys)

    def close(self) -> None:
        """Send what is owed, if Redis answers, and close every connection to it."""
        self.recovery.close()
        self._log_outage()
        if len(self.debts):
            self._attempt_recovery()
        if len(self.debts):
            logger.warning(
                "%d keys may be stale in Redis until they expire: %s", len(self.debts), self._breaker.reason
            )
        self.link.close()

    def reset_after_fork(self) -> None:
        """Take new locks, in a forked child, and go on there with what the parent's thread does."""
        self.debts.renew()
        self._breaker.reset_after_fork()
        self.recovery.renew()
        if self.debts.is_pending or not self._breaker.is_closed:
            self.recovery.start()

    # -- failures and refusals ---------------------------------------------------------

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
        command = self.debts.settle if self._breaker.is_closed else self._prove
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
        self.link.drop()
        try:
            self.debts.settle()
        except (ErrorReply, Unpaid):
            self.link.prove()
            raise
        self.link.prove()

    def _check(self, wire: Wire) -> Sequence[Script]:
        self._capability.check(wire)
        wire.origin = read_origin(wire)
        return SCRIPTS

    def _note_failure(self, error: Exception, *, is_recovery: bool) -> None:
        """Note that Redis did not answer, and let the background find out more."""
        reason = describe(error)
        # nobody listens, or not to this client: more attempts would tell no more
        is_certain = isinstance(error, (ConnectFailed, SignInRefused))
        if self._breaker.record_failure(reason, is_attempt=is_recovery, is_certain=is_certain):
            self._log_outage()
        # the next answers may belong to other questions
        self.link.drop()
        self.recovery.start()

    def _note_refusal(self, error: ErrorReply | Unpaid) -> None:
        """Note an error that Redis answered, to whatever."""
        cause = error.__cause__ if isinstance(error, Unpaid) else error
        if isinstance(cause, ErrorReply) and is_tolerated(cause):
            self._note_full(cause)
            return
        reason = describe(cause if isinstance(cause, Exception) else error)
        if self._breaker.record_refusal(reason):
            self._unnoticed_until = time.monotonic() + self._trust_seconds
            self.link.drop()
        self.recovery.start()

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


def expect_list(reply: Any, length: int) -> list[Any]:
    """Return a reply that is a list of this length; raises `InvalidResponse` for any other."""
    if not isinstance(reply, list) or len(reply) != length:
        raise redis.InvalidResponse(f"no list of {length}")
    return reply


def wires_to_redis(settings: Settings, client_name: str) -> Callable[[], Wire]:
    """Return what makes connections to the configured Redis; each connects when it is first used."""
    return partial(
        Wire,
        settings.read_redis_address(),
        client_name=client_name,
        timeout_seconds=settings.redis_timeout / 1000,
    )
