"""Create the tables `users` and `ticks`, or adopt existing tables with these names.

Adoption keeps every row. Missing columns are added, and types are converted in place. Ticks of one symbol
with the same timestamp are moved apart by microseconds, because (symbol, timestamp) has to be unique. The
changes are recorded in the table's comment. With this record, `down` reverts an adopted table and drops only
a table that `up` created.

Tables of another application are refused. A table counts as another application's if objects such as foreign
keys, triggers or policies depend on it, or if only one of the two tables exists. The comment `echo-markets`
on a table overrides this check.
"""

import json
from typing import Any

USERS = {
    "id": "uuid NOT NULL DEFAULT gen_random_uuid()",
    "username": "text NOT NULL",
    "name": "text",
    "email": "text",
    "last_active": "timestamp with time zone",
    "preferences": "jsonb NOT NULL DEFAULT '{}'",
    "created_at": "timestamp with time zone NOT NULL DEFAULT now()",
    "updated_at": "timestamp with time zone NOT NULL DEFAULT now()",
}
TICKS = {
    "symbol": "text NOT NULL",
    "timestamp": "timestamp with time zone NOT NULL",
    "price": "numeric NOT NULL",
    "volume": "bigint NOT NULL DEFAULT 0",
    "bid": "numeric",
    "ask": "numeric",
    "change_24h": "numeric",
    "change_percent_24h": "numeric",
    "volatility": "numeric",
    "open": "numeric",
    "high": "numeric",
    "low": "numeric",
}
CHECKS = {
    "users": {"users_username_length": "char_length(username) BETWEEN 1 AND 50"},
    "ticks": {
        "ticks_symbol_format": "symbol ~ '^[A-Z][A-Z0-9.-]{0,9}$'",
        "ticks_price_positive": "price > 0 AND price < 'Infinity'",
        "ticks_volume_sign": "volume >= 0",
        "ticks_spread": "bid > 0 AND ask >= bid",
    },
}
INDEXES = {
    "users": {
        "users_username": "CREATE UNIQUE INDEX users_username ON users (username)",
        "users_username_prefix": (
            "CREATE INDEX users_username_prefix ON users (lower(username) text_pattern_ops)"
        ),
        "users_name_prefix": "CREATE INDEX users_name_prefix ON users (lower(name) text_pattern_ops)",
        "users_last_active": "CREATE INDEX users_last_active ON users (last_active DESC NULLS LAST)",
    },
    "ticks": {
        "ticks_symbol_timestamp": "CREATE UNIQUE INDEX ticks_symbol_timestamp ON ticks (symbol, timestamp)",
        "ticks_timestamp": "CREATE INDEX ticks_timestamp ON ticks USING brin (timestamp)",
    },
}


TABLES = {"users": USERS, "ticks": TICKS}
# The owner of a table requests its adoption with this comment on the table.
OURS = "echo-markets"
FIND = """
    SELECT c.relkind::text, pg_has_role(c.relowner, 'USAGE'), obj_description(c.oid, 'pg_class')
    FROM pg_class c WHERE c.relname = %s
    AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())"""
KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "p": "a partitioned table"}
# Lists the objects that show that a table belongs to another application, for the error message.
SIGNS = """
    SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass FROM pg_constraint
    WHERE contype = 'f' AND %(table)s::regclass IN (conrelid, confrelid)
    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger
    WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal
    UNION ALL SELECT 'rule ' || rulename FROM pg_rewrite WHERE ev_class = %(table)s::regclass
    UNION ALL SELECT 'row security' FROM pg_class WHERE oid = %(table)s::regclass AND relrowsecurity
    UNION ALL SELECT 'inheritance of ' || inhrelid::regclass FROM pg_inherits
    WHERE %(table)s::regclass IN (inhrelid, inhparent)"""
COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"""
REQUIRED = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attnotnull
      AND NOT atthasdef AND attidentity = '' ORDER BY attnum"""


def up(_migrator: Any, db: Any) -> None:
    """Create or adopt both tables."""
    found = {table: find(db, table) for table in TABLES}
    for table, there in found.items():
        if there is not None:
            check_ours(db, table, there, has_both=None not in found.values())
    for table, columns in TABLES.items():
        before = found[table]
        done = create(db, table, columns) if before is None else adopt(db, table, columns)
        done["comment"] = before and before["comment"]
        done["checks"] = add_checks(db, table)
        done["indexes"] = add_indexes(db, table)
        write_comment(db, table, json.dumps(done, sort_keys=True))


