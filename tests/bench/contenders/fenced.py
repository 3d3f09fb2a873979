"""The drivers without a library, with leases: measures the cost of never storing a stale value.

A reader that finds no value stores a token under the key. After the load, a script stores the value only if
the token is still there. A write deletes the token, so a value that was loaded before the write is not
stored. Source: Nishtala et al., Scaling Memcache at Facebook (NSDI 2013), 3.2.1.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from core import Settings
from tests.bench.contenders import statements
from tests.bench.contenders.raw import MARKET_SECONDS, RawPsycopg3

TOKEN_MARK = b"\xc1"  # the only byte that never begins a msgpack value
LEASE_MILLISECONDS = 10_000
WAIT_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.001
MAX_PAUSE_SECONDS = 0.01
# KEYS: cache keys. ARGV: token, lifetime of the token in ms. Returns the value or the token of each key.
GET_OR_LEASE = """
local found = redis.call('MGET', unpack(KEYS))
for i = 1, #KEYS do
  if not found[i] then
    redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
    found[i] = ARGV[1]
  end
end
return found
"""
# KEYS: cache keys. ARGV: token, lifetime of the values in seconds, then the values.
FILL = """
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[1] then
    redis.call('SET', KEYS[i], ARGV[2 + i], 'EX', ARGV[2])
  end
end
"""


class Fenced(RawPsycopg3):
    """psycopg 3 and redis-py with leases."""

    name: ClassVar[str] = "fenced"

    def __init__(self, settings: Settings, *, number: int) -> None:
        super().__init__(settings, number=number)
        self._lease: Any = self._redis.register_script(GET_OR_LEASE)
        self._store: Any = self._redis.register_script(FILL)

    def _read(self, key: str, seconds: int, load: Callable[[], Any], decode: Callable[[bytes], Any]) -> Any:
        token = TOKEN_MARK + secrets.token_bytes(15)
        [stored] = self._lease([key], [token, LEASE_MILLISECONDS])
        if not stored.startswith(TOKEN_MARK):
            return decode(stored)
        if stored != token:
            return self._await(key, load, decode)
        value = load()
        self._store([key], [token, seconds, self._encode(value)])
        return value

    def _await(self, key: str, load: Callable[[], Any], decode: Callable[[bytes], Any]) -> Any:
        """Wait for a value that another thread or process is loading; load it after `WAIT_SECONDS`."""
        deadline, pause = time.monotonic() + WAIT_SECONDS, FIRST_PAUSE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)
            stored: Any = self._redis.get(key)
            if stored is None:
                break
            if not stored.startswith(TOKEN_MARK):
                return decode(stored)
        return load()

    def get_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        """Read or lease all keys with one script, then load the missing ticks with one statement."""
        token = TOKEN_MARK + secrets.token_bytes(15)
        reply = self._lease([f"tick:{symbol}" for symbol in symbols], [token, LEASE_MILLISECONDS])
        found = [self._decode_tick(value) for value in reply if not value.startswith(TOKEN_MARK)]
        pairs = zip(symbols, reply, strict=True)
        missing = [symbol for symbol, value in pairs if value.startswith(TOKEN_MARK)]
        if missing:
            rows = statements.select_latest(self._connections, missing)
            values = [self._encode(row) for row in rows]
            self._store([f"tick:{row.symbol}" for row in rows], [token, MARKET_SECONDS, *values])
            found += rows
        return sorted(found, key=lambda row: row.symbol)
