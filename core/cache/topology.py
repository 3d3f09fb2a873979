"""The topology of Redis: finds the server to which a connection is opened.

This is the server of REDIS_URL, the primary that the sentinels name, or the cluster node that has the slot of
REDIS_KEY_PREFIX. Owns the look-up of the server at each connect, and the thread that asks the sentinels
between connects. `core.cache.capability` and `core.cache.epochs` check the server before it is read. Messages
contain no password.

Sources: Redis documentation, "Guidelines for Redis clients with support for Redis Sentinel"; Redis cluster
specification, "Redirection and resharding".
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Final, Literal

import redis

from core.cache.connection import (
    MIN_SECONDS,
    ErrorReply,
    HandshakeRefused,
    RedisConnection,
    ServerUnreachable,
    encode_command,
)
from core.settings import Settings
from core.settings.redis_url import HostPort, RedisAddress, find_hash_tag

logger = logging.getLogger(__name__)

# Pause between two questions to the sentinels. Within this time a process learns that another server is the
# primary, even if the former primary still answers.
POLL_SECONDS = 0.2
# Maximum timeout of the thread that asks the sentinels.
POLL_TIMEOUT_SECONDS = 0.5
# Maximum age of a sentinel's reply. A process that was suspended for longer asks a sentinel again before it
# uses the primary.
LATE_SECONDS = 1.0
# Maximum number of redirections. One usually leads to the right node. Two are needed while a cluster slot is
# being moved.
MAX_REDIRECTIONS = 5
# How long `close` waits for the thread.
STOP_SECONDS = 2.0
CLUSTER_MODE: Final = b"cluster"
PRIMARY_ROLE: Final = b"master"
PRIMARY_MOVED: Final = "PRIMARYMOVED another server is the primary now"

TopologyName = Literal["single", "sentinel", "cluster"]


class Topology:
    """The topology of one server whose address never changes; thread safe."""

    name: TopologyName = "single"
    # whether another server may become the primary
    can_move = False
    # whether the look-up of the primary may name a former primary for a while after a failover
    is_late = False

    def __init__(self, settings: Settings, client_name: str) -> None:
        self.address = settings.read_redis_address()
        self._client_name = client_name
        self._timeout_seconds = settings.redis_timeout / 1000

    def make_connection(self) -> RedisConnection:
        """Return a connection to the primary. Its first command opens it."""
        return self._connect(self.address)

    def make_connection_to(self, server: HostPort, *, timeout_seconds: float) -> RedisConnection:
        """Return a connection to this server, which may have any role."""
        return self._connect(self.address.at(server), timeout_seconds=timeout_seconds)

    def _connect(self, address: RedisAddress, *, timeout_seconds: float | None = None) -> RedisConnection:
        return RedisConnection(
            address, client_name=self._client_name, timeout_seconds=timeout_seconds or self._timeout_seconds
        )

    def has_epochs(self, connection: RedisConnection) -> bool:  # noqa: ARG002  # other topologies need it
        """Return whether another server may replace the connection's server as the primary."""
        return False

    def confirm(self, connection: RedisConnection) -> None:
        """Raise `ErrorReply` if another server is known to be the primary."""

    def avoid(self) -> None:
        """Record that the last look-up did not lead to the primary."""

    def close(self) -> None:
        """Stop the background thread, if there is one."""

    def close_in_child(self) -> None:
        """Close the sockets that a forked child has from its parent."""


class FoundConnection(RedisConnection):
    """A connection that looks up its server each time it is opened."""

    def __init__(self, topology: "MovingTopology", *, client_name: str, timeout_seconds: float) -> None:
        super().__init__(topology.address, client_name=client_name, timeout_seconds=timeout_seconds)
        self._topology = topology

    def connect_before(self, deadline: float) -> None:
        """Find the server and connect to it."""
        self._topology.open(self, deadline)

    def connect_to(self, address: RedisAddress, deadline: float) -> None:
        """Connect to this address, which the topology has found."""
        self.close()
        self.address = address
        super().connect_before(deadline)


class MovingTopology(Topology, ABC):
    """Several servers, of which one at a time is the primary; thread safe."""

    can_move = True

    def make_connection(self) -> RedisConnection:
        """Return a connection to the primary. Its first command finds the primary and opens it."""
        return FoundConnection(self, client_name=self._client_name, timeout_seconds=self._timeout_seconds)

    @abstractmethod
    def open(self, connection: FoundConnection, deadline: float) -> None:
        """Find the server of a connection and connect to it."""