def down(_migrator: Any, db: Any) -> None:
    """Drop the tables that `up` created, and revert the tables that it adopted."""
    for table in ("ticks", "users"):
        [(comment,)] = db.execute_sql("SELECT obj_description(%s::regclass)", (table,)).fetchall()
        done = json.loads(comment)
        if done["created"]:
            db.execute_sql(f"DROP TABLE {table}")
            continue
        for name in done["indexes"]:
            db.execute_sql(f"DROP INDEX {name}")
        for name in done["checks"]:
            db.execute_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        if done["primary_key"]:
            db.execute_sql(f"ALTER TABLE {table} DROP CONSTRAINT {done['primary_key']}")
        for column in done["added"]:
            db.execute_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        for column in done["not_null"]:
            db.execute_sql(f"ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL")
        for column, before in done["defaults"].items():
            change = f"SET DEFAULT {before}" if before else "DROP DEFAULT"
            db.execute_sql(f"ALTER TABLE {table} ALTER COLUMN {column} {change}")
        for column, before in done["retyped"].items():
            convert(db, table, column, before)
        # an earlier version of this migration did not store the comment
        write_comment(db, table, done.get("comment"))


def find(db: Any, table: str) -> dict[str, Any] | None:
    """Return the kind, ownership and comment of a relation in the current schema, or None.

    Relations in other schemas of the search path are ignored.
    """
    row = db.execute_sql(FIND, (table,)).fetchone()
    return row and dict(zip(("kind", "is_owned", "comment"), row, strict=True))


def check_ours(db: Any, table: str, here: dict[str, Any], *, has_both: bool) -> None:
    """Raise `RuntimeError` if a table cannot be adopted or belongs to another application.

    `here` is the result of `find`. `has_both` is true if both tables exist.
    """
    if here["kind"] != "r":
        refuse(table, f"is {KINDS.get(here['kind'], 'no table')}")
    if not here["is_owned"]:
        refuse(table, "belongs to another role")
    columns = {row[0] for row in db.execute_sql(COLUMNS, (table,)).fetchall()}
    for name, definition in TABLES[table].items():
        _, is_required, default = parse(definition)
        if name not in columns and is_required and default is None:
            refuse(table, f"has no column {name}")
    for (name,) in db.execute_sql(REQUIRED, (table,)).fetchall():
        if name not in TABLES[table]:
            refuse(table, f"has the column {name}, which every row needs and Echo Markets does not fill")
    if here["comment"] == OURS:
        return
    signs = [row[0] for row in db.execute_sql(SIGNS, {"table": table}).fetchall()]
    if not has_both:
        signs.append(f"it is there without {' and '.join(TABLES.keys() - {table})}")
    if signs:
        refuse(table, f"seems to be another application's ({', '.join(signs)})")


def refuse(table: str, reason: str) -> None:
    """Raise `RuntimeError` with the reason and the remedies."""
    raise RuntimeError(
        f"table {table} {reason}; give Echo Markets a schema of its own, ?options=-csearch_path%3DNAME in"
        f" the URL; if it is its own table, correct that and say so: COMMENT ON TABLE {table} IS '{OURS}'"
    )


def write_comment(db: Any, table: str, comment: str | None) -> None:
    """Set the comment of a table."""
    text = "NULL" if comment is None else "'" + comment.replace("'", "''").replace("%", "%%") + "'"
    db.execute_sql(f"COMMENT ON TABLE {table} IS {text}")


def create(db: Any, table: str, columns: dict[str, str]) -> dict[str, Any]:
    """Create a table with all its columns, and return the record for its comment."""
    body = ", ".join(f"{name} {definition}" for name, definition in columns.items())
    key = ", CONSTRAINT users_pkey PRIMARY KEY (id)" if table == "users" else ""
    db.execute_sql(f"CREATE TABLE {table} ({body}{key})")
    return {"created": True}


def adopt(db: Any, table: str, columns: dict[str, str]) -> dict[str, Any]:
    """Add and convert columns of an existing table, and return the record of the changes."""
    found = {
        name: (kind, not_null, default)
        for name, kind, not_null, default in db.execute_sql(COLUMNS, (table,)).fetchall()
    }
    done = {
        "created": False,
        "added": [],
        "retyped": {},
        "not_null": [],
        "defaults": {},
        "primary_key": None,
    }
    for name, definition in columns.items():
        kind, not_null, default = parse(definition)
        if name not in found:
            db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")
            done["added"].append(name)
            continue
        old_kind, was_not_null, old_default = found[name]
        if old_kind != kind:
            db.execute_sql(f"ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT")
            try:
                convert(db, table, name, kind)
            except Exception as error:  # each database driver has its own error classes
                reason = str(error).strip().splitlines()[0]
                refuse(table, f"has {name} as {old_kind}, which cannot become {kind} ({reason})")
            done["retyped"][name] = old_kind
        if default is not None and (old_default is None or old_kind != kind):
            db.execute_sql(f"ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {default}")
            done["defaults"][name] = old_default
        elif old_default is not None and old_kind != kind:
            done["defaults"][name] = old_default
        if not_null and not was_not_null:
            fill(db, table, name, default)
            db.execute_sql(f"ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL")
            done["not_null"].append(name)
    if table == "users" and not has_primary_key(db, table):
        db.execute_sql("ALTER TABLE users ADD CONSTRAINT users_pkey PRIMARY KEY (id)")
        done["primary_key"] = "users_pkey"
    if table == "ticks":
        separate_equal_timestamps(db)
    return done


