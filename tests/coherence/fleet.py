"""Several worker processes, each with its own service, controlled by a test.

Owns the processes, their pipes, and the history of all their operations.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any
from uuid import uuid4

import redis

from core import Settings
from core.testing import ValkeyServer
from tests.coherence.history import Event, History, Write
from tests.coherence.registers import Game
from tests.coherence.worker import serve
from tests.conftest import connected
from tests.patience import wait_until
from tests.replicas import paused_replay

PATIENCE_SECONDS = 60.0
# Process number of the test itself in the history.
OBSERVER = -1


class Member:
    """One worker process; a test calls the methods of its `Worker` by name."""

    def __init__(self, number: int, settings: Settings, mutant: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe: Connection
        self._pipe, worker_pipe = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=serve, args=(worker_pipe, number, settings, mutant)
        )
        self.process.start()
        worker_pipe.close()

    def wait_until_open(self) -> None:
        """Wait until the worker has opened its service."""
        assert self._pipe.poll(PATIENCE_SECONDS), "a worker did not start"
        self._pipe.recv()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the worker and return the result."""
        self.send(name, *arguments)
        return self.receive()

    def send(self, name: str, *arguments: Any) -> None:
        """Call a method of the worker, and do not wait for the result."""
        self._pipe.send((name, *arguments))

    def receive(self, *, is_checked: bool = True, patience_seconds: float = PATIENCE_SECONDS) -> Any:
        """Return the result of the last `send`; without the check, return (has succeeded, result)."""
        assert self._pipe.poll(patience_seconds), "a worker did not answer"
        has_succeeded, result = self._pipe.recv()
        if not is_checked:
            return has_succeeded, result
        assert has_succeeded, result
        return result

    def hold(self, label: str, point: str, name: str, *arguments: Any) -> None:
        """Begin an operation and hold it at a point, such as `committed`."""
        self.call("arm", point)
        self.call("begin", label, name, *arguments)
        assert self.call("reach"), f"{name} did not reach {point}"

    def end(self, label: str) -> None:
        """Let the held operation continue, and wait until it has ended."""
        self.call("go")
        assert self.call("finish", label), f"{label} did not end"
        self.call("await_replies")

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(PATIENCE_SECONDS)

    def close(self) -> None:
        """Close the service of the process and wait until the process has ended."""
        if self.process.is_alive():
            self.send("close")
            self.process.join(PATIENCE_SECONDS)
        self._pipe.close()