class SentinelTopology(MovingTopology):
    """The primary that the sentinels name. They are asked at each connect, and by a thread in between."""

    name: TopologyName = "sentinel"
    is_late = True

    def __init__(self, settings: Settings, client_name: str) -> None:
        super().__init__(settings, client_name)
        password = settings.redis_sentinel_password
        self._sentinel_address = replace(
            self.address,
            database=0,
            username=settings.redis_sentinel_username,
            password=password.get_secret_value() if password else None,
        )
        # the sentinel that named the current primary comes first
        self._sentinels = deque(self.address.hosts)
        self._lock = threading.Lock()
        self._primary: HostPort | None = None
        self._primary_number = 0
        self._polling = threading.Lock()
        self._polled_at = float("-inf")
        self._kept: RedisConnection | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def has_epochs(self, connection: RedisConnection) -> bool:  # noqa: ARG002  # `SlotTopology` needs it
        """Return True, because any replica may become the primary."""
        return True

    def open(self, connection: FoundConnection, deadline: float) -> None:
        """Connect to the first server that a sentinel names and that has the role of a primary."""
        failure: Exception = ServerUnreachable("no server")
        for sentinel, primary in self._list_primaries(deadline):
            try:
                connection.connect_to(self.address.at(primary), deadline)
                if connection.role != PRIMARY_ROLE:
                    raise HandshakeRefused("READONLY the sentinels name a replica: a failover is under way")
            except (redis.RedisError, OSError) as error:
                connection.close()
                failure = error
            else:
                self._record_primary(sentinel, primary)
                return
        raise failure

    def _list_primaries(self, deadline: float) -> Iterator[tuple[HostPort, HostPort]]:
        """Yield pairs of a sentinel and the server that it names as the primary. Each server comes once.

        If no sentinel answers, yield the last known primary. If there is none, raise `redis.RedisError`.
        """
        failure: Exception | None = None
        named: set[HostPort] = set()
        sentinels = tuple(self._sentinels)
        for asked, sentinel in enumerate(sentinels):
            # a sentinel gets a share of the time: if it hangs, time is left for the other ones and for the
            # primary
            share = (deadline - time.monotonic()) / (len(sentinels) - asked + 1)
            try:
                with closing(self._connect_to_sentinel(sentinel, share)) as connection:
                    primary = self._ask(connection)
            except (redis.RedisError, OSError) as error:
                # keep the error reply of a sentinel: it says more than the error of a sentinel that is down
                failure = failure if isinstance(failure, ErrorReply) else error
                continue
            if primary not in named:
                named.add(primary)
                yield sentinel, primary
        if named:
            return
        if isinstance(failure, ErrorReply):
            raise HandshakeRefused(str(failure)) from failure
        if self._primary is not None:
            # use the last known primary: no failover can begin while all sentinels are down
            yield sentinels[0], self._primary
            return
        raise ServerUnreachable(f"no sentinel answers: {failure}") from failure

    def _connect_to_sentinel(self, sentinel: HostPort, timeout_seconds: float) -> RedisConnection:
        address = self._sentinel_address.at(sentinel)
        return self._connect(address, timeout_seconds=max(MIN_SECONDS, timeout_seconds))

    def _ask(self, sentinel: RedisConnection) -> HostPort:
        service = self.address.service
        try:
            answer = sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        except ErrorReply as error:
            raise ErrorReply(
                f"a sentinel refuses: {error}; REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD sign in"
                " to it"
            ) from error
        if not isinstance(answer, list):
            raise ErrorReply(
                f"the sentinels know no service {service!r}: REDIS_URL has to name it as /SERVICE/DATABASE"
            )
        host, port = answer
        return HostPort(host.decode(), int(port))

    def _record_primary(self, sentinel: HostPort, primary: HostPort) -> None:
        with self._lock:
            self._primary = primary
            self._primary_number += 1
            self._polled_at = time.monotonic()
            while self._sentinels[0] != sentinel:
                self._sentinels.rotate(-1)

    def avoid(self) -> None:
        """Ask another sentinel first, because the current one named a server that is not the primary."""
        with self._lock:
            self._sentinels.rotate(-1)

    def confirm(self, connection: RedisConnection) -> None:
        """Raise `ErrorReply` if the sentinels named another server than that of the connection."""
        if self._thread is None:
            self._start_watch()
        if time.monotonic() - self._polled_at > LATE_SECONDS:
            self._poll()
        server = connection.address.server
        if self._primary is not None and server != self._primary:
            raise ErrorReply(PRIMARY_MOVED)

    def _start_watch(self) -> None:
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._watch, name="sentinel-watch", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            self._poll()

    def _poll(self) -> None:
        """Ask a sentinel for the primary. Without an answer, keep the last known primary."""
        with self._polling:
            number = self._primary_number
            try:
                primary = self._ask(self._keep_connection())
            except (redis.RedisError, OSError) as error:
                logger.debug("a sentinel does not answer: %s", error)
                self._drop_kept()
                with self._lock:
                    self._sentinels.rotate(-1)
                primary = None
            with self._lock:
                self._polled_at = time.monotonic()
                if primary is not None and number == self._primary_number:
                    self._primary = primary

    def _keep_connection(self) -> RedisConnection:
        sentinel = self._sentinels[0]
        kept = self._kept
        if kept is None or kept.address.server != sentinel:
            self._drop_kept()
            timeout_seconds = min(self._timeout_seconds, POLL_TIMEOUT_SECONDS)
            self._kept = kept = self._connect_to_sentinel(sentinel, timeout_seconds)
        return kept

    def _drop_kept(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def close(self) -> None:
        """End the thread and close its connection."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        self._drop_kept()

    def close_in_child(self) -> None:
        """Close the sentinel connection that a forked child has from its parent. The parent's stays open."""
        self._drop_kept()


class SlotTopology(MovingTopology):
    """The server of REDIS_URL or, in a cluster, the node with the cluster slot of REDIS_KEY_PREFIX."""

    name: TopologyName = "cluster"

    def __init__(self, settings: Settings, client_name: str) -> None:
        super().__init__(settings, client_name)
        # a command for a key that does not exist: a node that does not have the cluster slot replies MOVED
        self._probe = encode_command("PTTL", f"{settings.redis_key_prefix}capability-check:slot")
        self._node: RedisAddress | None = None

    def has_epochs(self, connection: RedisConnection) -> bool:
        """Return whether the connection's server is a node of a cluster."""
        return connection.mode == CLUSTER_MODE

    def open(self, connection: FoundConnection, deadline: float) -> None:
        """Connect to the last known node or to a node of REDIS_URL. Follow MOVED from there."""
        hosts = self.address.hosts
        listed = [self.address] if self.address.path else [self.address.at(host) for host in hosts]
        starts = list(dict.fromkeys([self._node or listed[0], *listed]))
        failure: Exception = ServerUnreachable("no server")
        for tried, start in enumerate(starts):
            # a node gets a share of the time: if it hangs, time is left for the other ones
            share = (deadline - time.monotonic()) / (len(starts) - tried)
            until = time.monotonic() + max(MIN_SECONDS, share)
            try:
                connection.connect_to(start, until)
                self._follow(connection, until)
            except (redis.RedisError, OSError) as error:
                connection.close()
                failure = error
            else:
                self._node = connection.address
                return
        raise failure

    def _follow(self, connection: FoundConnection, deadline: float) -> None:
        """Follow MOVED replies to the node that has the cluster slot.

        Ignores any other error reply: the capability check, which comes next, finds its cause.
        """
        if connection.mode != CLUSTER_MODE:
            return
        for _ in range(MAX_REDIRECTIONS):
            [reply] = connection.exchange([self._probe])
            if not isinstance(reply, ErrorReply) or reply.code != "MOVED":
                return
            connection.connect_to(self.address.at(_parse_moved(reply, connection.address)), deadline)
        raise ServerUnreachable("the nodes of the cluster do not agree on the node of the slot")

    def avoid(self) -> None:
        """Forget the last known node, so that the next connect begins with REDIS_URL."""
        self._node = None


def _parse_moved(reply: ErrorReply, asked: RedisAddress) -> HostPort:
    """Return the server in `MOVED SLOT HOST:PORT`. An empty HOST means the host of the asked node."""
    host, _, port = str(reply).split()[-1].rpartition(":")
    return HostPort(host.strip("[]") or asked.host, int(port))


def open_topology(settings: Settings, client_name: str) -> Topology:
    """Return the topology that the settings describe. No connection is opened yet."""
    address = settings.read_redis_address()
    if address.service:
        return SentinelTopology(settings, client_name)
    if find_hash_tag(settings.redis_key_prefix):
        return SlotTopology(settings, client_name)
    return Topology(settings, client_name)


def make_connection_factory(settings: Settings, client_name: str) -> Callable[[], RedisConnection]:
    """Return a function that makes connections to the Redis of the settings.

    The first command on a connection opens it.
    """
    return open_topology(settings, client_name).make_connection
