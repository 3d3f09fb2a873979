"""Bulk loads: COPY into a staging table, then one upsert per chunk.

Owns the text form of COPY and the upserts by natural key, which make every load
repeatable: a row that is there already with the same values is left alone. A role
that may create no temporary table sends the rows as a JSON document instead.
"""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter, methodcaller
from typing import Any
from uuid import UUID

import msgspec

from core.database import Database


class Target(msgspec.Struct, frozen=True):
    """A table to load: its columns, the key that names a row, the columns a reload keeps."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    kept: tuple[str, ...] = ()
    order: str = ""
    """In which rows are written, the same everywhere so that no two writers deadlock; empty: by the key."""


USERS = Target(
    "users",
    ("id", "username", "name", "email", "last_active", "preferences", "created_at", "updated_at"),
    key=("username",),
    kept=("id", "created_at", "last_active"),
)
TICKS = Target(
    "ticks",
    (
        "symbol", "timestamp", "price", "volume", "bid", "ask", "change_24h",
        "change_percent_24h", "volatility", "open", "high", "low",
    ),
    key=("symbol", "timestamp"),
    # by code points: any other collation takes longer to sort than the rows to write
    order='symbol COLLATE "C", timestamp',
)  # fmt: skip  # one column a line would hide that these are the table's
PORTFOLIOS = Target(
    "portfolios",
    (
        "id", "user_id", "session_date", "starting_cash", "current_cash", "total_value",
        "day_change", "day_change_percent", "created_at", "updated_at",
    ),
    key=("user_id", "session_date"),
    kept=("id", "created_at"),
)  # fmt: skip  # as above
POSITIONS = Target(
    "positions",
    ("user_id", "session_date", "symbol", "quantity", "average_price"),
    key=("user_id", "session_date", "symbol"),
)
TRADES = Target(
    "trades",
    ("id", "user_id", "session_date", "symbol", "side", "quantity", "price", "executed_at"),
    key=("id",),
)
LEADERBOARD_ENTRIES = Target(
    "leaderboard_entries",
    ("id", "user_id", "session_date", "category", "score", "rank", "metadata", "created_at"),
    key=("user_id", "session_date", "category"),
    kept=("id", "created_at"),
)
QUESTS = Target(
    "quests",
    (
        "id", "user_id", "type", "title", "description", "target_value", "current_progress",
        "status", "reward_type", "reward_value", "created_at", "expires_at",
    ),
    key=("id",),
)  # fmt: skip  # as above
MARKET_EVENTS = Target(
    "market_events",
    (
        "id", "type", "title", "description", "affected_symbols", "impact_magnitude",
        "sentiment", "created_at",
    ),
    key=("id",),
)  # fmt: skip  # as above


def load_rows(database: Database, target: Target, records: Sequence[Any]) -> int:
    """Upsert records, which name each key once; return how many rows are new or changed."""
    if database.connection().facts.may_stage:
        return int(database.execute_sql(_upsert(target, _stage(database, target, records))).rowcount)
    rows = [{name: getattr(record, name) for name in target.columns} for record in records]
    source = f"json_populate_recordset(NULL::{target.table}, %s)"
    # the server parses each text as a value of its column
    return int(database.execute_sql(_upsert(target, source), (json.dumps(rows, default=str),)).rowcount)


def _stage(database: Database, target: Target, records: Sequence[Any]) -> str:
    """Copy records into a table that is gone after the transaction; return its name."""
    staged = f"pg_temp.staged_{target.table}"
    # one transaction may load the same table twice
    database.execute_sql(
        f"DROP TABLE IF EXISTS {staged}; CREATE TEMPORARY TABLE {staged} (LIKE {target.table}) ON COMMIT DROP"
    )
    columns = {name: list(map(attrgetter(name), records)) for name in target.columns}
    # a column without any value is left out: most ticks have half of theirs
    nothing = [None] * len(records)
    columns = {name: values for name, values in columns.items() if values != nothing}
    with database.cursor() as cursor:
        cursor.copy_expert(f"COPY {staged} ({', '.join(columns)}) FROM STDIN", _text_of(columns.values()))
    return staged


def _upsert(target: Target, source: str) -> str:
    columns = ", ".join(target.columns)
    changing = [name for name in target.columns if name not in target.key + target.kept]
    compared = [name for name in changing if name != "updated_at"]
    return f"""
        INSERT INTO {target.table} ({columns})
        SELECT {columns} FROM {source} ORDER BY {target.order or ", ".join(target.key)}
        ON CONFLICT ({", ".join(target.key)}) DO UPDATE
        SET {", ".join(f"{name} = EXCLUDED.{name}" for name in changing)}
        WHERE ({", ".join(f"{target.table}.{name}" for name in compared)})
            IS DISTINCT FROM ({", ".join(f"EXCLUDED.{name}" for name in compared)})"""


def _text_of(columns: Iterable[Sequence[Any]]) -> io.StringIO:
    """Spell records in COPY's text form: tabs, newlines, backslash-N for nothing."""
    rows = zip(*map(_spell_column, columns), strict=True)
    return io.StringIO("\n".join(map("\t".join, rows)) + "\n")


def _spell_column(column: Sequence[Any]) -> Iterable[str]:
    """Spell values by exact type, which takes a quarter of the time of a chain of isinstance."""
    kinds = set(map(type, column))
    if len(kinds) > 1:
        return [_SPELLINGS[type(value)](value) for value in column]
    spell = _SPELLINGS[kinds.pop()]
    if spell is not _spell_time:
        return map(spell, column)
    # rows of one load share their few times, whose spelling costs more than a look-up
    spelled = {time: spell(time) for time in set(column)}
    return map(spelled.__getitem__, column)


def _escape(text: str) -> str:
    if text.isalnum():
        return text
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


class _Spellings(dict[type, Callable[[Any], str]]):
    """Type of a value -> its text form; a subclass is spelled as its base."""

    def __missing__(self, kind: type) -> Callable[[Any], str]:
        for base in kind.__mro__[1:]:
            if base in self:
                self[kind] = self[base]
                return self[kind]
        raise TypeError(f"cannot load {kind.__name__}")


_spell_time = methodcaller("isoformat")

_SPELLINGS = _Spellings(
    {
        type(None): lambda _: "\\N",
        str: _escape,
        int: str,
        Decimal: str,
        UUID: attrgetter("hex"),
        date: _spell_time,
        datetime: _spell_time,
        dict: lambda document: _escape(json.dumps(document)) if document else "{}",
        tuple: lambda items: _escape("{" + ",".join(json.dumps(item) for item in items) + "}"),
    }
)


FIND_USER_IDS = "SELECT username, id FROM users WHERE username = ANY(%s)"


def find_user_ids(database: Database, usernames: Sequence[str]) -> dict[str, UUID]:
    """Return the id of each of the usernames that exists."""
    return dict(database.execute_sql(FIND_USER_IDS, (list(usernames),)).fetchall())


# In one order everywhere, so that no two loads wait for each other.
LOCK_QUESTS = "SELECT user_id FROM quests WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE"


def lock_quest_owners(database: Database, quest_ids: Sequence[UUID]) -> set[UUID]:
    """Return whose the quests with these ids are until the transaction ends."""
    return {owner for (owner,) in database.execute_sql(LOCK_QUESTS, (list(quest_ids),)).fetchall()}
