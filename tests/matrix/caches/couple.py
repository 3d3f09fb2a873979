"""Two processes on one Redis, one that writes and one that only reads.

Owns the check that nothing is stale: a read that begins after a write has returned gives that write.
The database is a dictionary, so that hundreds of writes take no time.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from core.cache import Cache, Cached
from core.cache.capability import Diagnosis, RedisProbe
from core.cache.kinds import USER
from core.metrics import open_metrics
from core.settings import Settings
from tests.patience import wait_until

ROW = Cached(USER, str, lambda player: f"user:{player}")
PLAYERS = ("alice", "bob", "charlie")


def make_settings(url: str, *, prefix: str = "", password: str | None = None, near: int = 1_000) -> Settings:
    """Return settings with a Redis, and a database that nobody asks."""
    return Settings(
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/nothing"),
        redis_url=SecretStr(url),
        redis_password=None if password is None else SecretStr(password),
        redis_key_prefix=prefix,
        near_cache_size=near,
    )


class Couple:
    """A writer, a reader, and what they share."""

    def __init__(self, writer: Settings, reader: Settings | None = None) -> None:
        self.rows = dict.fromkeys(PLAYERS, "row 0")
        self._number = 0
        self._metrics = [open_metrics("job", None) for _ in range(2)]
        self.settings = writer
        self._readers = reader or writer
        self.writer = Cache(writer, client_name="writer", metrics=self._metrics[0])
        self.reader = Cache(self._readers, client_name="reader", metrics=self._metrics[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for metrics in self._metrics:
                stack.callback(metrics.close)
            for cache in (self.reader, self.writer):
                stack.callback(cache.close)

    def write(self, player: str = "alice") -> str:
        """Change a row as the service does: fence, commit, invalidate."""
        self._number += 1
        keys = [ROW.key(player)]
        fence = self.writer.fence(keys)
        self.rows[player] = f"row {self._number}"
        self.writer.invalidate(keys, fence)
        return self.rows[player]

    def read(self, player: str = "alice", *, cache: Cache | None = None) -> str:
        """Read as another process does, or with one's own cache."""
        return (cache or self.reader).get_or_load(ROW, self.rows.__getitem__, player)

    def are_down(self) -> bool:
        """Read something that is in no near cache; say whether both processes have given Redis up."""
        self._number += 1
        for cache in (self.writer, self.reader):
            cache.get_or_load(ROW, lambda _: "nobody", f"nobody {self._number}")
        return all(cache.stats().state == "down" for cache in (self.writer, self.reader))

    def find_stale(self, rounds: int = 10) -> list[str]:
        """Write and read at once, again and again; return what was read although it was outdated."""
        stale: list[str] = []
        for number in range(rounds):
            player = PLAYERS[number % len(PLAYERS)]
            written = self.write(player)
            stale += [
                f"{found} instead of {written}"
                for cache in (self.reader, self.writer)
                if (found := self.read(player, cache=cache)) != written
            ]
        return stale

    def is_used(self, *, near: bool = True) -> bool:
        """Say whether both processes answer from the cache, those with a near cache from that."""
        for cache, settings in ((self.writer, self.settings), (self.reader, self._readers)):
            before = cache.stats().caches["user"]
            self.read(cache=cache)
            self.read(cache=cache)
            after = cache.stats()
            field = "near_hits" if near and settings.near_cache_size else "hits"
            if after.state != "enabled" or getattr(after.caches["user"], field) == getattr(before, field):
                return False
        return True

    def warm(self) -> None:
        """Read until everything is in both tiers of both processes."""
        wait_until(self.is_used, "both near caches answer")
        for player in PLAYERS:
            for cache in (self.writer, self.reader):
                self.read(player, cache=cache)

    def finish(self, *, near: bool = True) -> None:
        """Assert that all heals, and that nothing of before is served then."""
        wait_until(lambda: self.is_used(near=near), "both processes use the cache again")
        for player in PLAYERS:
            for cache in (self.writer, self.reader):
                assert self.read(player, cache=cache) == self.rows[player], "stale after healing"
        written = self.write()
        wait_until(lambda: self.read() == written, "a change is heard of", 1.0)
        assert self.diagnose() == Diagnosis(is_usable=True)

    def diagnose(self) -> Diagnosis:
        """Return what health says of the Redis."""
        return RedisProbe(self.settings, client_name="health").examine()


def go_on(couple: Couple, stale: list[str]) -> bool:
    """Write and read once more, and keep what was stale."""
    stale += couple.find_stale(rounds=1)
    return True


def find_servers(couple: Couple) -> set[int]:
    """Return the port of the server that each process uses."""
    shared = [cache._shared for cache in (couple.writer, couple.reader)]
    return {server.port for each in shared if each and (server := each.guard.epochs.server)}
