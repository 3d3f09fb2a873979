"""Partition `ticks` by month, so that old history can be dropped without a scan.

Monthly partitions begin with the month of the first tick, but not earlier than two years ago. Older ticks,
such as imported history, are in `ticks_before`, which has no lower bound. The ranges have no gap, so a search
for the latest tick can go from the newest partition to the oldest and stop at the first hit. `ticks_default`
contains only ticks that are later than the last month. It is empty unless maintenance has stopped.

All rows, columns, checks and indexes are kept, also those of an adopted table, except unique indexes without
`timestamp`. Such indexes cannot exist on partitions, and `down` creates them again.

`symbols` lists every symbol that had ticks, with the month of its latest tick. Without this table, a query
for the symbols would plan and read every partition. Triggers add new symbols and update the month; the month
changes once a month per symbol. No trigger removes a symbol without ticks, because writers of ticks must be
blocked during the removal. The service does this during maintenance and when it deletes the ticks of a
symbol.
"""

import json
from datetime import UTC, datetime
from typing import Any

# Maximum number of monthly partitions before the current month. Planning a query on 24 monthly partitions
# takes about a millisecond.
MONTHS_BACK = 24
MONTHS_AHEAD = 2

COLUMNS = """
    SELECT quote_ident(attname) FROM pg_attribute
    WHERE attrelid = 'ticks'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    ORDER BY attnum"""
CHECKS = """
    SELECT quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'ticks'::regclass AND contype = 'c' ORDER BY conname"""
# For each index: the statement that creates it, and whether it can exist on partitions.
INDEXES = """
    SELECT COALESCE('ALTER TABLE ticks ADD CONSTRAINT ' || quote_ident(k.conname) || ' '
                    || pg_get_constraintdef(k.oid),
                    replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ')),
           NOT indisunique OR attnum = ANY (indkey)
    FROM pg_index
    JOIN pg_attribute ON attrelid = indrelid AND attname = 'timestamp'
    LEFT JOIN pg_constraint k ON k.conindid = indexrelid AND k.conrelid = indrelid AND k.contype IN ('p', 'u')
    WHERE indrelid = 'ticks'::regclass ORDER BY indexrelid"""
GRANTS = """
    SELECT privilege_type,
           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
           CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_class, aclexplode(relacl) WHERE oid = 'ticks'::regclass AND grantee <> relowner"""
SEQUENCES = """
    SELECT d.objid::regclass::text, quote_ident(attname), attidentity <> ''
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_attribute ON attrelid = d.refobjid AND attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refobjid = 'ticks'::regclass AND d.deptype IN ('a', 'i')"""
OWNER = "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = 'ticks'::regclass"
SYMBOLS = (
    "CREATE TABLE symbols (symbol text NOT NULL PRIMARY KEY, month timestamp with time zone NOT NULL)",
    "INSERT INTO symbols SELECT symbol, date_trunc('month', max(timestamp), 'UTC') FROM ticks GROUP BY 1",
    """CREATE FUNCTION ticks_note_symbols() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
           INSERT INTO symbols AS s (symbol, month)
           SELECT * FROM (
               SELECT symbol, date_trunc('month', max(timestamp), 'UTC') AS month FROM new_rows GROUP BY 1
           ) AS n
           WHERE NOT EXISTS (SELECT FROM symbols k WHERE k.symbol = n.symbol AND k.month >= n.month)
           ORDER BY symbol
           ON CONFLICT (symbol) DO UPDATE SET month = EXCLUDED.month WHERE s.month < EXCLUDED.month;
           RETURN NULL;
       END $$""",
    """CREATE TRIGGER ticks_inserted AFTER INSERT ON ticks REFERENCING NEW TABLE AS new_rows
       FOR EACH STATEMENT EXECUTE FUNCTION ticks_note_symbols()""",
    """CREATE FUNCTION ticks_note_move() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
           INSERT INTO symbols AS s (symbol, month)
           VALUES (NEW.symbol, date_trunc('month', NEW.timestamp, 'UTC'))
           ON CONFLICT (symbol) DO UPDATE SET month = EXCLUDED.month WHERE s.month < EXCLUDED.month;
           RETURN NEW;
       END $$""",
    # BEFORE, because an update that moves a row to another partition does not fire an AFTER trigger for
    # updates
    """CREATE TRIGGER ticks_moved BEFORE UPDATE OF symbol, timestamp ON ticks
       FOR EACH ROW EXECUTE FUNCTION ticks_note_move()""",
)
COPIED = "INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY INCLUDING STORAGE INCLUDING COMPRESSION"