class Fleet:
    """The worker processes of a test, and the history of their operations."""

    def __init__(self, members: Sequence[Member], settings: Settings, valkey: ValkeyServer) -> None:
        self.members = list(members)
        self.valkey = valkey
        self._settings = settings
        self._observed: list[Event] = []
        self.redis = redis.Redis(port=valkey.port, password=valkey.password)

    def __getitem__(self, number: int) -> Member:
        """Return the process with this number."""
        return self.members[number]

    def start_game(self, players: int = 2) -> Game:
        """Discard earlier events, create a game, and wait until every near cache serves."""
        self.take_history()
        game: Game = self[0].call("create", f"g{uuid4().hex[:8]}", players)
        names = {f"username:{index}": 1 for index in range(players)}
        now = time.monotonic()
        # take the events now, because a scenario may kill the process that created the game
        self._observed = [Write(OBSERVER, now, now, names, "acknowledged"), *self[0].call("take_events")]
        self._wait_until_near()
        return game

    def read(self, process: int, *arguments: Any) -> None:
        """Read in one process, and wait until Redis has received the values that this process fills."""
        self[process].call("read", *arguments)
        self[process].call("await_replies")

    def await_feed(self, process: int) -> None:
        """Wait until a process has received every invalidation up to now."""
        marker = f"user:{uuid4()}"
        self.redis.set(marker, "", px=round(PATIENCE_SECONDS * 1000))
        wait_until(
            lambda: self[process].call("has_heard", marker),
            "the feed delivers an invalidation",
            PATIENCE_SECONDS,
        )

    def record_committed(self, game: Game, register: str) -> None:
        """Read a register from its table, and record its version as a write that later reads must see."""
        index = int(register.partition(":")[2])
        start = time.monotonic()
        with connected(self._settings.database_url.get_secret_value()) as run:
            if register.startswith("name"):
                [(value,)] = run("SELECT name FROM users WHERE id = %s", (game.users[index],))
            elif register.startswith("value"):
                [(value,)] = run(
                    "SELECT total_value FROM portfolios WHERE user_id = %s", (game.users[index],)
                )
            else:
                [(value,)] = run(
                    "SELECT score FROM leaderboard_entries WHERE user_id = %s AND category = %s",
                    (game.users[index], game.name),
                )
        self._observed.append(
            Write(OBSERVER, start, time.monotonic(), {register: int(value)}, "acknowledged")
        )

    def record_unknown(self, versions: dict[str, int]) -> None:
        """Record a write with an unknown outcome; its process is killed before it reports the write."""
        now = time.monotonic()
        self._observed.append(Write(OBSERVER, now, now, versions, "unknown"))

    def take_history(self) -> History:
        """Return and discard the events since the game began, or since the last call."""
        events = [
            event
            for member in self.members
            if member.process.is_alive()
            for event in member.call("take_events")
        ]
        observed, self._observed = self._observed, []
        return History([*events, *observed])

    def run(self, scripts: Sequence[Sequence[Sequence[tuple[Any, ...]]]]) -> None:
        """Run the scripts of each process in threads that all begin at the same time."""
        start_at = time.monotonic() + 0.02
        for member, process_scripts in zip(self.members, scripts, strict=True):
            member.send("run", start_at, process_scripts)
        # receive all results before checking any: a result left in a pipe would be read by the next call
        results = [member.receive(is_checked=False) for member in self.members]
        assert all(has_succeeded for has_succeeded, _ in results), results

    def wait_until_recovered(self) -> None:
        """Wait until every process has an empty outbox, uses Redis and serves from its near cache."""
        members = self.members
        wait_until(
            lambda: not any(member.call("count_pending") for member in members),
            "outboxes are empty",
            PATIENCE_SECONDS,
        )
        wait_until(
            lambda: not any(member.call("is_down") for member in members),
            "redis is used again",
            PATIENCE_SECONDS,
        )
        self._wait_until_near()

    def _wait_until_near(self) -> None:
        wait_until(
            lambda: all(member.call("is_live") for member in self.members),
            "near caches serve",
            PATIENCE_SECONDS,
        )

    @contextmanager
    def stopped_redis(self) -> Iterator[None]:
        """Pause Redis with SIGSTOP for the length of a `with` block."""
        os.kill(self.valkey.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.valkey.pid, signal.SIGCONT)

    def wait_for_replica(self, process: int, key: str) -> None:
        """Wait until a process would load a missing key from the replica."""
        member = self[process]
        wait_until(
            lambda: all(member.call("uses_replica") for member in self.members),
            "the replica is used",
            PATIENCE_SECONDS,
        )
        wait_until(lambda: member.call("knows_lsn", key), "the LSN is known", PATIENCE_SECONDS)
        # delete the lease, because `knows_lsn` has leased the key
        self.redis.delete(key)

    @contextmanager
    def paused_replay(self) -> Iterator[None]:
        """Pause replay on the replica for the length of a `with` block."""
        [replica] = self._settings.list_replicas()
        with paused_replay(replica.database_url.get_secret_value()):
            yield

    def cut_feeds(self) -> None:
        """Kill the connections on which the near caches receive invalidations."""
        for each in self.redis.client_list():
            if "t" in each["flags"]:
                self.redis.client_kill_filter(_id=each["id"])


@contextmanager
def run_fleet(settings: Settings, valkey: ValkeyServer, mutants: Sequence[str | None]) -> Iterator[Fleet]:
    """Run one process for each entry of `mutants`: the name of its mutant, or None."""
    members = [Member(number, settings, mutant) for number, mutant in enumerate(mutants)]
    try:
        for member in members:
            member.wait_until_open()
        fleet = Fleet(members, settings, valkey)
        yield fleet
        fleet.redis.close()
    finally:
        for member in members:
            member.close()
