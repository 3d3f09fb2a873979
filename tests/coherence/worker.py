"""One process of a fleet: opens a service and runs the commands that the test sends over a pipe.

Owns the commands, the record of reads and writes, and the latches. A latch holds an operation at a named
point: "fetched" (from Redis), "loaded" (from PostgreSQL), "fenced" or "committed".
"""

import random
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg2
from pydantic import SecretStr

from core import Settings, open_service
from core.cache.connection import RedisConnection
from core.cache.guard import CacheDown
from core.cache.topology import make_connection_factory
from core.errors import DatabaseUnavailable, EchoMarketsError
from tests.coherence.history import Event, Flushed, Outcome, Read, Tier, Write
from tests.coherence.load import Counts, Ledger, Load, Team
from tests.coherence.mutants import MUTANTS, REPLICA_MUTANTS
from tests.coherence.registers import DAY, Game, list_registers, read_registers, write_register
from tests.replicas import ON_REPLICA, count_reads

LATCH_SECONDS = 20.0
# In a soak a thread pauses at a quarter of these points, as if the scheduler had suspended it. This makes
# interleavings frequent that are rare on an idle machine.
PAUSE_SHARE = 0.25
PAUSE_SECONDS = 0.02


class _ReadTiers(threading.local):
    """Whether this thread's read had a near cache hit, and whether it reached the shared cache."""

    is_near = False
    is_asked = False


class Undo(Exception):
    """Raised to roll a transaction back."""


