"""Add checks for values that the service never stores: invalid names, empty texts, and NaN.

PostgreSQL sorts NaN above all numbers, so a check for `>= 0` accepts it. Another program, or an earlier
release, may have stored such values. The migration then fails and names the rows. It does not correct them,
because only their owner knows the intended values. It does not add the checks for new rows only (NOT VALID)
either: an update of many rows would then fail at the first invalid row.
"""

from typing import Any

# A regular expression for a symbol in the text of an array. PostgreSQL writes quotes around the symbol NULL
# and around symbols with unusual characters.
SYMBOL = '"?[$^.@#/]?[A-Z0-9][A-Z0-9.^=/:&_@#$!+-]{0,31}"?'
CHECKS = {
    ("users", "users_username_printable"): r"username !~ '[\u0001-\u001F\u007F-\u009F\u2028\u2029]'",
    ("portfolios", "portfolios_numbers"): (
        "'NaN' NOT IN (starting_cash, current_cash, total_value, day_change, day_change_percent)"
    ),
    ("quests", "quests_texts"): (
        "type <> '' AND title <> '' AND reward_type <> '' AND char_length(description) BETWEEN 1 AND 10000"
    ),
    ("quests", "quests_numbers"): (
        "'NaN' NOT IN (target_value, current_progress) AND reward_value >= 0 AND reward_value <> 'NaN'"
    ),
    ("leaderboard_entries", "leaderboard_entries_category"): "category ~ '^[A-Za-z0-9_.-]{1,50}$'",
    ("leaderboard_entries", "leaderboard_entries_score"): "score <> 'NaN'",
    ("market_events", "market_events_texts"): (
        "type <> '' AND title <> '' AND char_length(description) BETWEEN 1 AND 10000"
    ),
    ("market_events", "market_events_symbols"): (
        "array_position(affected_symbols, NULL) IS NULL"
        rf" AND affected_symbols::text ~ '^\{{({SYMBOL}(,{SYMBOL})*)?\}}$'"
    ),
    ("market_events", "market_events_impact"): "impact_magnitude <> 'NaN'",
}


def up(_migrator: Any, db: Any) -> None:
    """Add the checks; raise when stored rows violate one."""
    for (table, name), condition in CHECKS.items():
        db.execute_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
        broken = f"{table} WHERE NOT ({condition})"
        [(rows, example)] = db.execute_sql(f"SELECT count(*), min(id::text) FROM {broken}").fetchall()
        if rows:
            raise RuntimeError(
                f"{rows} rows of {table} have values that the service refuses, such as the one with id"
                f" {example}; correct them, then migrate again; this lists them: SELECT * FROM {broken}"
            )
        db.execute_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def down(_migrator: Any, db: Any) -> None:
    """Drop the checks."""
    for table, name in CHECKS:
        db.execute_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
