"""Statements on `users`, and the condition that finds a name by its prefix.

PostgreSQL changes the names and the prefix to lower case, because Python's `lower` returns other letters for
some names (a final sigma, the dotted I). In some locales PostgreSQL's `lower` depends on the position of a
letter: a capital sigma becomes a final sigma at the end of a word. But the end of a prefix need not be the
end of a word in the name. So a sigma in a prefix matches every form of the letter.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg2.extras import Json

from core.database import Database
from core.queries.rows import (
    count_changed,
    fetch_all,
    fetch_number,
    find_one,
    is_distributed,
    list_columns,
    make_builder,
)
from core.records import freeze
from core.records.game import StoredUser

_SIGMAS = "\u03a3\u03c3\u03c2"
_FINAL, _SMALL = "\u03c2", "\u03c3"
_CONDITION = re.compile(r"lower\((?P<column>[a-z.]+)\) LIKE lower\(%\(pattern\)s\)")


class Prefix(NamedTuple):
    """The parameters of a search by prefix: two patterns of LIKE.

    In `pattern`, a wildcard replaces each sigma after the first letter. `exact` contains the sigmas
    themselves.
    """

    pattern: str
    exact: str

    def refine(self, statement: str) -> str:
        """Return the statement, with a stricter condition if `pattern` has a wildcard for a sigma."""
        if self.pattern == self.exact:
            return statement
        return _CONDITION.sub(_refine, statement)


def build_prefix(text: str) -> Prefix:
    """Return the parameters of a search for names that begin with `text`."""
    exact = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    # Replace each sigma by the wildcard `_`, except as the first letter: `lower` changes a sigma to another
    # form at the end of a word only. The characters before the first wildcard limit the range of the index.
    pattern = exact[:1] + re.sub(f"[{_SIGMAS}]", "_", exact[1:])
    return Prefix(pattern, exact)


def match_prefix(column: str) -> str:
    """Return the SQL condition that a column begins with the prefix. It uses the index on `lower(column)`."""
    return f"lower({column}) LIKE lower(%(pattern)s)"


def _refine(condition: re.Match[str]) -> str:
    name, wanted = (
        f"translate(lower({text}), '{_FINAL}', '{_SMALL}')" for text in (condition["column"], "%(exact)s")
    )
    return f"{condition[0]} AND {name} LIKE {wanted}"


# `users_search` cannot form the upper bound of its range if the prefix has no other character than this one.
_LAST_CHARACTER = "\U0010ffff"
COLUMNS = list_columns(StoredUser)

FIND_BY_ID = f"SELECT {COLUMNS} FROM users WHERE id = %s"
FIND_MANY = f"SELECT {COLUMNS} FROM users WHERE id = ANY(%s::uuid[])"
FIND_BY_USERNAME = f"SELECT {COLUMNS} FROM users WHERE username = %s"
# Each branch of the UNION reads its own index in order and stops at the limit.
SEARCH = f"""
    SELECT {COLUMNS} FROM (
        (SELECT {COLUMNS} FROM users WHERE {match_prefix("username")}
         ORDER BY lower(username) USING ~<~, id LIMIT %(limit)s)
        UNION
        (SELECT {COLUMNS} FROM users WHERE {match_prefix("name")}
         ORDER BY lower(name) USING ~<~, id LIMIT %(limit)s)
    ) AS found
    ORDER BY lower(username) USING ~<~, id LIMIT %(limit)s"""
# Runs SEARCH as a function of the migrations, which plans it once per connection: planning takes as long as
# running it. The function does not support prefixes with a sigma.
SEARCH_PLANNED = f"SELECT {COLUMNS} FROM users_search(%s, %s)"
INSERT = f"""
    INSERT INTO users (id, username, name, email, email_index, preferences)
    VALUES (%(id)s, %(username)s, %(name)s, %(email)s, %(email_index)s, %(preferences)s)
    RETURNING {COLUMNS}"""
UPDATE = f"UPDATE users SET {{changes}}, updated_at = now() WHERE id = %(id)s RETURNING {COLUMNS}"
LIST = f"""
    SELECT {COLUMNS} FROM users WHERE %(after)s::uuid IS NULL OR id > %(after)s::uuid
    ORDER BY id LIMIT %(limit)s"""
MOST_ACTIVE = f"""
    SELECT {COLUMNS} FROM users WHERE last_active IS NOT NULL
    ORDER BY last_active DESC NULLS LAST LIMIT %s"""
TOUCH = "UPDATE users SET last_active = %s WHERE id = %s"
TOUCH_MANY = """
    UPDATE users u SET last_active = b.seen_at
    FROM (SELECT * FROM unnest(%s::uuid[], %s::timestamptz[]) AS b (id, seen_at) ORDER BY id) b
    WHERE u.id = b.id AND (u.last_active IS NULL OR u.last_active < b.seen_at) RETURNING u.id"""
COUNT_KEYS = "SELECT split_part(email, '.', 2), count(*) FROM users WHERE email IS NOT NULL GROUP BY 1"
LIST_OTHER_KEYS = """
    SELECT id, email FROM users
    WHERE split_part(email, '.', 2) <> %(current)s AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
    ORDER BY id LIMIT %(limit)s"""
# Changes only rows whose address is still the one that was read (`before`).
REPLACE_EMAILS = """
    UPDATE users u SET email = b.email, email_index = b.email_index
    FROM (
        SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[])
            AS b (id, before, email, email_index)
        ORDER BY id
    ) b
    WHERE u.id = b.id AND u.email = b.before RETURNING u.id"""
DELETE = "DELETE FROM users WHERE id = %s"
# If tables are distributed, usernames are in a table of their own (core/database/citus.py).
CLAIM_USERNAME = "INSERT INTO usernames (id, username) VALUES (%(id)s, %(username)s);"
CHANGE_USERNAME = "UPDATE usernames SET username = %(username)s WHERE id = %(id)s;"
RELEASE_USERNAME = "DELETE FROM usernames WHERE id = %s"
LOCK = "SELECT FROM users WHERE id = %s FOR UPDATE"
FIND_BY_EMAIL = f"""
    SELECT {COLUMNS} FROM users WHERE email_index = ANY(%s) ORDER BY id LIMIT %s"""
ACTIVE_SINCE = "SELECT count(*) FROM users WHERE last_active >= %s"

build_user = make_builder(StoredUser, preferences=freeze)


def find_user(database: Database, user_id: UUID) -> StoredUser | None:
    """Return the user with this id, or None."""
    return find_one(database, build_user, FIND_BY_ID, (user_id,))


def find_users(database: Database, user_ids: Sequence[UUID]) -> tuple[StoredUser, ...]:
    """Return the users with these ids, in any order."""
    return fetch_all(database, build_user, FIND_MANY, (list(user_ids),))


def find_user_by_username(database: Database, username: str) -> StoredUser | None:
    """Return the user with exactly this username, or None."""
    return find_one(database, build_user, FIND_BY_USERNAME, (username,))


def search_users(database: Database, prefix: str, limit: int) -> tuple[StoredUser, ...]:
    """Return up to `limit` users whose username or name begins with `prefix` (case-insensitive)."""
    wanted = build_prefix(prefix)
    if wanted.pattern == wanted.exact and prefix.strip(_LAST_CHARACTER):
        return fetch_all(database, build_user, SEARCH_PLANNED, (prefix, limit))
    parameters = {**wanted._asdict(), "limit": limit}
    return fetch_all(database, build_user, wanted.refine(SEARCH), parameters)


def list_users_by_email(database: Database, indexes: Sequence[str], limit: int) -> tuple[StoredUser, ...]:
    """Return up to `limit` users with one of these blind indexes (`email_index`), ordered by id."""
    return fetch_all(database, build_user, FIND_BY_EMAIL, (list(indexes), limit))


def list_after(database: Database, after: UUID | None, limit: int) -> tuple[StoredUser, ...]:
    """Return up to `limit` users, ordered by id, after the id `after` (None: from the start)."""
    return fetch_all(database, build_user, LIST, {"after": after, "limit": limit})


def list_most_active(database: Database, limit: int) -> tuple[StoredUser, ...]:
    """Return up to `limit` users, ordered by the time of their last activity, latest first."""
    return fetch_all(database, build_user, MOST_ACTIVE, (limit,))


def count_active(database: Database, since: datetime) -> int:
    """Return how many users were active at or after the time `since`."""
    return fetch_number(database, ACTIVE_SINCE, (since,))


def insert_user(database: Database, values: Mapping[str, Any]) -> StoredUser:
    """Insert a user, given as values by column name, and return the user."""
    claim = CLAIM_USERNAME if is_distributed(database) else ""
    [user] = fetch_all(database, build_user, claim + INSERT, _adapt(values))
    return user


def update_user(database: Database, user_id: UUID, values: Mapping[str, Any]) -> StoredUser | None:
    """Change columns of a user, given as values by column name, and return the user, or None."""
    changes = ", ".join(f"{name} = %({name})s" for name in values)
    parameters = {**_adapt(values), "id": user_id}
    change = CHANGE_USERNAME if "username" in values and is_distributed(database) else ""
    return find_one(database, build_user, change + UPDATE.format(changes=changes), parameters)


def touch_user(database: Database, user_id: UUID, now: datetime) -> bool:
    """Set `last_active` of a user to `now`. Returns False if the user does not exist."""
    return count_changed(database, TOUCH, (now, user_id)) == 1


def touch_users(database: Database, seen: Mapping[UUID, datetime]) -> set[UUID]:
    """Set `last_active` of users, unless a later time is stored, and return the ids of the changed users."""
    ordered = sorted(seen.items())
    rows = database.execute_sql(
        TOUCH_MANY, ([user_id for user_id, _ in ordered], [moment for _, moment in ordered])
    ).fetchall()
    return {user_id for (user_id,) in rows}


class EmailChange(NamedTuple):
    """A user's encrypted e-mail address: `before` was read, `email` and `email_index` are to be stored."""

    user_id: UUID
    before: str
    email: str
    email_index: str