def up(_migrator: Any, db: Any) -> None:
    """Copy the rows into partitions."""
    [(first,)] = query(db, "SELECT min(timestamp) FROM ticks WHERE timestamp > '-infinity'")
    kept_out = rebuild(db, partitions=list_partitions(first, datetime.now(UTC)))
    note = read_comment(db)
    note["not_on_partitions"] = kept_out
    write_comment(db, note)
    for statement in SYMBOLS:
        run(db, statement)


def down(_migrator: Any, db: Any) -> None:
    """Copy the rows back into one table."""
    rebuild(db, partitions=[])
    note = read_comment(db)
    for statement in note.pop("not_on_partitions"):
        run(db, statement)
    write_comment(db, note)
    run(db, "DROP TABLE symbols")
    run(db, "DROP FUNCTION ticks_note_symbols")
    run(db, "DROP FUNCTION ticks_note_move")


def list_partitions(first: datetime | None, now: datetime) -> list[tuple[str, str]]:
    """Return the name and bounds of each partition."""
    month = now.year * 12 + now.month - 1
    oldest = month if first is None else min(month, first.year * 12 + first.month - 1)
    oldest = max(oldest, month - MONTHS_BACK)
    months = range(oldest, month + MONTHS_AHEAD + 1)
    return [
        ("ticks_before", f"FOR VALUES FROM (MINVALUE) TO ('{begin(oldest)}')"),
        *((name(n), f"FOR VALUES FROM ('{begin(n)}') TO ('{begin(n + 1)}')") for n in months),
        ("ticks_default", "DEFAULT"),
    ]


def begin(month: int) -> str:
    """Return the start of a month as text; months are counted from the year 0."""
    return f"{month // 12:04}-{month % 12 + 1:02}-01 00:00:00+00"


def name(month: int) -> str:
    """Return the name of a month's partition."""
    return f"ticks_{month // 12:04}_{month % 12 + 1:02}"


def rebuild(db: Any, *, partitions: list[tuple[str, str]]) -> list[str]:
    """Replace `ticks` by a copy with these partitions, or without partitions if the list is empty.

    Returns statements that create the indexes which cannot exist on partitions.
    """
    run(db, "LOCK TABLE ticks IN ACCESS EXCLUSIVE MODE")
    columns = ", ".join(column for (column,) in query(db, COLUMNS))
    checks, indexes, grants = query(db, CHECKS), query(db, INDEXES), query(db, GRANTS)
    sequences, [(owner,)] = query(db, SEQUENCES), query(db, OWNER)
    note = read_comment(db)
    run(db, "ALTER TABLE ticks RENAME TO ticks_old")
    form = "PARTITION BY RANGE (timestamp)" if partitions else ""
    run(db, f"CREATE TABLE ticks (LIKE ticks_old {COPIED}) {form}")
    for table, bounds in partitions:
        run(db, f"CREATE TABLE {table} PARTITION OF ticks {bounds}")
        run(db, f"ALTER TABLE {table} OWNER TO {owner}")
    run(db, f"ALTER TABLE ticks OWNER TO {owner}")
    run(db, f"INSERT INTO ticks ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM ticks_old")
    for sequence, column, is_identity in sequences:
        keep_sequence(db, sequence, column, is_identity=is_identity)
    run(db, "DROP TABLE ticks_old")
    # add the checks after the copy: old rows may violate a check that is NOT VALID
    for check, condition in checks:
        run(db, f"ALTER TABLE ticks ADD CONSTRAINT {check} {condition}")
    for statement, fits in indexes:
        if fits or not partitions:
            run(db, statement)
    for privilege, grantee, option in grants:
        run(db, f"GRANT {privilege} ON ticks TO {grantee}{option}")
    write_comment(db, note)
    return [statement for statement, fits in indexes if not fits]


def keep_sequence(db: Any, sequence: str, column: str, *, is_identity: bool) -> None:
    """Let the new table continue the sequence of the old one."""
    if is_identity:
        run(
            db,
            f"""SELECT setval(pg_get_serial_sequence('ticks', '{column}'), last_value, is_called)
                FROM {sequence}""",
        )
    else:
        run(db, f"ALTER SEQUENCE {sequence} OWNED BY ticks.{column}")


def read_comment(db: Any) -> dict[str, Any]:
    """Return the record that the first migration stored in the table's comment."""
    [(comment,)] = query(db, "SELECT obj_description('ticks'::regclass, 'pg_class')")
    note: dict[str, Any] = json.loads(comment)
    return note


def write_comment(db: Any, note: dict[str, Any]) -> None:
    """Store the record in the table's comment."""
    run(db, "COMMENT ON TABLE ticks IS '{}'".format(json.dumps(note, sort_keys=True).replace("'", "''")))


def query(db: Any, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement without parameters."""
    rows: list[tuple[Any, ...]] = db.execute_sql(statement).fetchall()
    return rows


def run(db: Any, statement: str) -> None:
    """Run a statement without parameters."""
    db.execute_sql(statement.replace("%", "%%"))
