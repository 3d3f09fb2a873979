"""Several processes with a service each, driven from the test.

Owns the processes, their pipes and the history that they record together.
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
# The test itself, as a writer whose statements everybody must see.
OBSERVER = -1


class Member:
    """One process; its methods are those of its worker."""

    def __init__(self, number: int, settings: Settings, mutant: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe: Connection
        self._pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(theirs, number, settings, mutant))
        self.process.start()
        theirs.close()

    def wait_until_open(self) -> None:
        """Return once the worker listens."""
        assert self._pipe.poll(PATIENCE_SECONDS), "a worker did not start"
        self._pipe.recv()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the worker and return what it returns."""
        self.send(name, *arguments)
        return self.receive()

    def send(self, name: str, *arguments: Any) -> None:
        """Call a method and do not wait."""
        self._pipe.send((name, *arguments))

    def receive(self, *, is_judged: bool = True, patience_seconds: float = PATIENCE_SECONDS) -> Any:
        """Return what the method that was sent returns; not judged, with whether it is fine."""
        assert self._pipe.poll(patience_seconds), "a worker did not answer"
        is_fine, answer = self._pipe.recv()
        if not is_judged:
            return is_fine, answer
        assert is_fine, answer
        return answer

    def hold(self, label: str, point: str, name: str, *arguments: Any) -> None:
        """Begin an operation and hold it at a point."""
        self.call("arm", point)
        self.call("begin", label, name, *arguments)
        assert self.call("reach"), f"{name} never came to {point}"

    def end(self, label: str) -> None:
        """Let the operation that is held go on to its end."""
        self.call("go")
        assert self.call("finish", label), f"{label} did not end"
        self.call("await_replies")

    def kill(self) -> None:
        """End it at once."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(PATIENCE_SECONDS)

    def close(self) -> None:
        """End it in order."""
        if self.process.is_alive():
            self.send("close")
            self.process.join(PATIENCE_SECONDS)
        self._pipe.close()


class Fleet:
    """The processes and what they did."""

    def __init__(self, members: Sequence[Member], settings: Settings, valkey: ValkeyServer) -> None:
        self.members = list(members)
        self.valkey = valkey
        self._settings = settings
        self._observed: list[Event] = []
        self.redis = redis.Redis(port=valkey.port, password=valkey.password)

    def __getitem__(self, number: int) -> Member:
        """Return one process."""
        return self.members[number]

    def start_game(self, players: int = 2) -> Game:
        """Create a game and wait until every near cache serves; forget what was before."""
        self.take_history()
        game: Game = self[0].call("create", f"g{uuid4().hex[:8]}", players)
        names = {f"username:{place}": 1 for place in range(players)}
        now = time.monotonic()
        # now, because the process that created it may not live to tell
        self._observed = [Write(OBSERVER, now, now, names, "acknowledged"), *self[0].call("take_events")]
        self._wait_until_near()
        return game

    def read(self, process: int, *arguments: Any) -> None:
        """Read in one process, and wait until what it fills has arrived in Redis."""
        self[process].call("read", *arguments)
        self[process].call("await_replies")

    def await_feed(self, process: int) -> None:
        """Wait until a process has heard of every change up to now."""
        marker = f"user:{uuid4()}"
        self.redis.set(marker, "", px=round(PATIENCE_SECONDS * 1000))
        wait_until(
            lambda: self[process].call("has_heard", marker), "the feed tells of a change", PATIENCE_SECONDS
        )

    def observe(self, game: Game, register: str) -> None:
        """Read a register from its table itself: whatever is committed must be seen from now on."""
        place = int(register.partition(":")[2])
        start = time.monotonic()
        with connected(self._settings.database_url.get_secret_value()) as run:
            if register.startswith("name"):
                [(value,)] = run("SELECT name FROM users WHERE id = %s", (game.users[place],))
            elif register.startswith("value"):
                [(value,)] = run(
                    "SELECT total_value FROM portfolios WHERE user_id = %s", (game.users[place],)
                )
            else:
                [(value,)] = run(
                    "SELECT score FROM leaderboard_entries WHERE user_id = %s AND category = %s",
                    (game.users[place], game.name),
                )
        self._observed.append(
            Write(OBSERVER, start, time.monotonic(), {register: int(value)}, "acknowledged")
        )

    def expect(self, versions: dict[str, int]) -> None:
        """Note a write of a process that does not live to tell of it."""
        now = time.monotonic()
        self._observed.append(Write(OBSERVER, now, now, versions, "unknown"))

    def take_history(self) -> History:
        """Return what happened since the game began, or since the last time."""
        events = [
            event
            for member in self.members
            if member.process.is_alive()
            for event in member.call("take_events")
        ]
        observed, self._observed = self._observed, []
        return History([*events, *observed])

    def run(self, scripts: Sequence[Sequence[Sequence[tuple[Any, ...]]]]) -> None:
        """Run the scripts of each process in threads, all beginning at one moment."""
        start_at = time.monotonic() + 0.02
        for member, own in zip(self.members, scripts, strict=True):
            member.send("run", start_at, own)
        # all before any is judged: an answer that stays in its pipe is the next one's
        answers = [member.receive(is_judged=False) for member in self.members]
        assert all(is_fine for is_fine, _ in answers), answers

    def wait_until_used(self) -> None:
        """Wait until every process uses Redis, has an empty outbox, and serves from its near cache."""
        members = self.members
        wait_until(
            lambda: not any(each.call("count_pending") for each in members),
            "outboxes are empty",
            PATIENCE_SECONDS,
        )
        wait_until(
            lambda: not any(each.call("is_down") for each in members), "redis is used again", PATIENCE_SECONDS
        )
        self._wait_until_near()

    def _wait_until_near(self) -> None:
        wait_until(
            lambda: all(each.call("is_live") for each in self.members), "near caches serve", PATIENCE_SECONDS
        )

    @contextmanager
    def stopped_redis(self) -> Iterator[None]:
        """Let Redis hang for the length of a `with` block."""
        os.kill(self.valkey.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.valkey.pid, signal.SIGCONT)

    def use_replica(self, process: int, key: str) -> None:
        """Wait until a process reads from the replica what it lacks under a key."""
        member = self[process]
        wait_until(
            lambda: all(each.call("uses_replica") for each in self.members),
            "the replica is used",
            PATIENCE_SECONDS,
        )
        wait_until(lambda: member.call("knows_lsn", key), "the LSN is known", PATIENCE_SECONDS)
        self.redis.delete(key)

    @contextmanager
    def paused_replay(self) -> Iterator[None]:
        """Let the replica replay nothing for the length of a `with` block."""
        [replica] = self._settings.list_replicas()
        with paused_replay(replica.database_url.get_secret_value()):
            yield

    def cut_feeds(self) -> None:
        """Kill the connections that the near caches listen on."""
        for each in self.redis.client_list():
            if "t" in each["flags"]:
                self.redis.client_kill_filter(_id=each["id"])


@contextmanager
def run_fleet(settings: Settings, valkey: ValkeyServer, mutants: Sequence[str | None]) -> Iterator[Fleet]:
    """Run one process for each entry of `mutants`, which names what is broken in it."""
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