def parse(definition: str) -> tuple[str, bool, str | None]:
    """Split a column definition into its type, whether it is required, and its default."""
    kind, _, default = definition.partition(" DEFAULT ")
    return kind.removesuffix(" NOT NULL"), kind.endswith(" NOT NULL"), default or None


def convert(db: Any, table: str, column: str, kind: str) -> None:
    """Change the type of a column. Times without a time zone are interpreted as UTC."""
    [(old_kind,)] = db.execute_sql(
        """SELECT format_type(atttypid, atttypmod) FROM pg_attribute
           WHERE attrelid = %s::regclass AND attname = %s""",
        (table, column),
    ).fetchall()
    zone = kind.startswith("timestamp") and old_kind.startswith("timestamp")
    using = f"{column} AT TIME ZONE 'UTC'" if zone else f"{column}::{kind}"
    db.execute_sql(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind} USING {using}")


def fill(db: Any, table: str, column: str, default: str | None) -> None:
    """Set NULLs in a required column to its default; raise `RuntimeError` if it has NULLs and no default."""
    if default is None and (table, column) == ("users", "username"):
        default = "'player-' || id"
    [(empty,)] = db.execute_sql(f"SELECT count(*) FROM {table} WHERE {column} IS NULL").fetchall()
    if empty and default is None:
        raise RuntimeError(f"{empty} rows of {table} have no {column}; set it, then migrate again")
    if empty:
        db.execute_sql(f"UPDATE {table} SET {column} = {default} WHERE {column} IS NULL")


def has_primary_key(db: Any, table: str) -> bool:
    """Return whether the table has a primary key."""
    return bool(
        db.execute_sql(
            "SELECT 1 FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'", (table,)
        ).fetchall()
    )


def separate_equal_timestamps(db: Any) -> None:
    """Move ticks back in time by microseconds, until no two ticks of a symbol have the same timestamp.

    Of ticks with the same timestamp, the last stored tick keeps its timestamp.
    """
    while True:
        moved = db.execute_sql(
            """UPDATE ticks SET timestamp = ticks.timestamp - n * interval '1 microsecond'
               FROM (SELECT ctid AS place,
                            row_number() OVER (PARTITION BY symbol, timestamp ORDER BY ctid DESC) - 1 AS n
                     FROM ticks) AS numbered
               WHERE ticks.ctid = numbered.place AND n > 0"""
        ).rowcount
        if not moved:
            return


def add_checks(db: Any, table: str) -> list[str]:
    """Add the constraints of a table, and return their names.

    A constraint that existing rows violate is enforced for new rows only.
    """
    for name, condition in CHECKS[table].items():
        db.execute_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
        [(broken,)] = db.execute_sql(
            f"SELECT EXISTS (SELECT FROM {table} WHERE NOT ({condition}))"
        ).fetchall()
        if not broken:
            db.execute_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
    return list(CHECKS[table])


def add_indexes(db: Any, table: str) -> list[str]:
    """Create the indexes of a table, and return their names.

    A unique index is not created if a unique index on the same columns exists.
    """
    names = []
    for name, statement in INDEXES[table].items():
        if " UNIQUE " in statement and has_unique_index(db, table, statement):
            continue
        db.execute_sql(statement)
        names.append(name)
    return names


def has_unique_index(db: Any, table: str, statement: str) -> bool:
    """Return whether a unique index without expressions or condition has the columns of `statement`."""
    columns = [part.strip() for part in statement.rpartition("(")[2].rstrip(")").split(",")]
    return bool(
        db.execute_sql(
            """SELECT 1 FROM pg_index WHERE indrelid = %s::regclass AND indisunique
               AND indpred IS NULL AND indexprs IS NULL AND
               (SELECT array_agg(attname::text ORDER BY place)
                FROM unnest(indkey) WITH ORDINALITY AS k (number, place)
                JOIN pg_attribute ON attrelid = indrelid AND attnum = number) = %s""",
            (table, columns),
        ).fetchall()
    )
