"""The rows of the benchmark, and the random choice of keys and values for each call.

Owns the statements that fill the tables and every random choice; the same seed gives the same choices. Never
measures.
"""

import bisect
import itertools
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import psycopg2

from core.records import PortfolioUpdate, Tick

CATEGORY = "daily_returns"
DAY = date(2026, 3, 2)
OPENING = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
LIMIT = 50
SEARCH_LIMIT = 20
# A leaderboard of usual size, for writes of single scores. Each player on this leaderboard has one quest.
SMALL_CATEGORY = "weekly_returns"
SMALL_PLAYERS = 3_000
# The keys of the mixed load are numbered from the hottest to the coldest. At these numbers the key is a
# leaderboard with a limit, at all other numbers a portfolio: number -> limit.
HOT_LIMITS = {1: 50, 4: 10, 16: 100, 64: 25}
LIMITS = tuple(HOT_LIMITS.values())
# Exponent of the Zipf distribution: the hottest of 20,000 keys gets a seventh of all calls.
ZIPF_EXPONENT = 1.1

FILL = """
INSERT INTO users (id, username)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'player' || n
FROM generate_series(1, %(players)s) AS n;
INSERT INTO portfolios (user_id, session_date, total_value)
SELECT id, %(day)s, 10000 + (hashtext(username) %% 500000) / 100.0 FROM users;
INSERT INTO leaderboard_entries (user_id, session_date, category, score)
SELECT id, %(day)s, %(category)s, (hashtext(username) %% 10000000) / 100.0 FROM users;
INSERT INTO leaderboard_entries (user_id, session_date, category, score)
SELECT id, %(day)s, %(small_category)s, (hashtext(username) %% 10000000) / 100.0
FROM users ORDER BY id LIMIT %(small_players)s;
INSERT INTO quests (id, user_id, type, title, target_value)
SELECT ('00000000-0000-7000-9000-' || right(id::text, 12))::uuid, id, 'trades', 'Trade often', 1000000000
FROM users ORDER BY id LIMIT %(small_players)s;
INSERT INTO ticks (symbol, timestamp, price, volume, bid, ask)
SELECT 'S' || s, %(opening)s::timestamptz - n * interval '1 second', 100 + n %% 50, n, 99, 151
FROM generate_series(1, %(symbols)s) AS s, generate_series(1, %(ticks_each)s) AS n
ORDER BY n DESC, s;
"""


class Scale(NamedTuple):
    """The numbers of rows, and the numbers of calls in a turn of each workload."""

    players: int
    symbols: int
    ticks_each: int
    warm_calls: int
    cold_calls: int
    keys: int
    mixed_calls: int
    single_calls: int
    bulk_ticks: int
    rounds: int


SCALES = {
    "small": Scale(12_000, 200, 100, 40, 8, 2_000, 1_600, 16, 2_000, 1),
    "full": Scale(100_000, 500, 2_000, 300, 60, 20_000, 24_000, 200, 10_000, 7),
}


def fill_tables(url: str, scale: Scale) -> None:
    """Write users, portfolios, entries, quests and ticks, then run ANALYZE for the planner."""
    values = {
        "players": scale.players,
        "symbols": scale.symbols,
        "ticks_each": scale.ticks_each,
        "day": DAY,
        "category": CATEGORY,
        "small_category": SMALL_CATEGORY,
        "small_players": SMALL_PLAYERS,
        "opening": OPENING,
    }
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(FILL, values)
            cursor.execute("VACUUM ANALYZE")
            cursor.execute("CHECKPOINT")
    finally:
        connection.close()


