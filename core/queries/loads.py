"""Bulk loads: COPY into a staging table, then one upsert for each chunk of records.

Owns the text format of COPY, and the upserts by key. An upsert does not write a row that is stored with the
same values already, so a load can be repeated. A role that may not create temporary tables sends the rows as
a JSON document instead.
"""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter, methodcaller
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from core.database import Database
from core.queries.rows import collect_columns, is_distributed, quote_element
from core.records import LeaderboardEntry, MarketEvent, Portfolio, Position, Quest, Tick, Trade, User
from core.records.game import StoredUser


class Target(msgspec.Struct, frozen=True):
    """A table that is loaded from records of one type.

    - `key`: the columns that identify a row.
    - `kept`: the columns of an existing row that a load leaves unchanged.
    - `order`: the order in which all writers write rows, so that no two writers deadlock. The default is
      `key`.
    - `joined`: fields of the record that are columns of another table and are not written.
    - `derived`: columns that are no fields of the record; the service adds them.
    - `is_primary`: true if `key` is the primary key. In distributed tables this key has one more column.
    """

    table: str
    record: type[Any]
    key: tuple[str, ...]
    kept: tuple[str, ...] = ()
    order: str = ""
    joined: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    is_primary: bool = False

    @property
    def conflict(self) -> str:
        """The conflict target of ON CONFLICT: the columns of `key`, or the constraint of the primary key."""
        return f"ON CONSTRAINT {self.table}_pkey" if self.is_primary else f"({', '.join(self.key)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a load writes."""
        own = tuple(name for name in self.record.__struct_fields__ if name not in self.joined)
        return own + self.derived


USERS = Target(
    "users",
    User,
    key=("username",),
    kept=("id", "created_at", "last_active"),
    derived=("email_index",),
)
# COLLATE "C" sorts by bytes: to sort by the rules of a language takes longer than to write the rows.
TICKS = Target("ticks", Tick, key=("symbol", "timestamp"), order='symbol COLLATE "C", timestamp')
PORTFOLIOS = Target("portfolios", Portfolio, key=("user_id", "session_date"), kept=("id", "created_at"))
POSITIONS = Target("positions", Position, key=("user_id", "session_date", "symbol"))
TRADES = Target("trades", Trade, key=("id",), is_primary=True)
LEADERBOARD_ENTRIES = Target(
    "leaderboard_entries",
    LeaderboardEntry,
    key=("user_id", "session_date", "category"),
    kept=("id", "created_at"),
    joined=("username",),
)
# If users are distributed, this replaces USERS: the table `usernames` then keeps usernames unique.
USERS_BY_ID = Target("users", User, key=("id",), kept=("created_at", "last_active"), derived=("email_index",))
QUESTS = Target("quests", Quest, key=("id",), is_primary=True)
MARKET_EVENTS = Target("market_events", MarketEvent, key=("id",))


def load_rows(database: Database, target: Target, records: Sequence[Any]) -> int:
    """Insert or update records with distinct keys, and return how many rows are new or changed."""
    distributed = is_distributed(database)
    if target is USERS and distributed:
        ids = _claim_usernames(database, records)
        records = [msgspec.structs.replace(record, id=ids[record.username]) for record in records]
        target = USERS_BY_ID
    if database.connection().facts.may_stage:
        source, parameters = _stage(database, target, records), None
    else:
        rows = [{name: getattr(record, name) for name in target.columns} for record in records]
        # json.dumps writes ids, times and amounts as strings; the server converts each string to the type of
        # its column
        source, parameters = (
            f"json_populate_recordset(NULL::{target.table}, %s)",
            (json.dumps(rows, default=str),),
        )
    if distributed:
        # Count the returned rows: on Citus, `rowcount` is the number of rows that were given.
        statement = _upsert(target, source, keeps_player=target.is_primary) + " RETURNING 1"
        return len(database.execute_sql(statement, parameters).fetchall())
    return int(database.execute_sql(_upsert(target, source, keeps_player=False), parameters).rowcount)


def _stage(database: Database, target: Target, records: Sequence[Any]) -> str:
    """Copy records into a temporary table that exists until the transaction ends, and return its name."""
    staged = f"pg_temp.staged_{target.table}"
    # The table exists already if this transaction has loaded the same target before.
    database.execute_sql(
        f"DROP TABLE IF EXISTS {staged}; CREATE TEMPORARY TABLE {staged} (LIKE {target.table}) ON COMMIT DROP"
    )
    columns = collect_columns(records, target.columns)
    with database.cursor() as cursor:
        cursor.copy_expert(f"COPY {staged} ({', '.join(columns)}) FROM STDIN", encode_rows(columns.values()))
    return staged


