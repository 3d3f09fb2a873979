"""The caches of two processes on one Redis: one process writes, the other one only reads.

Owns the check for stale reads: a read that begins after a write has returned must give the written row.
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
    """Return settings with this Redis URL; their database URL is never used."""
    return Settings(
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/nothing"),
        redis_url=SecretStr(url),
        redis_password=None if password is None else SecretStr(password),
        redis_key_prefix=prefix,
        near_cache_size=near,
    )


class CachePair:
    """The cache of a writer and the cache of a reader; `rows` is their database, a row for each player."""

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
        """Write a new row as the service does (fence, commit, invalidate); return the row."""
        self._number += 1
        keys = [ROW.key(player)]
        fence = self.writer.fence(keys)
        self.rows[player] = f"row {self._number}"
        self.writer.invalidate(keys, fence)
        return self.rows[player]

    def read(self, player: str = "alice", *, cache: Cache | None = None) -> str:
        """Return the row of a player, read through `cache`; None: through the cache of the reader."""
        return (cache or self.reader).get_or_load(ROW, self.rows.__getitem__, player)

    def both_bypass_redis(self) -> bool:
        """Return whether both processes bypass Redis, after each has read a key that is not cached."""
        self._number += 1
        for cache in (self.writer, self.reader):
            cache.get_or_load(ROW, lambda _: "nobody", f"nobody {self._number}")
        return all(cache.stats().state == "down" for cache in (self.writer, self.reader))

    def find_stale(self, rounds: int = 10) -> list[str]:
        """Write a row and read it in both processes, `rounds` times; return a text for each stale read."""
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

    def both_use_cache(self, *, near: bool = True) -> bool:
        """Return whether both processes have a cache hit; with `near`, near caches must have the hit."""
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
        """Read every row in both processes, so that Redis and their near caches have it."""
        wait_until(self.both_use_cache, "both near caches answer")
        for player in PLAYERS:
            for cache in (self.writer, self.reader):
                self.read(player, cache=cache)

    def assert_recovered(self, *, near: bool = True) -> None:
        """Assert that both processes use the cache again, and that neither serves a stale row."""
        wait_until(lambda: self.both_use_cache(near=near), "both processes use the cache again")
        for player in PLAYERS:
            for cache in (self.writer, self.reader):
                assert self.read(player, cache=cache) == self.rows[player], "stale after the recovery"
        written = self.write()
        wait_until(lambda: self.read() == written, "the reader has the new row", 1.0)
        assert self.diagnose() == Diagnosis(is_usable=True)

    def diagnose(self) -> Diagnosis:
        """Return the diagnosis of the health check for this Redis."""
        return RedisProbe(self.settings, client_name="health").examine()


def collect_stale(pair: CachePair, stale: list[str]) -> bool:
    """Write and read once, and append stale reads to `stale`; return True, for use in a condition."""
    stale += pair.find_stale(rounds=1)
    return True


def find_servers(pair: CachePair) -> set[int]:
    """Return the ports of the servers that the two processes use."""
    shared = [cache._shared for cache in (pair.writer, pair.reader)]
    return {server.port for each in shared if each and (server := each.guard.epochs.server)}