class Worker:
    """The service of one process, and the record of its reads and writes."""

    def __init__(self, number: int, settings: Settings, mutant: str | None) -> None:
        self._number = number
        self._settings = settings
        self._service = open_service(settings)
        self._events: list[Event] = []
        self._armed: dict[str, tuple[threading.Event, threading.Event]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._local = _ReadTiers()
        self.loads: list[str] = []
        self._heard: set[str] = set()
        self._loses_next = False
        self._is_paused_at_random = False
        if mutant is not None:
            (MUTANTS | REPLICA_MUTANTS)[mutant](self._service)
        self._observe()

    # -- hooks ------------------------------------------------------------------------

    def _observe(self) -> None:
        """Record the tier of each read, the loaded keys and the outbox flushes, and install the latches."""
        cache: Any = self._service._cache
        invalidate = cache._near.invalidate
        get, read, load = cache._near.get, cache._reader.read, cache._reader._load
        shared: Any = cache._shared
        flush, fence = shared.guard.outbox.flush, cache.fence

        def invalidate_and_record(names: Any) -> None:
            invalidate(names)
            self._heard.update(names)

        def near_get(key: str) -> Any:
            value = get(key)
            self._local.is_near = self._local.is_near or value is not None
            return value

        def shared_read(*arguments: Any) -> Any:
            self._local.is_asked = True
            return read(*arguments)

        def load_and_wait(what: Any, keys: Sequence[str], *lsn: int | None) -> Any:
            found = load(what, keys, *lsn)
            self.loads += keys
            self._pass("loaded")
            return found

        def waiting(fetch: Callable[..., Any]) -> Callable[..., Any]:
            def fetch_and_wait(*arguments: Any) -> Any:
                found = fetch(*arguments)
                self._pass("fetched")
                return found

            return fetch_and_wait

        def flush_and_record(scripts: Any) -> None:
            waiting = len(shared.guard.outbox)
            flush(scripts)
            if waiting and not len(shared.guard.outbox):
                self._events.append(Flushed(self._number, time.monotonic()))

        def fence_and_wait(*arguments: Any, **options: Any) -> Any:
            held = fence(*arguments, **options)
            self._pass("fenced")
            return held

        cache._near.invalidate = invalidate_and_record
        cache._near.get, cache._reader.read, cache._reader._load = near_get, shared_read, load_and_wait
        shared.get_many, shared.get_and_lease = waiting(shared.get_many), waiting(shared.get_and_lease)
        shared.guard.outbox.flush, cache.fence = flush_and_record, fence_and_wait
        self._latch_commit()

    def _latch_commit(self) -> None:
        service: Any = self._service
        database = service._database
        commit, write_one = database.commit, service._write_one

        def commit_and_wait() -> None:
            commit()
            self._pass_commit()

        def write_and_wait(keys: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            def query_and_wait(database: Any, *arguments: Any, **options: Any) -> Any:
                result = query(database, *arguments, **options)
                if not database.in_transaction():
                    # outside a transaction, the statement itself was the commit
                    self._pass_commit()
                return result

            return write_one(keys, query_and_wait, *arguments, **options)

        database.commit, service._write_one = commit_and_wait, write_and_wait

    def _pass_commit(self) -> None:
        self._pass("committed")
        if self._loses_next:
            self._loses_next = False
            raise psycopg2.OperationalError("the reply was lost")

    def _pass(self, point: str) -> None:
        if self._is_paused_at_random and random.random() < PAUSE_SHARE:
            time.sleep(random.uniform(0, PAUSE_SECONDS))
        latch = self._armed.pop(point, None)
        if latch is not None:
            reached, go = latch
            reached.set()
            if not go.wait(LATCH_SECONDS):
                raise TimeoutError(f"held at {point} for too long")

    # -- commands ---------------------------------------------------------------------

    def create(self, name: str, players: int) -> Game:
        """Create a game and write version 1 of each of its registers."""
        users = tuple(self._service.create_user(username=f"{name}-{n}-1").id for n in range(players))
        game = Game(name, users)
        for user_id in users:
            self._service.get_current_portfolio(user_id, DAY)
        for register in list_registers(game):
            self.write(game, {register: 1})
        return game

    def write(self, game: Game, versions: Mapping[str, int], is_undone: bool = False) -> None:  # noqa: FBT001, FBT002  # comes over a pipe, by position
        """Write registers, several of them in one transaction, and record the outcome."""
        start = time.monotonic()
        outcome: Outcome = "acknowledged"
        try:
            if len(versions) == 1 and not is_undone:
                write_register(self._service, game, *next(iter(versions.items())))
            else:
                with self._service.transaction():
                    for register, version in sorted(versions.items()):
                        write_register(self._service, game, register, version)
                    if is_undone:
                        raise Undo  # noqa: TRY301  # leaves the transaction, as a caller's error does
        except DatabaseUnavailable:
            outcome = "unknown"
        except (EchoMarketsError, Undo):
            outcome = "refused"
        pending = len(self._cache._shared.guard.outbox) > 0
        self._events.append(Write(self._number, start, time.monotonic(), dict(versions), outcome, pending))

    def read(self, game: Game, what: str, argument: Any) -> None:
        """Read and record the versions in the result and the tier that answered."""
        start = time.monotonic()
        try:
            seen, tier = self._read_with_tier(lambda: read_registers(self._service, game, what, argument))
        except EchoMarketsError:
            return
        self._events.append(Read(self._number, start, time.monotonic(), tier, seen))

    def _read_with_tier(self, read: Callable[[], dict[str, int]]) -> tuple[dict[str, int], Tier]:
        """Run a read; return its result and the tier that answered."""
        self._local.is_near = self._local.is_asked = False
        seen = read()
        # a thread that joined another thread's read did not reach Redis; the bound for near reads applies
        is_near = self._local.is_near or not self._local.is_asked
        return seen, "near" if is_near else "shared"

    def load(self, game: Game, path: Path, team: Team, seconds: float) -> Counts:
        """Read and write in many threads for `seconds`; each read is checked at once and not recorded."""
        self._is_paused_at_random = True
        self._load = Load(self._service, game, Ledger(path), team, read_with_tier=self._read_with_tier)
        self._counts = self._load.run(seconds)
        return self._counts

    def end_load(self) -> Counts:
        """End the load that runs in the background, and return its counts."""
        self._load.stop()
        assert self.finish("load"), "the load did not end"
        return self._counts

    def find_server(self) -> str | None:
        """Return the address of the Redis server in use."""
        return self._service.cache_stats().server

    def run(self, start_at: float, scripts: Sequence[Sequence[tuple[Any, ...]]]) -> None:
        """Run each script in a thread of its own; all threads start at the time `start_at`."""

        def follow(script: Sequence[tuple[Any, ...]]) -> None:
            time.sleep(max(0.0, start_at - time.monotonic()))
            try:
                for name, *arguments in script:
                    getattr(self, name)(*arguments)
            except BaseException:
                errors.append(traceback.format_exc())

        errors: list[str] = []
        threads = [threading.Thread(target=follow, args=(script,)) for script in scripts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise AssertionError("\n".join(errors))

    def begin(self, label: str, name: str, *arguments: Any) -> None:
        """Start an operation in a background thread."""
        self._threads[label] = threading.Thread(target=getattr(self, name), args=arguments)
        self._threads[label].start()

    def finish(self, label: str, seconds: float = LATCH_SECONDS) -> bool:
        """Wait for a background operation; return whether it has ended."""
        self._threads[label].join(seconds)
        return not self._threads[label].is_alive()

    def await_replies(self) -> None:
        """Return once Redis has answered every command, also those whose reply no caller waits for."""
        client = self._cache._shared._client
        connections = [client._idle.pop() for _ in range(len(client._idle))]
        for connection in connections:
            while connection._callbacks:
                connection._deliver_next()
        client._idle.extend(reversed(connections))

    def has_heard(self, key: str) -> bool:
        """Return whether the near cache has received an invalidation of this key."""
        return key in self._heard

    def has_joined_or_ended(self, label: str) -> bool:
        """Return whether a background operation has ended or waits for another thread's read of the key."""
        calls = list(self._cache._single_flight._running.values())
        return not self._threads[label].is_alive() or any(call.done._cond._waiters for call in calls)

    def arm(self, point: str) -> None:
        """Set a latch that holds the next operation at a point."""
        self._armed[point] = self._held = (threading.Event(), threading.Event())

    def reach(self) -> bool:
        """Wait until the latch holds an operation; return whether it does."""
        return self._held[0].wait(LATCH_SECONDS)

    def go(self) -> None:
        """Release the held operation."""
        self._held[1].set()

    def go_to(self, point: str) -> bool:
        """Release the held operation and hold it again at another point; return whether it got there."""
        held = self._held
        self.arm(point)
        held[1].set()
        return self.reach()

    def lose_next_answer(self) -> None:
        """Make the next COMMIT succeed while its caller gets an error."""
        self._loses_next = True

    def lose_redis(self) -> None:
        """Refuse every connection of this process to Redis, as a firewall would."""
        self._connect = self._cache._shared._client._connect
        nowhere = self._settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
        self._connect_with(make_connection_factory(nowhere, "nowhere"))

    def regain_redis(self) -> None:
        """Let this process connect to Redis again."""
        self._connect_with(self._connect)

    def _connect_with(self, connect: Callable[[], RedisConnection]) -> None:
        client = self._cache._shared._client
        client._connect = connect
        # open connections still lead to the old address
        client.drop_connections()

    def is_live(self) -> bool:
        """Return whether the near cache serves reads."""
        return bool(self._cache._near.is_live)

    def forget_near(self) -> None:
        """Empty the near cache and the list of loaded keys."""
        self._cache._near.clear()
        self.loads.clear()

    def count_replica_reads(self) -> int:
        """Return how many reads ran on a replica."""
        return count_reads(self._service).get(ON_REPLICA, 0)

    def uses_replica(self) -> bool:
        """Return whether every replica is in use; True without replicas."""
        return all(each.reason is None for each in self._service.replica_stats())

    def knows_lsn(self, key: str) -> bool:
        """Return whether a lease on an uncached key names the LSN that a replica must have replayed."""
        return self._cache._shared.lease([key], (), b"1234").lsn is not None

    def is_down(self) -> bool:
        """Send Redis a read; return whether Redis is bypassed."""
        try:
            self._cache._shared.get_many(["user:nobody"])
        except CacheDown:
            return True
        return False

    def take_loads(self) -> list[str]:
        """Return the keys that were loaded since the previous call."""
        loads, self.loads = self.loads, []
        return loads

    def take_events(self) -> list[Event]:
        """Return the events that were recorded since the previous call."""
        events, self._events = self._events, []
        return events

    def count_pending(self) -> int:
        """Return the number of pending invalidations in the outbox."""
        return len(self._cache._shared.guard.outbox)

    @property
    def _cache(self) -> Any:
        return self._service._cache

    def close(self) -> None:
        """Close the service."""
        self._service.close()


def serve(pipe: Connection, number: int, settings: Settings, mutant: str | None) -> None:
    """Run the commands from the pipe until it is closed or sends "close"."""
    worker = Worker(number, settings, mutant)
    pipe.send(None)
    try:
        while True:
            name, *arguments = pipe.recv()
            if name == "close":
                break
            try:
                pipe.send((True, getattr(worker, name)(*arguments)))
            except BaseException as error:
                pipe.send((False, repr(error)))
    except EOFError:
        pass
    finally:
        worker.close()
