"""Accept symbols in the forms that vendors use, store a symbol's currency, and check the bars of ticks.

Valid symbols are for example `7203.T`, `^GSPC`, `BTC/USDT` and `NYSE:LMT`. A bar's open and close must lie
within its low and high. A check that existing rows break is enforced for new rows only.
"""

from typing import Any

SYMBOL = "symbol ~ '^[$^.@#/]?[A-Z0-9][A-Z0-9.^=/:&_@#$!+-]{0,31}$'"
SYMBOL_BEFORE = "symbol ~ '^[A-Z][A-Z0-9.-]{0,9}$'"
BAR = "low <= LEAST(open, price) AND high >= GREATEST(open, price)"
CURRENCY = "currency ~ '^[A-Z]{3,5}$'"


def up(_migrator: Any, db: Any) -> None:
    """Replace the check of symbols; add checks of prices and currencies, and the column `currency`."""
    drop_check(db, "ticks_symbol_format")
    add_check(db, "ticks_symbol_format", SYMBOL)
    add_check(db, "ticks_bar", BAR)
    db.execute_sql("ALTER TABLE symbols ADD COLUMN currency text")
    db.execute_sql(f"ALTER TABLE symbols ADD CONSTRAINT symbols_currency CHECK ({CURRENCY})")


def down(_migrator: Any, db: Any) -> None:
    """Drop what `up` added, and restore the stricter check of symbols.

    If existing rows break this check, it is enforced for new rows only.
    """
    db.execute_sql("ALTER TABLE symbols DROP COLUMN currency")
    drop_check(db, "ticks_bar")
    drop_check(db, "ticks_symbol_format")
    add_check(db, "ticks_symbol_format", SYMBOL_BEFORE)


def drop_check(db: Any, name: str) -> None:
    """Drop a check of `ticks`."""
    db.execute_sql(f"ALTER TABLE ticks DROP CONSTRAINT {name}")


def add_check(db: Any, name: str, condition: str) -> None:
    """Add a check to `ticks`; a check that existing rows break is enforced for new rows only."""
    db.execute_sql(f"ALTER TABLE ticks ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
    [(is_broken,)] = db.execute_sql(f"SELECT EXISTS (SELECT FROM ticks WHERE NOT ({condition}))").fetchall()
    if not is_broken:
        db.execute_sql(f"ALTER TABLE ticks VALIDATE CONSTRAINT {name}")