def count_keys(database: Database) -> dict[str, int]:
    """Return the number of e-mail addresses that each key has encrypted, by key id."""
    return dict(database.execute_sql(COUNT_KEYS).fetchall())


def list_other_keys(
    database: Database, current: str, after: UUID | None, limit: int
) -> tuple[tuple[UUID, str], ...]:
    """Return up to `limit` users whose e-mail address is encrypted with another key than `current`.

    Returns their ids and encrypted addresses, ordered by id, after the id `after` (None: from the start).
    """
    parameters = {"current": current, "after": after, "limit": limit}
    return fetch_all(database, lambda row: (row[0], row[1]), LIST_OTHER_KEYS, parameters)


def replace_emails(database: Database, changes: Sequence[EmailChange]) -> set[UUID]:
    """Store re-encrypted e-mail addresses, and return the ids of the changed users.

    An address that was changed after it was read is kept.
    """
    columns = tuple(map(list, zip(*changes, strict=True)))
    return {user_id for (user_id,) in database.execute_sql(REPLACE_EMAILS, columns).fetchall()}


def lock_user(database: Database, user_id: UUID) -> bool:
    """Lock a user until the transaction ends, and return whether the user exists.

    Other transactions cannot insert rows that refer to the user during this time.
    """
    return count_changed(database, LOCK, (user_id,)) == 1


def delete_user(database: Database, user_id: UUID) -> bool:
    """Delete a user and all rows that refer to the user, and return whether the user existed."""
    is_deleted = count_changed(database, DELETE, (user_id,)) == 1
    if is_distributed(database):
        # This also deletes the leaderboard entries of the user: in distributed tables they refer to
        # `usernames`.
        database.execute_sql(RELEASE_USERNAME, (user_id,))
    return is_deleted


def _adapt(values: Mapping[str, Any]) -> dict[str, Any]:
    parameters = dict(values)
    if "preferences" in parameters:
        parameters["preferences"] = Json(dict(parameters["preferences"]))
    return parameters
