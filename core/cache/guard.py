"""The guard in front of Redis. It decides whether a command is sent, and handles the failure of a command.

Owns the client, the circuit breaker, the invalidation outbox and the log messages about an outage. Values are
read only from a server that has passed the capability check. A failed command raises `CacheDown`, after at
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

# A capability check is valid for at most this time. A writer whose invalidation was refused waits this long,
# whatever its own REDIS_TIMEOUT is, because other processes may have a longer REDIS_TIMEOUT. By then every
# other process has checked the server again and stopped reading from it.
TRUST_SECONDS = 0.25
# Error codes of a server that is not the primary any more. In a topology whose primary can change, the
# invalidation is then sent again on a new connection, which leads to the new primary.
FORMER_PRIMARY_CODES = frozenset({"PRIMARYMOVED", "READONLY", "MOVED", "CLUSTERDOWN"})
# Minimum time between two log messages about a server whose memory is full. Such a server refuses many
# commands.
FULL_SECONDS = 60.0


class CacheDown(Exception):
    """A command failed or was not sent. `reason` is `error` if Redis refused the command, else `down`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RedisGuard:
    """Sends commands to Redis through a circuit breaker; thread safe."""

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
        """Open no connection yet. A forked child takes the breaker and the outbox of the `parent` guard."""
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
            on_move=self._record_move,
        )
        self.capability = CapabilityCheck(
            settings.redis_key_prefix,
            self._address.account,
            timeline,
            epochs=self.epochs,
            trust_seconds=TRUST_SECONDS,
        )
        self.client: RedisClient = RedisClient(
            self.topology.make_connection,
            check=self.capability.admit,
            recheck=self.capability.recheck,
            # a check is valid for at most REDIS_TIMEOUT, so that reads notice a refusal within this time
            trust_seconds=min(TRUST_SECONDS, settings.redis_timeout / 1000),
            checks_writes=self.topology.can_move,
            on_error=self._record_refusal,
        )
        self.scripts = KeyScripts(self.client, prefix=settings.redis_key_prefix)
        self.recovery = Recovery(
            self._attempt_recovery,
            breaker=self.breaker,
            outbox=self.outbox,
            on_recovered=self._record_recovery,
            find_wait=lambda: self.epochs.seconds_until_readable,
        )
        self._is_outage_logged = False
        # until this time other processes may still read old values, because an invalidation was refused or
        # because this process has moved to a new primary
        self._unnoticed_until = float("-inf")
        self._full_at = float("-inf")
        if self.outbox.is_pending or not self.breaker.is_closed:
            self.recovery.start()

    @property
    def reason(self) -> str | None:
        """Why Redis is not used: a message of the server or the system. None while Redis is used."""
        return self.breaker.reason if self.breaker.is_open else None

    def find_server(self) -> str | None:
        """Return the address of the server in use, or None if no primary has been found yet."""
        server = self.epochs.server if self.topology.can_move else self._address.path or self._address.server
        return None if server is None else str(server)

    def read(self, command: Callable[[], T]) -> T:
        """Send the waiting invalidations, then run a command of a read: a look-up, a lease or a fill.

        Returns the result of the command. Raises `CacheDown`.
        """
        if not self.breaker.is_closed:
            raise CacheDown("down")

        def flush_and_run() -> T:
            self.outbox.flush(self.scripts)
            return command()

        return self._attempt(flush_and_run)

    def invalidate(self, command: Callable[[], T]) -> T:
        """Run a command of an invalidation and return its result. Raises `CacheDown`."""
        if not self.breaker.allows_invalidations:
            raise CacheDown("down")
        return self._attempt(command)

    def invalidate_later(self, keys: Sequence[str], token: bytes) -> None:
        """Put keys into the outbox, which drops them when Redis accepts invalidations."""
        self.outbox.add(keys, token)
        self.recovery.start()

    def record_unconfirmed_fence(self, keys: Sequence[str], token: bytes) -> None:
        """Record a fence whose command was sent but not confirmed: it may reach Redis after its release."""
        self.outbox.record_unconfirmed_fence(keys, token)
        self.recovery.start()

    def wait_until_noticed(self) -> None:
        """Wait until every other process has noticed the last refusal or the last change of the primary."""
        unnoticed_seconds = self._unnoticed_until - time.monotonic()
        if unnoticed_seconds > 0:
            self.recovery.wait(unnoticed_seconds)

    def begin_timeline(self) -> None:
        """Record a new timeline of the database in Redis, before values are read from Redis again.

        Called after the first connection to the database and after each failover. Returns when the other
        processes have noticed the change, or if Redis fails.
        """
        self.client.invalidate_checks()
        with contextlib.suppress(CacheDown):
            self.read(self.client.check)

    def release(self, keys: Sequence[str], fence: Fence, lsn: str) -> None:
        """Drop the values of keys, and the fence that a write has set on them before its COMMIT.

        The command is sent on the connection on which the fence was sent. If this connection was closed, or
        if its server is not the primary any more, the command is sent again on a new connection: other
        processes may already read from the new primary.
        """
        try:
            self.scripts.release_fence(keys, fence, lsn)
        except ServerUnreachable:
            raise
        except ErrorReply as error:
            if not self.topology.can_move or error.code not in FORMER_PRIMARY_CODES:
                raise
            self.client.drop_connections()
            self.scripts.release_fence(keys, Fence(fence.token), lsn)
        except redis.ConnectionError:
            self.scripts.release_fence(keys, Fence(fence.token), lsn)
            if fence.pending is not None:
                # the command that sets the fence may still reach Redis: it was sent on the closed connection
                self.record_unconfirmed_fence(keys, fence.token)

    def close(self) -> None:
        """Send the waiting invalidations if Redis answers, and close every connection to Redis."""
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
            self._record_failure(error, is_recovery=is_recovery)
            raise CacheDown("error") from error
        except (ErrorReply, KeysRefused) as error:
            self._record_refusal(error)
            raise CacheDown("error") from error
        except (redis.RedisError, OSError) as error:
            self._record_failure(error, is_recovery=is_recovery)
            raise CacheDown("down") from error

    def _attempt_recovery(self) -> bool:
        """Send the waiting invalidations. If the breaker is not closed, also run the capability check.

        Returns whether Redis accepted all of this.
        """
        try:
            self._attempt(self._flush if self.breaker.is_closed else self._flush_and_check, is_recovery=True)
        except CacheDown:
            return False
        finally:
            # log after the capability check, because its error says which command was refused
            self._log_outage()
        return True

    def _flush(self) -> None:
        self.outbox.flush(self.scripts)

    def _flush_and_check(self) -> None:
        """Send the waiting invalidations on a new connection, then run the capability check.

        The check runs even if the server refused the invalidations. If it fails too, its error is raised,
        because this error names the refused commands.
        """
        self.client.drop_connections()
        try:
            self._flush()
        except (ErrorReply, KeysRefused):
            self.client.check()
            raise
        self.client.check()

    def _record_failure(self, error: Exception, *, is_recovery: bool) -> None:
        """Record that Redis did not answer, and start the recovery thread."""
        # these errors mean that the server accepts no connection: a second attempt would fail in the same way
        no_server = isinstance(error, (ServerUnreachable, HandshakeRefused))
        if self.breaker.record_failure(describe(error), is_attempt=is_recovery, no_server=no_server):
            self._log_outage()
            if isinstance(error, HandshakeRefused):
                # other processes notice the refusal at the next check of their open connections
                self._unnoticed_until = time.monotonic() + TRUST_SECONDS
        # on an open connection, the next reply may belong to an earlier command
        self.client.drop_connections()
        self.recovery.start()

    def _record_refusal(self, error: ErrorReply | KeysRefused) -> None:
        """Open the breaker after an error reply. If only the memory of the server is full, just log this."""
        cause = error.__cause__ if isinstance(error, KeysRefused) else error
        if isinstance(cause, ErrorReply) and is_tolerated(cause):
            self._record_full(cause)
            return
        if self.breaker.record_refusal(describe(cause if isinstance(cause, Exception) else error)):
            self._unnoticed_until = time.monotonic() + TRUST_SECONDS
            self.client.drop_connections()
        self.recovery.start()

    def _record_move(self) -> None:
        """Record that this process uses a new primary, but other processes may still read the former one."""
        self._unnoticed_until = time.monotonic() + TRUST_SECONDS
        self._report_move()
        logger.warning("Redis: the primary is now %s (%s)", self.epochs.server, self._address)

    def _record_full(self, error: ErrorReply) -> None:
        now = time.monotonic()
        if now - self._full_at > FULL_SECONDS:
            self._full_at = now
            logger.warning("Redis stores nothing: %s (%s)", error, self._address)

    def _log_outage(self) -> None:
        if self.breaker.is_open and not self._is_outage_logged:
            self._is_outage_logged = True
            logger.warning("Redis bypassed: %s (%s)", self.breaker.reason, self._address)

    def _record_recovery(self) -> None:
        self._is_outage_logged = False
        logger.info("Redis is used again (%s)", self._address)