def _upsert(target: Target, source: str, *, keeps_player: bool) -> str:
    columns = ", ".join(target.columns)
    unchanged = target.key + target.kept + (("user_id",) if keeps_player else ())
    changing = [name for name in target.columns if name not in unchanged]
    compared = [name for name in changing if name != "updated_at"]
    return f"""
        INSERT INTO {target.table} ({columns})
        SELECT {columns} FROM {source} ORDER BY {target.order or ", ".join(target.key)}
        ON CONFLICT {target.conflict} DO UPDATE
        SET {", ".join(f"{name} = EXCLUDED.{name}" for name in changing)}
        WHERE ({", ".join(f"{target.table}.{name}" for name in compared)})
            IS DISTINCT FROM ({", ".join(f"EXCLUDED.{name}" for name in compared)})"""


def encode_rows(columns: Iterable[Sequence[Any]]) -> io.StringIO:
    """Return rows in the text format of COPY, from the values of each column."""
    rows = zip(*map(_encode_column, columns), strict=True)
    return io.StringIO("\n".join(map("\t".join, rows)) + "\n")


def _encode_column(column: Sequence[Any]) -> Iterable[str]:
    """Encode the values of a column by their exact type: isinstance checks take four times as long."""
    kinds = set(map(type, column))
    if len(kinds) > 1:
        return [_ENCODERS[type(value)](value) for value in column]
    encode = _ENCODERS[kinds.pop()]
    if encode is not _encode_time:
        return map(encode, column)
    # Many rows of one load have the same time. Finding an encoded time in a dict is faster than encoding it
    # again.
    encoded = {time: encode(time) for time in set(column)}
    return map(encoded.__getitem__, column)


def _escape(text: str) -> str:
    if text.isalnum():
        return text
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


class _Encoders(dict[type, Callable[[Any], str]]):
    """Maps a type to the encoder of its values. A subclass has the encoder of its base class."""

    def __missing__(self, kind: type) -> Callable[[Any], str]:
        for base in kind.__mro__[1:]:
            if base in self:
                self[kind] = self[base]
                return self[kind]
        raise TypeError(f"a bulk load cannot encode values of type {kind.__name__}")


_encode_time = methodcaller("isoformat")

_ENCODERS = _Encoders(
    {
        type(None): lambda _: "\\N",
        str: _escape,
        int: str,
        Decimal: str,
        UUID: attrgetter("hex"),
        date: _encode_time,
        datetime: _encode_time,
        dict: lambda document: _escape(json.dumps(document)) if document else "{}",
        tuple: lambda texts: _escape("{" + ",".join(map(quote_element, texts)) + "}"),
    }
)


# -- keys that a constraint refuses -------------------------------------------------------

_COLUMNS = """ARRAY(SELECT attname::text FROM unnest({numbers}) WITH ORDINALITY AS k (number, place)
                  JOIN pg_attribute ON attrelid = {table} AND attnum = number ORDER BY place)"""
FIND_CONSTRAINT = f"""
    SELECT contype = 'f', confrelid::regclass::text, {_COLUMNS.format(numbers="conkey", table="conrelid")},
           {_COLUMNS.format(numbers="confkey", table="confrelid")}
    FROM pg_constraint WHERE conrelid = to_regclass(%s) AND conname = %s AND contype IN ('f', 'p', 'u')"""


def find_refused_key(
    database: Database, target: Target, constraint: str | None, records: Sequence[Any]
) -> dict[str, str]:
    """Return the columns and values of the first record that violates a constraint, or {} if there is none.

    The server's error has these values too, but the server hides them from a role under row security.
    """
    found = database.execute_sql(FIND_CONSTRAINT, (target.table, constraint)).fetchone()
    if found is None:
        return {}
    is_reference, referenced, columns, referenced_columns = found
    names = ", ".join(dict.fromkeys((*columns, *target.key)))
    given = _list_names("given", columns)
    if is_reference:
        there = f"SELECT FROM {referenced} o WHERE ({_list_names('o', referenced_columns)}) = ({given})"
        refused = f"NOT EXISTS ({there})"
    else:
        # The values are refused if another row has them: a row of the table, or another given record.
        rows = f"SELECT {names} FROM {target.table} UNION ALL SELECT {names} FROM given"
        refused = f"""EXISTS (SELECT FROM ({rows}) o WHERE ({_list_names("o", columns)}) = ({given})
                      AND ({_list_names("o", target.key)}) <> ({_list_names("given", target.key)}))"""
    statement = f"""
        WITH given AS (SELECT * FROM json_populate_recordset(NULL::{target.table}, %s) WITH ORDINALITY)
        SELECT {", ".join(f"{name}::text" for name in columns)} FROM given
        WHERE {refused} ORDER BY ordinality LIMIT 1"""
    documents = [{name: getattr(record, name) for name in (*columns, *target.key)} for record in records]
    row = database.execute_sql(statement, (json.dumps(documents, default=str),)).fetchone()
    return {} if row is None else dict(zip(columns, row, strict=True))