class Choices:
    """The random choices of a run (keys, players, values), all from one seed."""

    def __init__(self, scale: Scale, seed: int) -> None:
        self.scale = scale
        self._random = random.Random(seed)
        weights = (1 / number**ZIPF_EXPONENT for number in range(1, scale.keys + 1))
        self._cumulated = list(itertools.accumulate(weights))
        # random players, so that the read rows are spread over the whole table; the first key is the hottest
        players = [player_id(n) for n in self._random.sample(range(1, scale.players + 1), scale.keys)]
        self._keys: list[UUID | int] = [
            HOT_LIMITS.get(number, player) for number, player in enumerate(players, start=1)
        ]
        self._seconds = itertools.count(1)
        self.numbers = itertools.count(1)

    def pick_players(self, count: int) -> list[UUID]:
        """Return the ids of different players, each with the same probability."""
        return [player_id(n) for n in self._random.sample(range(1, self.scale.players + 1), count)]

    def pick_keys(self, count: int) -> list[UUID | int]:
        """Return keys by Zipf distribution: the player id of a portfolio or the limit of a leaderboard."""
        total = self._cumulated[-1]
        indexes = (bisect.bisect(self._cumulated, self._random.random() * total) for _ in range(count))
        return [self._keys[min(index, len(self._keys) - 1)] for index in indexes]

    def pick_small(self, count: int) -> list[int]:
        """Return random numbers of players on the small leaderboard; a number can occur twice."""
        return self._random.choices(range(1, SMALL_PLAYERS + 1), k=count)

    def make_scores(self, count: int) -> list[Decimal]:
        """Return random scores with two decimals."""
        return [Decimal(self._random.randrange(-10_000_000, 10_000_000)) / 100 for _ in range(count)]

    def make_prefixes(self, count: int) -> list[str]:
        """Return prefixes of usernames; about one player in a hundred has each prefix."""
        return [f"player{self._random.randrange(10, 100)}" for _ in range(count)]

    def pick_flags(self, count: int, share: float) -> list[bool]:
        """Return `count` flags, each of which is True with the probability `share`."""
        return [self._random.random() < share for _ in range(count)]

    def pick_symbols(self, count: int) -> list[str]:
        """Return different symbols."""
        return [f"S{n}" for n in self._random.sample(range(1, self.scale.symbols + 1), count)]

    def make_updates(self, count: int) -> list[PortfolioUpdate]:
        """Return new values for the portfolios of different players."""
        cents = self._random.randrange(100)
        change = Decimal(cents) / 100
        return [
            PortfolioUpdate(user_id, DAY, 10_000 + change, change) for user_id in self.pick_players(count)
        ]

    def make_ticks(self, count: int) -> list[Tick]:
        """Return ticks with one tick per symbol and second, later than all ticks of earlier calls."""
        ticks: list[Tick] = []
        while len(ticks) < count:
            time = OPENING + timedelta(seconds=next(self._seconds))
            price = Decimal(self._random.randrange(10_000, 20_000)) / 100
            ticks += [
                Tick(f"S{n}", time, price, volume=n, bid=price - 1, ask=price + 1)
                for n in range(1, self.scale.symbols + 1)
            ]
        return ticks[:count]


def player_id(number: int) -> UUID:
    """Return the id of the player with this number, as in FILL."""
    return UUID(f"00000000-0000-7000-8000-{number:012x}")


def quest_id(number: int) -> UUID:
    """Return the id of the quest of the player with this number, as in FILL."""
    return UUID(f"00000000-0000-7000-9000-{number:012x}")


def total_of(row: object, name: str) -> Decimal:
    """Return one field of a row as a number; the row is a mapping or an object."""
    return Decimal(str(field_of(row, name)))


def field_of(row: object, name: str) -> object:
    """Return one field of a row; the row is a mapping or an object."""
    return row[name] if isinstance(row, dict) else getattr(row, name)


def describe_rows(rows: Sequence[object], *names: str) -> list[tuple[str, ...]]:
    """Return fields of rows as texts, so that the rows of different contenders can be compared."""
    return [tuple(_format(field_of(row, name)) for name in names) for row in rows]


def _format(value: object) -> str:
    text = str(value)
    try:
        return str(Decimal(text).normalize())
    except ArithmeticError:
        return text
