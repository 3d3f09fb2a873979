"""The guard between the cache and Redis decides whether a command may be sent, and handles its failure.

Owns the client, the circuit breaker, the invalidation outbox and the log messages about an outage. Nothing is
read from a server that has not passed the capability check. A failed command raises `CacheDown`, after at
most one short timeout. Knows keys and scripts, no values.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import redis

from core.cache.breaker import CircuitBreaker, Recovery
from core.cache.capability import CapabilityCheck, describe, is_tolerated
from core.cache.client import RedisClient
from core.cache.connection import ErrorReply, HandshakeRefused, ServerUnreachable
from core.cache.epochs import Epochs
from core.cache.leases_and_fences import Fence
from core.cache.outbox import InvalidationOutbox, KeyScripts, KeysRefused
from core.cache.topology import open_topology
from core.failover import KnownTimeline
from core.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A capability check is trusted for this time, or for the timeout of a reply if that is shorter. A writer
# whose invalidation was refused waits this long: by then every other process has checked the server again
# and stopped reading from it.
TRUST_SECONDS = 0.25
# Error codes of a server that is no longer the primary; a new connection leads to the new primary.
MOVED = frozenset({"PRIMARYMOVED", "READONLY", "MOVED", "CLUSTERDOWN"})
# A server that is almost out of memory refuses many commands; this is logged at most once in this time.
FULL_SECONDS = 60.0


class CacheDown(Exception):
    """A command to Redis failed or was not sent; `reason` is `down` or `error`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RedisGuard:
    """Redis behind a circuit breaker, for one process; thread safe."""

    def __init__(
        self,
        settings: Settings,
        *,
        client_name: str,
        report_outage: Callable[[bool], None],
        timeline: KnownTimeline,
        report_move: Callable[[], None],
        parent: "RedisGuard | None" = None,
    ) -> None:
        """Open no connection yet; a forked child takes over breaker and outbox from the `parent` guard."""
        self._report_move = report_move
        self.topology = open_topology(settings, client_name)
        self._address = self.topology.address
        if parent is None:
            self.breaker = CircuitBreaker(on_change=report_outage)
            self.outbox = InvalidationOutbox()
        else:
            parent.client.close_in_child()
            parent.topology.close_in_child()
            self.breaker, self.outbox = parent.breaker, parent.outbox
            self.breaker.reset_after_fork()
            self.outbox.reset_after_fork()
        self.epochs = Epochs(
            self.topology,
            prefix=settings.redis_key_prefix,
            timeout_seconds=settings.redis_timeout / 1000,
            on_move=self._note_move,
        )
        self._trust_seconds = min(TRUST_SECONDS, settings.redis_timeout / 1000)
        self.capability = CapabilityCheck(
            settings.redis_key_prefix,
            self._address.account,
            timeline,
            epochs=self.epochs,
            trust_seconds=self._trust_seconds,
        )
        self.client: RedisClient = RedisClient(
            self.topology.make_connection,
            check=self.capability.admit,
            recheck=self.capability.recheck,
            trust_seconds=self._trust_seconds,
            checks_writes=self.topology.can_move,
            on_error=self._note_refusal,
        )
        self.scripts = KeyScripts(self.client, prefix=settings.redis_key_prefix)
        self.recovery = Recovery(
            self._attempt_recovery,
            breaker=self.breaker,
            outbox=self.outbox,
            on_recovered=self._note_recovery,
            find_wait=lambda: self.epochs.seconds_until_readable,
        )
        self._is_outage_logged = False
        # until this time other processes may still read keys whose invalidation Redis refused
        self._unnoticed_until = float("-inf")
        self._full_at = float("-inf")
        if self.outbox.is_pending or not self.breaker.is_closed:
            self.recovery.start()

    @property
    def is_down(self) -> bool:
        """Whether there is an outage of Redis."""
        return self.breaker.is_open

    @property
    def reason(self) -> str | None:
        """Why Redis is bypassed: the message of the server or the system; None while it is used."""
        return self.breaker.reason if self.breaker.is_open else None

    def find_server(self) -> str | None:
        """Return the address of the server in use, None before a primary has been found."""
        server = self.epochs.server if self.topology.can_move else self._address.path or self._address.server
        return None if server is None else str(server)

    def read(self, command: Callable[[], T]) -> T:
        """Flush the outbox, then run a command of a read, such as a look-up, lease or fill.

        Returns the result of the command; raises `CacheDown`.
        """
        if not self.breaker.is_closed:
            raise CacheDown("down")

        def flush_and_run() -> T:
            self.outbox.flush(self.scripts)
            return command()

        return self._attempt(flush_and_run)

    def invalidate(self, command: Callable[[], T]) -> T:
        """Run a command that invalidates, and return its result; raises `CacheDown`."""
        if not self.breaker.lets_invalidations_through:
            raise CacheDown("down")
        return self._attempt(command)

    def invalidate_later(self, keys: Sequence[str], token: bytes) -> None:
        """Put keys into the outbox: they are dropped as soon as Redis accepts it."""
        self.outbox.add(keys, token)
        self.recovery.start()

    def expect_late(self, keys: Sequence[str], token: bytes) -> None:
        """Note a fence whose command was sent and may reach Redis after its release."""
        self.outbox.expect_late(keys, token)
        self.recovery.start()

    def wait_until_noticed(self) -> None:
        """Wait, after a refusal or a move, until every other process has noticed it and stopped reading."""
        unnoticed_seconds = self._unnoticed_until - time.monotonic()
        if unnoticed_seconds > 0:
            self.recovery.wait(unnoticed_seconds)

    def begin_timeline(self) -> None:
        """Write a new timeline of the database to Redis before the cache is used again.

        Called after a failover of the database. Returns when the other processes have noticed the change.
        """
        self.client.doubt_checks()
        with contextlib.suppress(CacheDown):
            self.read(self.client.check)

    def release(self, keys: Sequence[str], fence: Fence, position: str) -> None:
        """Drop keys and their fence.

        If the fence's connection was closed, or its server is no longer the primary, send the command again
        on a new connection: other processes may already read from the new primary.
        """
        try:
            self.scripts.release_fence(keys, fence, position)
        except ServerUnreachable:
            raise
        except ErrorReply as error:
            if not self.topology.can_move or error.code not in MOVED:
                raise
            self.client.drop_connections()
            self.scripts.release_fence(keys, Fence(fence.token), position)
        except redis.ConnectionError:
            self.scripts.release_fence(keys, Fence(fence.token), position)
            if fence.pending is not None:
                # the fence command may still reach Redis from the closed connection
                self.expect_late(keys, fence.token)

    def close(self) -> None:
        """Flush the outbox if Redis answers, and close every connection to Redis."""
        self.recovery.close()
        self._log_outage()
        if len(self.outbox):
            self._attempt_recovery()
        if len(self.outbox):
            logger.warning(
                "%d keys may be stale in Redis until they expire: %s", len(self.outbox), self.breaker.reason
            )
        self.client.close()
        self.topology.close()

    # -- failures and refusals ---------------------------------------------------------

    def _attempt(self, command: Callable[[], T], *, is_recovery: bool = False) -> T:
        try:
            return command()
        except HandshakeRefused as error:
            self._note_failure(error, is_recovery=is_recovery)
            raise CacheDown("error") from error
        except (ErrorReply, KeysRefused) as error:
            self._note_refusal(error)
            raise CacheDown("error") from error
        except (redis.RedisError, OSError) as error:
            self._note_failure(error, is_recovery=is_recovery)
            raise CacheDown("down") from error

    def _attempt_recovery(self) -> bool:
        """Flush the outbox and, unless the breaker is closed, check the server; return whether it worked."""
        try:
            self._attempt(self._flush if self.breaker.is_closed else self._flush_and_check, is_recovery=True)
        except CacheDown:
            return False
        finally:
            # log after the check: its error names the refused command, the error of a script may not
            self._log_outage()
        return True

    def _flush(self) -> None:
        self.outbox.flush(self.scripts)

    def _flush_and_check(self) -> None:
        """Flush the outbox on a new connection, then check the server, even if the flush was refused.

        If both are refused, the error of the check is raised, because it names the refused commands.
        """
        self.client.drop_connections()
        try:
            self._flush()
        except (ErrorReply, KeysRefused):
            self.client.check()
            raise
        self.client.check()

    def _note_failure(self, error: Exception, *, is_recovery: bool) -> None:
        """Note that Redis did not answer, and let the recovery thread find out more."""
        # the server accepts no connection of this client: another attempt would fail in the same way
        no_server = isinstance(error, (ServerUnreachable, HandshakeRefused))
        if self.breaker.record_failure(describe(error), is_attempt=is_recovery, no_server=no_server):
            self._log_outage()
            if isinstance(error, HandshakeRefused):
                # other processes notice the refusal at the next check of their open connections
                self._unnoticed_until = time.monotonic() + self._trust_seconds
        # the next replies on open connections may belong to earlier commands
        self.client.drop_connections()
        self.recovery.start()

    def _note_refusal(self, error: ErrorReply | KeysRefused) -> None:
        """Open the breaker after an error reply, unless the error means only that the memory is full."""
        cause = error.__cause__ if isinstance(error, KeysRefused) else error
        if isinstance(cause, ErrorReply) and is_tolerated(cause):
            self._note_full(cause)
            return
        if self.breaker.record_refusal(describe(cause if isinstance(cause, Exception) else error)):
            self._unnoticed_until = time.monotonic() + self._trust_seconds
            self.client.drop_connections()
        self.recovery.start()

    def _note_move(self) -> None:
        """Note that this process uses another server now, while others may still read from the former one."""
        self._unnoticed_until = time.monotonic() + self._trust_seconds
        self._report_move()
        logger.warning("Redis: the primary is now %s (%s)", self.epochs.server, self._address)

    def _note_full(self, error: ErrorReply) -> None:
        now = time.monotonic()
        if now - self._full_at > FULL_SECONDS:
            self._full_at = now
            logger.warning("Redis stores nothing: %s (%s)", error, self._address)

    def _log_outage(self) -> None:
        if self.breaker.is_open and not self._is_outage_logged:
            self._is_outage_logged = True
            logger.warning("Redis bypassed: %s (%s)", self.breaker.reason, self._address)

    def _note_recovery(self) -> None:
        self._is_outage_logged = False
        logger.info("Redis is used again (%s)", self._address)