def _list_names(table: str, names: Iterable[str]) -> str:
    return ", ".join(f"{table}.{name}" for name in names)


class UserRow(StoredUser, frozen=True):
    """A row of `users` to write: a user with the index of the e-mail address."""

    email_index: str | None


class StoredEmail(NamedTuple):
    """The id and the encrypted e-mail address of a stored user."""

    user_id: UUID
    email: str | None
    email_index: str | None


# A username that is stored already keeps the id of its user.
CLAIM_USERNAMES = """
    INSERT INTO usernames (id, username) SELECT * FROM unnest(%s::uuid[], %s::text[]) AS given (id, username)
    ORDER BY username ON CONFLICT (username) DO NOTHING"""
FIND_CLAIMED = "SELECT username, id FROM usernames WHERE username = ANY(%s)"
FIND_EMAILS = "SELECT username, id, email, email_index FROM users WHERE username = ANY(%s)"
FIND_USER_IDS = "SELECT username, id FROM users WHERE username = ANY(%s)"


def find_emails(database: Database, usernames: Sequence[str]) -> dict[str, StoredEmail]:
    """Return the stored e-mail address of each of the usernames that exists, by username."""
    rows = database.execute_sql(FIND_EMAILS, (list(usernames),)).fetchall()
    return {username: StoredEmail(*row) for username, *row in rows}


def find_user_ids(database: Database, usernames: Sequence[str]) -> dict[str, UUID]:
    """Return the user id of each of the usernames that exists, in the order of `usernames`."""
    found = dict(database.execute_sql(FIND_USER_IDS, (list(usernames),)).fetchall())
    return {name: found[name] for name in usernames if name in found}


def _claim_usernames(database: Database, users: Sequence[Any]) -> dict[str, UUID]:
    """Insert usernames that are new, and return the stored user id of every username."""
    names = [user.username for user in users]
    database.execute_sql(CLAIM_USERNAMES, ([user.id for user in users], names))
    return dict(database.execute_sql(FIND_CLAIMED, (names,)).fetchall())


# All loads lock quests in the order of their ids, so that no two loads deadlock.
LOCK_QUESTS = "SELECT user_id FROM quests WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE"
# Citus cannot change the `user_id` of a row, because it is the distribution column. So a row that moves to
# another player is deleted before it is inserted.
DELETE_MOVED = """
    DELETE FROM {table} WHERE id = ANY(%(ids)s::uuid[])
    AND (id, user_id) NOT IN (SELECT * FROM unnest(%(ids)s::uuid[], %(owners)s::uuid[])) RETURNING user_id"""


def lock_quest_owners(database: Database, quests: Sequence[Quest]) -> set[UUID]:
    """Lock the stored quests with the ids of `quests` until the transaction ends; return their players.

    If tables are distributed, no quest is locked. Instead, the quests that move to another player are
    deleted, and their previous players are returned.
    """
    if is_distributed(database):
        return delete_moved(database, QUESTS, quests)
    ids = [quest.id for quest in quests]
    return {owner for (owner,) in database.execute_sql(LOCK_QUESTS, (ids,)).fetchall()}


def delete_moved(database: Database, target: Target, records: Sequence[Any]) -> set[UUID]:
    """Delete the stored rows that now belong to another player, and return their previous players.

    Does nothing if tables are not distributed.
    """
    if not is_distributed(database):
        return set()
    parameters = {
        "ids": [record.id for record in records],
        "owners": [record.user_id for record in records],
    }
    rows = database.execute_sql(DELETE_MOVED.format(table=target.table), parameters).fetchall()
    return {owner for (owner,) in rows}
